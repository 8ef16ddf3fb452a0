"""Folders of diffusers that hold a UNet2DModel of the google/ddpm-* or google/ncsnpp-* kind: in and out."""

import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from utils.config import Config, DiffusionConfig
from utils.diffusers_keys import Structure, key_pairs, modern
from utils.diffusers_scheduler import read_clip, say_unused
from utils.files import write_atomically
from utils.quote import plain
from utils.tensor_file import Stored, is_tensor, open_tensors

_WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")

_DEFAULTS = {  # of UNet2DModel, for fields that a config.json leaves out
    "in_channels": 3,
    "out_channels": 3,
    "center_input_sample": False,
    "time_embedding_type": "positional",
    "time_embedding_dim": None,
    "freq_shift": 0,
    "flip_sin_to_cos": True,
    "layers_per_block": 2,
    "mid_block_type": "UNetMidBlock2D",
    "mid_block_scale_factor": 1,
    "downsample_padding": 1,
    "downsample_type": "conv",
    "upsample_type": "conv",
    "dropout": 0.0,
    "act_fn": "silu",
    "attention_head_dim": 8,
    "norm_num_groups": 32,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
_SHARED = {
    "time_embedding_dim": None,
    "mid_block_type": "UNetMidBlock2D",
    "downsample_type": "conv",
    "upsample_type": "conv",
    "act_fn": "silu",
    "attention_head_dim": None,
    "attn_norm_num_groups": None,
    "norm_eps": 1e-6,
    "resnet_time_scale_shift": "default",
    "add_attention": True,
    "class_embed_type": None,
    "num_class_embeds": None,
}
_NEEDED = {
    "ddpm_unet": {
        **_SHARED,
        "center_input_sample": False,
        "time_embedding_type": "positional",
        "freq_shift": 1,
        "flip_sin_to_cos": False,
        "mid_block_scale_factor": 1,
        "downsample_padding": 0,
        "norm_num_groups": 32,
    },
    "ncsnpp": {
        **_SHARED,
        "time_embedding_type": "fourier",
        "freq_shift": 0,
        "flip_sin_to_cos": True,
        "mid_block_scale_factor": math.sqrt(2),
        "norm_num_groups": None,
    },
}
"""What our network of each family has built in."""
_LARGEST = {"sample_size": 4096, "layers_per_block": 64, "in_channels": 1024, "out_channels": 1024}
_MOST_LEVELS, _WIDEST = 16, 2**16
_BLOCKS = {"ddpm_unet": "", "ncsnpp": "Skip"}
_SCHEDULES = {"linear": "linear", "scaled_linear": "quad", "squaredcos_cap_v2": "cosine"}
_VARIANCES = {k + end: k for k in ("fixed_small", "fixed_large", "learned_range") for end in ("", "_log")}
_PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def open_network(folder: Path) -> dict[str, Stored]:
    """Open the weights of a folder under their published names, none of them read yet.

    Keys that have no published name keep their own.

    Raises:
        ValueError: There are none, or they are broken or unsafe.
    """
    path = find_weights(folder)
    opened = open_tensors(path)
    state = opened.content
    if not isinstance(state, dict) or not all(is_tensor(tensor) for tensor in state.values()):
        raise ValueError(f"{path}: holds no state dict of diffusers")
    return to_published({str(key): opened.store(plain(key, 120), tensor) for key, tensor in state.items()})


def has_names_of_diffusers(keys: Collection[str]) -> bool:
    """Whether keys are those of a UNet2DModel."""
    return {"time_embedding.linear_1.weight", "conv_norm_out.weight"} <= set(keys)


def to_published(state: Mapping[str, Stored]) -> dict[str, Stored]:
    """Give the tensors of diffusers their published names and shapes; those that have none keep theirs."""
    theirs = {modern(key): stored for key, stored in state.items()}
    family = "ncsnpp" if "time_proj.weight" in theirs else "ddpm_unet"
    named = {}
    for key, name in key_pairs(family, Structure.of(theirs)).items():
        if name in theirs:
            named[key] = _to_published(key, theirs.pop(name))
    return named | theirs


def _to_published(key: str, stored: Stored) -> Stored:
    if key.endswith(".W") and len(stored.shape) == 2:  # of NIN; the Fourier table has one dimension
        return Stored(torch.Size(stored.shape[::-1]), lambda: stored.read().T)
    if key.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")) and len(stored.shape) == 2:
        shape = torch.Size((*stored.shape, 1, 1))
        return Stored(shape, lambda: stored.read().reshape(shape))
    return stored


def noise_levels(folder: Path, shape: torch.Size) -> Tensor:
    """Return the noise levels that score_sde stores and diffusers does not: sigma_max down to sigma_min."""
    facts = _read_json(_find(folder, "scheduler_config.json")) if _has_scheduler(folder) else {}
    ends = [facts.get(key) for key in ("sigma_max", "sigma_min")]
    if len(shape) != 1 or not all(isinstance(end, int | float) and end > 0 for end in ends):
        return torch.zeros(shape)  # the network itself does not read them
    return torch.linspace(*map(math.log, ends), shape[0], dtype=torch.float64).exp().float()


def find_config(folder: Path) -> Path:
    """Return the config.json of a folder.

    Raises:
        ValueError: There is none.
    """
    return _find(folder, "config.json")


def read_config(folder: Path, families: Mapping[str, type]) -> Config:
    """Read what a folder says of its network and of the schedule that it was trained on.

    Args:
        folder: As diffusers saves it, or its `unet` folder.
        families: Config dataclass of each network, by its name.

    Raises:
        ValueError: It is of another network or schedule than ours; every difference is listed.
    """
    path = _find(folder, "config.json")
    facts = _DEFAULTS | _read_json(path)
    family = "ncsnpp" if facts["time_embedding_type"] == "fourier" else "ddpm_unet"
    problems = _differences(family, facts)
    if problems:
        raise ValueError("\n".join([f"{path}: not a network of the kind {family}", *problems]))
    if not _has_scheduler(folder):
        raise ValueError(f"{folder}: has no scheduler_config.json; give a config, which names the schedule")
    path = _find(folder, "scheduler_config.json")
    scheduler = _read_json(path)
    try:
        model = families[family](**_model_fields(family, facts, scheduler))
        return Config(model=model, diffusion=_read_diffusion(family, path, scheduler))
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: incomplete or of another kind ({error})") from None


def _differences(family: str, facts: dict[str, Any]) -> list[str]:
    problems = [
        f"  {key}: found {facts[key]!r}, our network has {needed!r}"
        for key, needed in _NEEDED[family].items()
        if not _equal(facts[key], needed)
    ]
    widths, down, up = (facts.get(k) for k in ("block_out_channels", "down_block_types", "up_block_types"))
    if not all(isinstance(part, list) and part for part in (widths, down, up)):
        return [*problems, "  block_out_channels, down_block_types and up_block_types: expected lists"]
    if len(widths) > _MOST_LEVELS or any(type(n) is not int or not 1 <= n <= _WIDEST for n in widths):
        return [*problems, f"  block_out_channels: expected up to {_MOST_LEVELS} widths, whole numbers"]
    skip = _BLOCKS[family]
    allowed = (f"{skip}DownBlock2D", f"Attn{skip}DownBlock2D")
    if any(block not in allowed for block in down) or len(widths) != len(down):
        problems.append(f"  down_block_types: found {down}, allowed are {' and '.join(allowed)}, one a width")
    elif up != [block.replace("Down", "Up") for block in reversed(down)]:
        problems.append(f"  up_block_types: found {up}; they must mirror down_block_types {down}")
    if any(width % widths[0] for width in widths):
        problems.append(f"  block_out_channels: found {widths}, expected multiples of the first")
    elif family == "ncsnpp" and any(
        width < 128 and str(block).startswith("Attn") for width, block in zip(widths, down, strict=False)
    ):
        problems.append(
            "  block_out_channels: below 128, diffusers groups channels otherwise where it attends"
        )
    for key, most in _LARGEST.items():
        if type(facts.get(key)) is not int or not 1 <= facts[key] <= most:
            problems.append(f"  {key}: found {facts.get(key)!r}, expected a whole number from 1 to {most}")
    return problems


def _equal(found: Any, needed: Any) -> bool:
    if isinstance(needed, float) and isinstance(found, int | float):
        return math.isclose(found, needed, rel_tol=1e-6)
    return found == needed


def _model_fields(family: str, facts: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, Any]:
    widths, size = facts["block_out_channels"], facts["sample_size"]
    attends = [block.startswith("Attn") for block in facts["down_block_types"]]
    fields = {
        "image_size": size,
        "in_channels": facts["in_channels"],
        "out_channels": facts["out_channels"],
        "model_channels": widths[0],
        "channel_mult": tuple(width // widths[0] for width in widths),
        "num_res_blocks": facts["layers_per_block"],
        "attention_resolutions": tuple(size >> i for i, on in enumerate(attends) if on),
        "dropout": float(facts["dropout"]),
    }
    if family == "ncsnpp":
        fields |= {
            "centered": not facts["center_input_sample"],
            "num_scales": scheduler["num_train_timesteps"],
        }
    return fields


def _read_diffusion(family: str, path: Path, facts: dict[str, Any]) -> DiffusionConfig:
    if family == "ncsnpp":
        ends = {key: float(facts[key]) for key in ("sigma_min", "sigma_max")}
        steps = facts["num_train_timesteps"]
        return DiffusionConfig(process="ve", num_timesteps=steps, prediction="score", **ends)
    facts = {"prediction_type": "epsilon", "variance_type": "fixed_small", **facts}
    if facts.get("trained_betas") is not None or facts.get("rescale_betas_zero_snr"):
        raise ValueError(f"{path}: trained_betas and rescale_betas_zero_snr: not among our schedules")
    say_unused(path, facts)
    schedule = _translate(path, facts, "beta_schedule", _SCHEDULES)
    ends = {} if schedule == "cosine" else {key: float(facts[key]) for key in ("beta_start", "beta_end")}
    return DiffusionConfig(
        num_timesteps=facts["num_train_timesteps"],
        schedule=schedule,
        prediction=_translate(path, facts, "prediction_type", _PREDICTIONS),
        var_type=_translate(path, facts, "variance_type", _VARIANCES),
        clip=read_clip(path, facts),
        **ends,
    )


def _translate(path: Path, facts: dict[str, Any], key: str, table: dict[str, str]) -> str:
    if facts[key] not in table:
        raise ValueError(f"{path}: {key} {facts[key]!r}: allowed are {', '.join(table)}")
    return table[facts[key]]


def write_folder(folder: Path, family: str, config: Config, state: Mapping[str, Tensor]) -> None:
    """Write a network and its schedule as diffusers loads them.

    Args:
        folder: New or empty.
        family: ddpm_unet or ncsnpp.
        config: Of the network.
        state: Its weights, by published key.

    Raises:
        ValueError: diffusers has no such network or schedule, or the folder holds something.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: holds something; give a new folder")
    facts, scheduler = _unet_facts(family, config), _scheduler_facts(config)
    attention = frozenset(i for i, name in enumerate(facts["down_block_types"]) if name.startswith("Attn"))
    structure = Structure(len(facts["block_out_channels"]), config.model.num_res_blocks, attention)
    pairs = key_pairs(family, structure)
    theirs = {pairs[key]: _to_theirs(key, tensor) for key, tensor in state.items() if key != "sigmas"}
    index = {
        "_class_name": "DDPMPipeline" if family == "ddpm_unet" else "ScoreSdeVePipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_atomically(folder / "unet" / _WEIGHTS[0], save(theirs, {"format": "pt"}))
    for path, content in (
        ("unet/config.json", facts),
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
    ):
        write_atomically(folder / path, (json.dumps(content, indent=2) + "\n").encode())


def _to_theirs(key: str, tensor: Tensor) -> Tensor:
    if key.endswith(".W") and tensor.ndim == 2:
        return tensor.T.contiguous()
    if key.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")):
        return tensor.flatten(1).contiguous()
    return tensor.contiguous()


def _unet_facts(family: str, config: Config) -> dict[str, Any]:
    model = config.model
    if family not in _NEEDED:
        raise ValueError(f"diffusers has no network of the kind {family}; write a file instead of a folder")
    widths = [mult * model.model_channels for mult in model.channel_mult]
    attends = [model.image_size >> level in model.attention_resolutions for level in range(len(widths))]
    down = [("Attn" if on else "") + _BLOCKS[family] + "DownBlock2D" for on in attends]
    facts = {
        "_class_name": "UNet2DModel",
        "sample_size": model.image_size,
        "in_channels": model.in_channels,
        "out_channels": model.out_channels,
        "block_out_channels": widths,
        "layers_per_block": model.num_res_blocks,
        "down_block_types": down,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(down)],
        "dropout": model.dropout,
        **_NEEDED[family],
    }
    built_in = {"conv_resample": True}
    if family == "ncsnpp":
        facts |= {"center_input_sample": not model.centered, "downsample_padding": 1}
        built_in = {"progressive": "output_skip", "progressive_input": "input_skip", "fir": True}
        built_in |= {"skip_rescale": True, "scale_by_sigma": True}
    problems = [
        f"  {key}: found {getattr(model, key)!r}, diffusers has {value!r}"
        for key, value in built_in.items()
        if getattr(model, key) != value
    ]
    problems += _differences(family, facts)
    if problems:
        raise ValueError("\n".join(["diffusers has no such network; write a file instead", *problems]))
    return facts


def _scheduler_facts(config: Config) -> dict[str, Any]:
    diffusion = config.diffusion
    if diffusion.process == "ve" and diffusion.prediction == "score":
        ends = {"sigma_min": diffusion.sigma_min, "sigma_max": diffusion.sigma_max}
        steps = diffusion.num_timesteps
        return {"_class_name": "ScoreSdeVeScheduler", "num_train_timesteps": steps, **ends}
    names = {ours: theirs for theirs, ours in _SCHEDULES.items()}
    if diffusion.process == "ve" or diffusion.schedule not in names:
        raise ValueError(f"diffusers has no schedule {diffusion.schedule} of a {diffusion.process} process")
    ends = {"beta_start": diffusion.beta_start, "beta_end": diffusion.beta_end}
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion.num_timesteps,
        "beta_schedule": names[diffusion.schedule],
        **{key: value for key, value in ends.items() if value is not None},
        "prediction_type": {ours: theirs for theirs, ours in _PREDICTIONS.items()}[diffusion.prediction],
        "variance_type": diffusion.var_type,
        "clip_sample": diffusion.clip is not None,
        "clip_sample_range": 1.0 if diffusion.clip is None else diffusion.clip,
    }


def _find(folder: Path, name: str) -> Path:
    inner = "scheduler" if name.startswith("scheduler") else "unet"
    for path in (folder / name, folder / inner / name, folder.parent / inner / name):
        if path.is_file() and (path.parent != folder.parent / inner or folder.name in ("unet", "scheduler")):
            return path
    raise ValueError(
        f"{folder}: a folder without {name} or {inner}/{name}; give a checkpoint, or a folder of diffusers"
    )


def _has_scheduler(folder: Path) -> bool:
    try:
        _find(folder, "scheduler_config.json")
    except ValueError:
        return False
    return True


def find_weights(folder: Path) -> Path:
    """Return the file of a folder's weights.

    Raises:
        ValueError: There is none, or there are several.
    """
    inside = _find(folder, "config.json").parent
    for name in _WEIGHTS:
        if (inside / name).is_file():
            return inside / name
    if any(inside.glob("*.index.json")):
        raise ValueError(f"{inside}: its weights are in several files; save them again as one, {_WEIGHTS[0]}")
    raise ValueError(f"{inside}: has no {' or '.join(_WEIGHTS)}; download the whole folder")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: expected an object with fields, found a {type(facts).__name__}")
    return facts
