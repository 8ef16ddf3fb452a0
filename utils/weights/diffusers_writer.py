"""Folders as diffusers saves a UNet2DModel: written."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save
from torch import Tensor

from utils.config import Config
from utils.files import write_atomically
from utils.weights.diffusers_folder import (
    BLOCKS,
    NEEDED,
    THEIRS,
    WEIGHTS,
    differences,
)
from utils.weights.diffusers_keys import Structure, key_pairs
from utils.weights.diffusers_scheduler import PREDICTIONS, SCHEDULES


def write_folder(folder: Path, family: str, config: Config, state: Mapping[str, Tensor]) -> None:
    """Write a network and its schedule as diffusers loads them.

    Args:
        folder: New or empty.
        family: ddpm_unet, ncsnpp, or diffusers_unet.
        config: Of the network.
        state: Its weights, by published key.

    Raises:
        ValueError: diffusers has no such network or schedule, or the folder holds something.
    """
    if folder.is_dir() and any(folder.iterdir()):
        raise ValueError(f"{folder}: holds something; give a new folder")
    if family == THEIRS:
        facts, theirs = {"_class_name": "UNet2DModel", **config.model.facts()}, dict(state)
    else:
        facts = _unet_facts(family, config)
        theirs = _renamed(family, config, facts, state)
    scheduler = _scheduler_facts(config)
    is_ve = scheduler["_class_name"] == "ScoreSdeVeScheduler"
    index = {
        "_class_name": "ScoreSdeVePipeline" if is_ve else "DDPMPipeline",
        "scheduler": ["diffusers", scheduler["_class_name"]],
        "unet": ["diffusers", "UNet2DModel"],
    }
    write_atomically(folder / "unet" / WEIGHTS[0], save(theirs, {"format": "pt"}))
    for path, content in (
        ("unet/config.json", facts),
        ("scheduler/scheduler_config.json", scheduler),
        ("model_index.json", index),
    ):
        write_atomically(folder / path, (json.dumps(content, indent=2) + "\n").encode())


def _renamed(
    family: str, config: Config, facts: dict[str, Any], state: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Give tensors of a network of ours the names and shapes of diffusers."""
    attention = frozenset(i for i, name in enumerate(facts["down_block_types"]) if name.startswith("Attn"))
    structure = Structure(len(facts["block_out_channels"]), config.model.num_res_blocks, attention)
    pairs = key_pairs(family, structure)
    return {pairs[key]: _to_theirs(key, tensor) for key, tensor in state.items() if key != "sigmas"}


def _to_theirs(key: str, tensor: Tensor) -> Tensor:
    if key.endswith(".W") and tensor.ndim == 2:
        return tensor.T.contiguous()
    if key.endswith((".q.weight", ".k.weight", ".v.weight", ".proj_out.weight")):
        return tensor.flatten(1).contiguous()
    return tensor.contiguous()


def _unet_facts(family: str, config: Config) -> dict[str, Any]:
    model = config.model
    if family not in NEEDED:
        raise ValueError(f"diffusers has no network of the kind {family}; write a file instead of a folder")
    widths = [mult * model.model_channels for mult in model.channel_mult]
    attends = [model.image_size >> level in model.attention_resolutions for level in range(len(widths))]
    down = [("Attn" if on else "") + BLOCKS[family] + "DownBlock2D" for on in attends]
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
        **NEEDED[family],
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
    problems += differences(family, facts)
    if problems:
        raise ValueError("\n".join(["diffusers has no such network; write a file instead", *problems]))
    return facts


def _scheduler_facts(config: Config) -> dict[str, Any]:
    diffusion = config.diffusion
    if diffusion.process == "ve" and diffusion.prediction == "score":
        ends = {"sigma_min": diffusion.sigma_min, "sigma_max": diffusion.sigma_max}
        steps = diffusion.num_timesteps
        return {"_class_name": "ScoreSdeVeScheduler", "num_train_timesteps": steps, **ends}
    names = {ours: theirs for theirs, ours in SCHEDULES.items()} | {None: "linear"}  # of all betas: unused
    if diffusion.process != "vp" or diffusion.schedule not in names or diffusion.rescale_timesteps:
        rescaled = ", told rescaled timesteps" * diffusion.rescale_timesteps
        raise ValueError(
            f"diffusers has no schedule {diffusion.schedule} of a {diffusion.process} process{rescaled}"
        )
    ends = {"beta_start": diffusion.beta_start, "beta_end": diffusion.beta_end}
    if diffusion.trained_betas is not None:
        ends["trained_betas"] = list(diffusion.trained_betas)
    if diffusion.rescale_betas_zero_snr:
        ends["rescale_betas_zero_snr"] = True
    return {
        "_class_name": "DDPMScheduler",
        "num_train_timesteps": diffusion.num_timesteps,
        "beta_schedule": names[diffusion.schedule],
        **{key: value for key, value in ends.items() if value is not None},
        "prediction_type": {ours: theirs for theirs, ours in PREDICTIONS.items()}[diffusion.prediction],
        "variance_type": diffusion.var_type,
        "clip_sample": diffusion.clip is not None,
        "clip_sample_range": 1.0 if diffusion.clip is None else diffusion.clip,
    }
