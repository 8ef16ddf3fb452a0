"""Folders of diffusers that hold a UNet2DModel: read."""

import importlib.util
import json
import math
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.config import Config, DiffusionConfig
from utils.log import once
from utils.quote import plain, quote
from utils.weights.diffusers_keys import Structure, key_pairs, modern
from utils.weights.diffusers_scheduler import read_diffusion
from utils.weights.json_file import build, read_json
from utils.weights.tensor_file import Stored

WEIGHTS = tuple(
    f"diffusion_pytorch_model.{variant}{suffix}"
    for variant in ("", "fp16.", "bf16.")
    for suffix in ("safetensors", "bin")
)
"""Files of a network, the first that is there being taken; halves are loaded as float32."""
_AVERAGED = "unet_ema"

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
_OPTIONAL = ("mid_block_type", "attention_head_dim", "norm_num_groups")
"""Fields that may be null though their default is not."""
_KINDS = {bool: (bool, "true or false"), str: (str, "a text"), int: ((int, float), "a number")}
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
NEEDED = {
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
BLOCKS = {"ddpm_unet": "", "ncsnpp": "Skip"}
THEIRS = "diffusers_unet"
"""What configs call diffusers' own network."""


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
    facts = read_json(_find(folder, "scheduler_config.json")) if _has_scheduler(folder) else {}
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

    The network is ours where it computes the same, else diffusers' own, where diffusers is installed.

    Args:
        folder: As diffusers saves it, or its `unet` folder.
        families: Config dataclass of each network, by its name.

    Raises:
        ValueError: It is of another schedule than ours, or of another network and diffusers is not
            installed; every difference is listed.
    """
    path = _find(folder, "config.json")
    facts = _DEFAULTS | read_json(path)
    if facts.get("_class_name") == "UNet2DConditionModel":
        raise ValueError(
            f"{folder}: a network that is told a text; the commands take its folder as it is, see docs"
        )
    family = "ncsnpp" if facts["time_embedding_type"] == "fourier" else "ddpm_unet"
    kind = _choose(path, family, facts)
    if not _has_scheduler(folder):
        raise ValueError(f"{folder}: has no scheduler_config.json; give a config, which names the schedule")
    beside = _find(folder, "scheduler_config.json")
    scheduler = read_json(beside)
    read = _fields_of_diffusers if kind == THEIRS else _model_fields
    return Config(
        model=build(path, families[kind], lambda: read(family, facts, scheduler)),
        diffusion=build(beside, DiffusionConfig, lambda: _diffusion_fields(family, scheduler)),
    )


def _choose(path: Path, family: str, facts: dict[str, Any]) -> str:
    """Choose our network where it computes the same, else diffusers' own, and say which.

    Raises:
        ValueError: None of ours does, and diffusers is not installed or makes none of such fields.
    """
    wrong = malformed(facts)
    problems = wrong or differences(family, facts)
    if problems and not wrong and importlib.util.find_spec("diffusers"):
        once(f"{path}: runs on diffusers' UNet2DModel, which differs from our {family} in {_names(problems)}")
        return THEIRS
    if problems:
        hint = [] if wrong else ["pip install diffusers runs it"]
        raise ValueError("\n".join([f"{path}: not a network of the kind {family}", *problems, *hint]))
    once(f"{path}: runs on our {family}, which computes the same as diffusers")
    return family


def _names(problems: list[str]) -> str:
    return ", ".join(problem.strip().partition(":")[0] for problem in problems)


def malformed(facts: dict[str, Any]) -> list[str]:
    """Say which fields no UNet2DModel can have."""
    widths, down, up = (facts.get(k) for k in ("block_out_channels", "down_block_types", "up_block_types"))
    if not all(isinstance(part, list) and part for part in (widths, down, up)):
        return ["  block_out_channels, down_block_types and up_block_types: expected lists"]
    if len(widths) > _MOST_LEVELS or any(type(n) is not int or not 1 <= n <= _WIDEST for n in widths):
        return [f"  block_out_channels: expected up to {_MOST_LEVELS} widths, whole numbers"]
    return [
        f"  {key}: found {quote(facts.get(key))}, expected a whole number from 1 to {most}"
        for key, most in _LARGEST.items()
        if type(facts.get(key)) is not int or not 1 <= facts[key] <= most
    ]


def differences(family: str, facts: dict[str, Any]) -> list[str]:
    """Say in which fields a network is not one of ours."""
    problems = [
        f"  {key}: found {quote(facts[key])}, our network has {needed!r}"
        for key, needed in NEEDED[family].items()
        if not _equal(facts[key], needed)
    ]
    widths, down, up = (facts[k] for k in ("block_out_channels", "down_block_types", "up_block_types"))
    skip = BLOCKS[family]
    allowed = (f"{skip}DownBlock2D", f"Attn{skip}DownBlock2D")
    if any(block not in allowed for block in down) or len(widths) != len(down):
        problems.append(
            f"  down_block_types: found {quote(down)}, allowed are {' and '.join(allowed)}, one a width"
        )
    elif up != [block.replace("Down", "Up") for block in reversed(down)]:
        problems.append(
            f"  up_block_types: found {quote(up)}; they must mirror down_block_types {quote(down)}"
        )
    if any(width % widths[0] for width in widths):
        problems.append(f"  block_out_channels: found {widths}, expected multiples of the first")
    elif family == "ncsnpp" and any(
        width < 128 and str(block).startswith("Attn") for width, block in zip(widths, down, strict=False)
    ):
        problems.append(
            "  block_out_channels: below 128, diffusers groups channels otherwise where it attends"
        )
    return problems


def _equal(found: Any, needed: Any) -> bool:
    if isinstance(found, bool) != isinstance(needed, bool):
        return False
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
        "channel_mult": [width // widths[0] for width in widths],
        "num_res_blocks": facts["layers_per_block"],
        "attention_resolutions": [size >> i for i, on in enumerate(attends) if on],
        "dropout": facts["dropout"],
    }
    if family == "ncsnpp":
        fields |= {
            "centered": not facts["center_input_sample"],
            "num_scales": scheduler["num_train_timesteps"],
        }
    return fields


def _fields_of_diffusers(family: str, facts: dict[str, Any], scheduler: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of diffusers' own network: all that it is told, as it is told."""
    if facts["class_embed_type"] is not None:
        raise ValueError(f"class_embed_type: found {quote(facts['class_embed_type'])}, allowed is null")
    if wrong := _mistyped(facts):
        raise ValueError("; ".join(wrong))
    told = {key: value for key, value in facts.items() if not key.startswith("_")}
    return {
        "image_size": facts["sample_size"],
        "in_channels": facts["in_channels"],
        "out_channels": facts["out_channels"],
        "num_classes": facts["num_class_embeds"],
        "fields": [f"{key}: {json.dumps(value)}" for key, value in told.items()],
    }


def _mistyped(facts: dict[str, Any]) -> list[str]:
    """Say which fields have a value of another kind, which diffusers may only find out in a call."""
    problems = []
    for key, default in _DEFAULTS.items():
        kinds, words = _KINDS.get(type(default), _KINDS[int])
        value, optional = facts[key], default is None or key in _OPTIONAL
        wrong = not isinstance(value, kinds) or isinstance(value, bool) != isinstance(default, bool)
        if wrong and not (optional and value is None):
            problems.append(f"{key}: found {quote(value)}, expected {words}")
    return problems


def _diffusion_fields(family: str, facts: dict[str, Any]) -> dict[str, Any]:
    steps = facts["num_train_timesteps"]
    if family == "ncsnpp":
        ends = {key: facts[key] for key in ("sigma_min", "sigma_max")}
        return {"process": "ve", "num_timesteps": steps, "prediction": "score", **ends}
    return read_diffusion(facts)


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
    """Return the file of a folder's weights, averaged where a program of diffusers saved both.

    Raises:
        ValueError: There is none, or there are several.
    """
    inside = _find(folder, "config.json").parent
    for place in (folder / _AVERAGED, inside):
        for name in WEIGHTS:
            if (place / name).is_file():
                return place / name
    if any(inside.glob("*.index.json")):
        raise ValueError(f"{inside}: its weights are in several files; save them again as one, {WEIGHTS[0]}")
    if (inside / "optimizer.bin").exists() and not any(inside.glob("*.safetensors")):
        raise ValueError(
            f"{inside}: holds an optimizer's state and no weights; give the folder of the network"
        )
    others = sorted(path.name for path in inside.glob("diffusion_pytorch_model.*"))
    have = f"only {', '.join(plain(name, 60) for name in others[:3])}" if others else "no weights"
    raise ValueError(f"{inside}: has {have}; download the whole folder, with {WEIGHTS[0]} or {WEIGHTS[1]}")


def place_of(folder: Path, weights: Path) -> str:
    """Return the name of the folder of some weights where averages lie in it or beside it, else nothing."""
    name = weights.parent.name
    return name if name == _AVERAGED or (folder.parent / _AVERAGED).is_dir() else ""
