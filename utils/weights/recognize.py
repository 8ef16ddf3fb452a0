"""Whose weights a checkpoint holds: the family by its keys, the config by their shapes."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from utils.config import Config, load_config
from utils.quote import plain
from utils.weights import diffusers_folder
from utils.weights.checkpoint import Checkpoint, describe_mismatch, shapes_of
from utils.weights.layout import Candidate, Shapes, is_average

CONFIGS = Path(__file__).resolve().parents[2] / "configs"

_FAMILIES = (  # the first whose keys are all there; a dot at the end stands for any rest
    ("glide", ("input_blocks.0.0.weight", "transformer_proj.weight", "token_embedding.weight")),
    ("adm", ("input_blocks.0.0.weight", "middle_block.1.qkv.weight", "output_blocks.")),
    ("adm_classifier", ("input_blocks.0.0.weight", "middle_block.1.qkv.weight", "out.")),
    ("ddib_mlp", ("time_embed.0.weight", "input_blocks.0.0.weight", "output_blocks.0.0.in_layers.2.weight")),
    ("ddpm_unet", ("temb.dense.0.weight", "conv_in.weight")),
    ("edm2_unet", ("emb_noise.weight", "out_gain", "out_conv.weight")),
    ("lucidrains_unet", ("init_conv.weight", "time_mlp.1.weight", "mid_attn.mem_kv")),
    ("mixer", ("conv_in.weight", "blocks.0.patch_mixer.layers.0.weight")),
    ("ncsnpp", ("all_modules.0.W", "all_modules.3.weight")),
    ("song_unet", ("map_layer0.weight", "map_layer1.weight", "enc.")),
    ("xyf_adagn", ("first_conv.weight", "down_blocks.0.0.adagn.gn.weight")),
    ("xyf_unet", ("first_conv.weight", "down_blocks.0.0.blk1.0.weight")),
    ("point_mlp", ("time_embed.0.weight", "input.weight", "blocks.0.0.weight")),
)
_PRECONDITIONED = {"EDMPrecond": "edm", "Precond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
"""Preconditioning in configs, by the class of NVlabs' programs around a network."""
_TOOL = "python -m tools.describe FILE"
_WRITE = f"write a config for them: {_TOOL} prints one"
_STRANGERS = (
    ("a latent diffusion model, which works on codes instead of pixels", "model.diffusion_model."),
    ("a latent autoencoder, not a diffusion model", "encoder.down."),
    ("a LoRA, which changes another network; merge it first", ".lora_"),
)


def read_config(path: Path, families: Mapping[str, type], overrides: list[str] | None = None) -> Config:
    """Read a config: a YAML file of ours, or the config.json of a folder of diffusers.

    Args:
        path: The file.
        families: Config dataclass of each network, by the name in configs.
        overrides: Texts 'key=value', for YAML files.

    Raises:
        ValueError: The config is wrong, or of another network or schedule than ours.
    """
    if path.suffix != ".json":
        return load_config(path, families, overrides)
    if overrides:
        raise ValueError(
            f"{path}: nothing can be overridden here; convert the folder with tools.convert first"
        )
    return diffusers_folder.read_config(path.parent, families)


def family(keys: Iterable[str]) -> str | None:
    """Return the name in configs of the network that has such keys, or None for a stranger."""
    keys = set(keys)
    for name, needed in _FAMILIES:
        if all(_has(keys, key) for key in needed):
            return name
    return None


def _has(keys: set[str], wanted: str) -> bool:
    if wanted.endswith("."):
        return any(key.startswith(wanted) for key in keys)
    return wanted in keys


def stranger(keys: Iterable[str]) -> str:
    """Say what keys of no family of ours look like."""
    keys = list(keys)
    for what, mark in _STRANGERS:
        if any(key.startswith(mark) or (mark.startswith(".") and mark in key) for key in keys):
            return what
    first = ", ".join(plain(key, 60) for key in keys[:3])
    return f"a network of none of our families; its keys begin {first}" if keys else "nothing"


def known_networks(checkpoint: Checkpoint) -> list[tuple[str, dict[str, torch.Size]]]:
    """Return what in a checkpoint may be networks of our families: family and shapes, the likeliest first."""
    return [(name, shapes_of(view)) for view in checkpoint.views() if (name := family(view))]


class Shelf:
    """The shipped configs, with the tensors of their networks, each made when it is asked for."""

    def __init__(
        self, families: Mapping[str, type], build: Callable[[Any], nn.Module], folder: Path = CONFIGS
    ):
        """
        Args:
            families: Config dataclass of each network, by the name in configs.
            build: Makes a network of such a config, without memory.
            folder: Searched for configs, recursively.
        """
        self._families, self._build, self._folder = families, build, folder
        self._shapes: dict[Any, dict[str, torch.Size]] = {}
        self._configs: dict[Path, Config] | None = None

    def shapes(self, model: Any) -> dict[str, torch.Size]:
        """Return the shape of every tensor of a network, by state-dict key, without allocating it."""
        plain = _without_dropout(model)
        if plain not in self._shapes:
            state = self._build(model).state_dict()
            self._shapes[plain] = {key: tensor.shape for key, tensor in state.items()}
        return self._shapes[plain]

    def find(self, checkpoint: Checkpoint, hint: str = "") -> Path:
        """Find the config that a checkpoint was trained with.

        Several configs may have the same network. Then that whose name the file's name contains is
        taken, or the noise levels in the file decide, or any where they sample alike.

        Args:
            checkpoint: Of a network.
            hint: A config's name that the checkpoint is known by, if any.

        Returns:
            The config's path; for a folder of diffusers that of its config.json. See `read_config`.

        Raises:
            ValueError: It is of no known network, or of several that sample differently.
        """
        if checkpoint.path.is_dir():
            return diffusers_folder.find_config(checkpoint.path)
        found = self._fitting(checkpoint)
        if not found or _lacks_levels(found):
            raise ValueError(f"{checkpoint.path}: no config for these weights: {self.describe(checkpoint)}")
        return self._tell_apart(checkpoint, found, hint)

    def matching(self, checkpoint: Checkpoint) -> list[Path]:
        """Return the configs whose network has exactly the tensors of a checkpoint, or its first network."""
        return list(self._fitting(checkpoint))

    def _fitting(self, checkpoint: Checkpoint) -> dict[Path, Candidate]:
        """Return the configs that fit the likeliest place of a checkpoint where one fits, with that place."""
        if not checkpoint.has_names:
            return {path: place for path, shapes in self._all() if (place := _as_listed(checkpoint, shapes))}
        found = {}
        for name in dict.fromkeys(family(view) for view in checkpoint.views()):
            for path, shapes in self._all(name) if name else ():
                without = {key: shape for key, shape in shapes.items() if key != "sigmas"}
                places = checkpoint.fits(shapes) or ("sigmas" in shapes and checkpoint.fits(without))
                found |= {path: min(places, key=_rank)} if places else {}
        first = min(map(_rank, found.values()), default=None)
        return {path: place for path, place in found.items() if _rank(place) == first}

    def describe(self, checkpoint: Checkpoint, given: Shapes | None = None) -> str:
        """Say what a checkpoint is, for a message: its config, or its family and the nearest config.

        Args:
            checkpoint: Of a network.
            given: Shapes of a config's network that it does not fit, whose differences are named beside.
        """
        if checkpoint.path.is_dir():
            return "read its config.json by leaving -c out"
        found = self._fitting(checkpoint)
        if found and _lacks_levels(found):
            return (
                f"they are of {_list([*found])}, saved by diffusers; give the folder with their config.json"
            )
        if found:
            return f"they are of {_list([*found])}; give it with -c, or leave -c out"
        known = known_networks(checkpoint)
        if not known:
            views = checkpoint.views()
            return f"they are {stranger(views[0])}" if views else "a list of tensors that fits no config"
        return self._nearest(*known[0], given)

    def _nearest(self, name: str, own: Shapes, given: Shapes | None) -> str:
        """Say how weights of a known family differ from every config."""
        if name == "glide" and own["input_blocks.0.0.weight"][1] not in (3, 6):
            return (
                "they are of GLIDE's inpainting, told a masked picture: masks need no such network, give "
                "base.pt with --mask_dir"
            )
        if name not in self._families:
            return f"they are of the family {name}, a network for points, and configs are of those for images"
        candidates = list(self._all(name))
        if not candidates:
            return f"they are of a network of the family {name}, for which there are no configs; {_WRITE}"
        path, shapes = min(candidates, key=lambda pair: _distance(own, pair[1]))
        if given is not None and _distance(own, given) < 1:
            return f"they are of the family {name}; change in the config what these tensors tell ({_TOOL})"
        if given is not None:
            return f"they are of the family {name}; the nearest config is {path}, not the given one"
        differences = "\n".join(describe_mismatch(own, shapes))
        return (
            f"they are of the family {name}, but of another size than every config; the nearest is {path}:\n"
            + (differences + f"\n{_WRITE}")
        )

    def _all(self, name: str = "") -> Iterable[tuple[Path, dict[str, torch.Size]]]:
        """Yield each config of a family, or of all, with its network's shapes."""
        if self._configs is None:
            paths = sorted(self._folder.rglob("*.yaml"))
            self._configs = {path: load_config(path, self._families) for path in paths}
        names = {cls: key for key, cls in self._families.items()}
        for path, config in self._configs.items():
            if name in ("", names[type(config.model)]):
                yield path, self.shapes(config.model)

    def _tell_apart(self, checkpoint: Checkpoint, places: dict[Path, Candidate], hint: str) -> Path:
        found = self._made_alike(checkpoint, list(places))
        known = [path for path in found if hint and path == self._folder / f"{hint}.yaml"]
        if known:
            return known[0]
        alike = [path for path in found if self._samples_as(found[0], path)]
        stem = checkpoint.path.stem
        named = [path for path in found if path.stem == stem] or [path for path in found if path.stem in stem]
        if named and all(self._samples_as(named[0], path) for path in named):
            return named[0]
        by_noise = [path for path in found if self._has_noise_of(places[path], path)]
        if by_noise and all(self._samples_as(by_noise[0], path) for path in by_noise):
            return by_noise[0]
        levels = places[found[0]].named.get("sigmas")
        if not by_noise and levels is not None and (largest := levels.read().max()) > 0:
            raise ValueError(
                f"{checkpoint.path}: its tensors are those of {_list(found)}, but its noise levels reach "
                f"{largest:g}; {_WRITE}"
            )
        if len(alike) == len(found):
            return found[0]
        raise ValueError(
            f"{checkpoint.path}: these weights fit several configs that sample differently: {_list(found)}; "
            "give the right one with -c"
        )

    def _samples_as(self, path: Path, other: Path) -> bool:
        a, b = self._configs[path], self._configs[other]
        plain = [_without_dropout(config.model) for config in (a, b)]
        return plain[0] == plain[1] and dataclasses.replace(a, model=None) == dataclasses.replace(
            b, model=None
        )

    def _made_alike(self, checkpoint: Checkpoint, found: list[Path]) -> list[Path]:
        """Return the configs with what surrounds the network of a pickle, all for any other file."""
        wanted = _PRECONDITIONED.get(checkpoint.made_by)
        alike = [path for path in found if wanted in (None, self._configs[path].diffusion.preconditioning)]
        if not alike:
            raise ValueError(
                f"{checkpoint.path}: its tensors are those of {_list(found)}, but it was made as "
                f"{checkpoint.made_by}; write a config with preconditioning: {wanted}"
            )
        return alike

    def _has_noise_of(self, place: Candidate, path: Path) -> bool:
        sigmas, largest = place.named.get("sigmas"), self._configs[path].diffusion.sigma_max
        return (
            sigmas is not None
            and largest is not None
            and bool(sigmas.read().max().isclose(torch.tensor(largest, dtype=torch.float32)))
        )


def _lacks_levels(found: dict[Path, Candidate]) -> bool:
    """Whether it is of an NCSN++ without its folder of diffusers, which says how images are centred."""
    named = next(iter(found.values())).named
    return "sigmas" not in named and family(named) == "ncsnpp"


def _without_dropout(model: Any) -> Any:
    """Return the config without what has no effect on tensors nor on sampling."""
    return dataclasses.replace(model, dropout=0.0) if hasattr(model, "dropout") else model


def _as_listed(checkpoint: Checkpoint, shapes: Shapes) -> Candidate | None:
    """Return the list of a checkpoint that has all tensors of a network in its order."""
    for state in checkpoint.states:
        if [stored.shape for stored in state.listed] == list(shapes.values()):
            named = dict(zip(shapes, state.listed, strict=True))
            return Candidate(state.where, is_average(state.where), named)
    return None


def _rank(place: Candidate) -> tuple[bool, bool, str]:
    """Order places: averages first, and of two networks in one file that with classes."""
    return not place.averaged, "uncond" in place.where, place.where


def _distance(own: Shapes, shapes: Shapes) -> float:
    """Return how much of two networks differs, 0 to 1."""
    same = sum(shapes.get(key) == shape for key, shape in own.items())
    return 1 - 2 * same / max(1, len(own) + len(shapes))


def _list(paths: list[Path]) -> str:
    names = [
        path.relative_to(CONFIGS.parent).as_posix() if path.is_relative_to(CONFIGS) else str(path)
        for path in paths
    ]
    return " or ".join(names) if len(names) < 4 else ", ".join(names[:3]) + f" or {len(names) - 3} like them"
