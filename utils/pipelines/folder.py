"""Folders of diffusers whose network is told a text: what they say of themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.config import Config, DiffusionConfig
from utils.pipelines.parts import find_part
from utils.quote import plain, quote
from utils.weights import build, read_diffusion, read_json

INDEX = "model_index.json"
NETWORK, ENCODERS = "UNet2DConditionModel", ("text_encoder", "text_encoder_2")
_CLIP = ("CLIPTextModel", "CLIPTextModelWithProjection")
_STRANGERS = {
    "controlnet": "a ControlNet, which is told a second picture",
    "transformer": "a transformer (Stable Diffusion 3, Flux and the like)",
    "prior": "a prior, which makes embeddings of pictures",
    "movq": "a decoder of Kandinsky",
    "text_encoder_3": "three text encoders (Stable Diffusion 3)",
}
"""Parts of pipelines that no network here has."""
_EULER = ("EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler")
_LCM = "LCMScheduler"
_ALLOWED = "give a folder of Stable Diffusion 1, 2 or XL, or of one distilled from them"


@dataclass(frozen=True, kw_only=True)
class PipelineConfig(Config):
    """A network that is told a text, and what stands around it."""

    autoencoder: Any
    """Its config."""
    texts: tuple[tuple[str, str], ...]
    """Folder and class of each text encoder."""
    zero_without: bool = False
    """Whether what it is told without a prompt is zeros, and not the states of an empty text."""
    scheduler: str
    """Class of the sampler that it was published with."""
    few_calls: bool = False
    """Whether it is distilled to a few calls without guidance."""

    told_text = True

    @property
    def channels(self) -> int:
        """Of pictures."""
        return self.autoencoder.in_channels

    @property
    def image_size(self) -> int:
        """Height and width of the pictures that it was trained on, in pixels."""
        return self.model.image_size * self.autoencoder.factor

    @property
    def factor(self) -> int:
        """Height and width in a picture of one pixel of a latent."""
        return self.autoencoder.factor

    @property
    def sampler(self) -> str:
        """Name of the sampler that it is best used with."""
        if not self.few_calls:
            return "dpm-solver++"
        return {_LCM: "consistency", _EULER[0]: "ddim", _EULER[1]: "ddpm"}[self.scheduler]

    @property
    def guidance_scale(self) -> float:
        """The usual one: 1, none, for what is distilled without."""
        if self.model.guidance_channels is not None:
            return 8.5
        return 1.0 if self.few_calls else 5.0 if self.model.told_pooled else 7.5


def is_pipeline(folder: Path) -> bool:
    """Whether a folder of diffusers holds more than a network and its scheduler."""
    if not folder.is_dir():
        return False
    unet = folder / "unet" / "config.json"
    if unet.is_file():
        return read_json(unet).get("_class_name") == NETWORK
    alone = folder / "config.json"
    if alone.is_file() and read_json(alone).get("_class_name") == NETWORK:
        raise ValueError(
            f"{folder}: a network alone that is told a text; give the folder around it, of {INDEX}, which "
            "also holds what reads texts"
        )
    return any((folder / name).is_dir() for name in (*_STRANGERS, *ENCODERS))


def read_config(index: Path, families: Mapping[str, type]) -> PipelineConfig:
    """Read what a folder says of its parts.

    Args:
        index: Its model_index.json.
        families: Config dataclass of each network, by its name.

    Raises:
        ValueError: A part is missing, or of another kind than those here.
    """
    folder = index.parent
    parts = read_json(index) if index.is_file() else {}
    _refuse_strangers(folder, parts)
    network, autoencoder = (read_json(_need(folder, part) / "config.json") for part in ("unet", "vae"))
    texts = tuple(_encoder(folder, name) for name in ENCODERS if (folder / name).is_dir())
    if not texts:
        raise ValueError(f"{folder}: has no {ENCODERS[0]}, which reads texts; download the whole folder")
    scheduler_path = _need(folder, "scheduler") / "scheduler_config.json"
    scheduler = read_json(scheduler_path)
    kind = scheduler.get("_class_name")
    vae = build(folder / "vae/config.json", families["autoencoder"], lambda: {"fields": _fields(autoencoder)})
    _check_network(folder, network, vae.latent_channels)
    unet = build(
        folder / "unet/config.json",
        families["text_unet"],
        lambda: {
            "image_size": network["sample_size"],
            "in_channels": network["in_channels"],
            "out_channels": network["out_channels"],
            "fields": _fields(network),
            "pixels": vae.factor,
        },
    )
    return PipelineConfig(
        model=unet,
        diffusion=build(scheduler_path, DiffusionConfig, lambda: {**read_diffusion(scheduler), "clip": None}),
        autoencoder=vae,
        texts=texts,
        zero_without=parts.get("force_zeros_for_empty_prompt") is True and len(texts) > 1,
        scheduler=kind if isinstance(kind, str) else "",
        few_calls=kind == _LCM or (kind in _EULER and scheduler.get("timestep_spacing") == "trailing"),
    )


def _refuse_strangers(folder: Path, parts: Mapping[str, Any]) -> None:
    for name, what in _STRANGERS.items():
        listed = parts.get(name)
        if (folder / name).is_dir() or (isinstance(listed, list) and any(listed)):
            raise ValueError(f"{folder}: has {what}, which is not supported; {_ALLOWED}")
    if parts.get("requires_aesthetics_score") is True:
        raise ValueError(
            f"{folder}: a refiner of SDXL, which is told a score; give the base network's folder"
        )


def _check_network(folder: Path, network: Mapping[str, Any], latent_channels: int) -> None:
    """Refuse networks that are told more than a text.

    Raises:
        ValueError: Such a network; the message says which.
    """
    found = network.get("in_channels")
    if found != latent_channels:
        kinds = {
            "9": "inpainting, told a mask and a masked picture",
            "5": "depth",
            "8": "instructions (pix2pix)",
        }
        kind = kinds.get(str(found), "another task")
        masks = "masks need no such network: give the text-to-image one with --mask_dir"
        raise ValueError(
            f"{folder}: its network takes {quote(found)} channels and its latents have {latent_channels}: it "
            f"is one of {kind}; {masks if found == 9 else _ALLOWED}"
        )
    for name in ("class_embed_type", "num_class_embeds", "encoder_hid_dim_type"):
        if network.get(name) is not None:
            raise ValueError(
                f"{folder}: unet/config.json: {name} {quote(network[name])} is not supported; {_ALLOWED}"
            )
    if network.get("addition_embed_type") not in (None, "text_time"):
        raise ValueError(
            f"{folder}: unet/config.json: addition_embed_type {quote(network['addition_embed_type'])}: "
            "allowed are null and text_time"
        )


def _encoder(folder: Path, name: str) -> tuple[str, str]:
    """Return folder and class of a text encoder."""
    facts = read_json(folder / name / "config.json")
    found = facts.get("architectures")
    kind = found[0] if isinstance(found, list) and found else None
    if kind not in _CLIP:
        raise ValueError(
            f"{folder / name}: a text encoder of the kind {quote(kind)}; allowed are {' and '.join(_CLIP)}"
        )
    return name, kind


def _need(folder: Path, part: str) -> Path:
    path = folder / part
    if not path.is_dir():
        raise ValueError(f"{folder}: has no {part}; download the whole folder")
    return path


def _fields(facts: Mapping[str, Any]) -> list[str]:
    """Return what diffusers is told, as it is told."""
    told = {key: value for key, value in facts.items() if not key.startswith("_")}
    return [f"{plain(key, 60)}: {json.dumps(value)}" for key, value in told.items()]


def find_files(folder: Path) -> list[Path]:
    """Return the files of weights that a pipeline consists of.

    Raises:
        ValueError: One is missing, or in several files.
    """
    return [find_part(folder / name) for name in ("unet", "vae", *ENCODERS) if (folder / name).is_dir()]
