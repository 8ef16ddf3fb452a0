"""What both commands share between their options and their loop: config, process, network, files."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusions import NoiseSchedule, make_schedule, respace
from models import CONFIG_CLASSES, build_model
from models.precision import cast_network
from utils import images, job, options
from utils.checkpoint import load_weights
from utils.config import Config, load_config
from utils.launch import Launch, Progress

Model = Callable[[Tensor, Tensor], Tensor]
Sampler = Callable[[Model, list[str], Tensor], list[Tensor]]
"""(network, names, images [B, C, H, W]) -> result and latent, each [B, C, H, W]."""


def read_config(args: argparse.Namespace) -> Config:
    """Read the config that the options name, with their overrides.

    Raises:
        ValueError: The config is wrong, or is not that of an image-to-image network.
    """
    config = load_config(args.config, CONFIG_CLASSES, args.overrides)
    if config.model.out_channels not in (config.model.in_channels, 2 * config.model.in_channels):
        raise ValueError(f"{args.config}: this network does not predict images; give the config of a UNet")
    return config


def read_schedule(
    args: argparse.Namespace, config: Config, default_steps: int | None
) -> tuple[NoiseSchedule, list[int]]:
    """Build the trained schedule and choose the timesteps that the options keep.

    Args:
        default_steps: How many to keep where neither --respace_steps nor the --respace_type itself
            says so; None for all.

    Raises:
        ValueError: The config's schedule or the options' respacing is not possible.
    """
    diffusion = config.diffusion
    schedule = make_schedule(
        diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end
    )
    counted = args.respace_type in options.RESPACE_TYPES and args.respace_type != "none"
    num_steps = args.respace_steps or (default_steps if counted else None)
    return schedule, respace(args.respace_type, diffusion.num_timesteps, num_steps)


def choose_variance(args: argparse.Namespace, config: Config) -> str:
    """Return the variance of a DDPM step: the options', else the config's.

    Raises:
        ValueError: The network has not learned its variance, but that was asked for.
    """
    var_type = args.var_type or options.var_type(config.diffusion.var_type)
    if var_type == "learned_range" and config.model.out_channels == config.model.in_channels:
        raise ValueError(
            f"var_type learned_range: this network has {config.model.out_channels} output channels, none for "
            "its variance; use fixed_small or fixed_large"
        )
    return var_type


def load_network(config: Config, weights: Path, launch: Launch) -> nn.Module:
    """Build the network, fill it with published weights, and move it to the device, ready to predict.

    Raises:
        ValueError: The weights are broken, unsafe, or those of another network.
    """
    with torch.device("meta"):
        network = build_model(config.model)
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    network.load_state_dict(load_weights(weights, expected), strict=True, assign=True)
    return cast_network(network.to(launch.device), launch.dtype)


def unconditional_label(config: Config) -> int | None:
    """Return the label for use without a class: the null label, or None where no label is needed.

    Raises:
        ValueError: The network always needs a class.
    """
    model = config.model
    if getattr(model, "num_classes", None) is None or config.null_class is not None:
        return config.null_class
    if getattr(model, "label_optional", False):
        return None
    raise ValueError(
        f"this network always needs one of its {model.num_classes} classes, its config names no "
        "null_class; give the config and weights of an unconditional network"
    )


def bind_class(network: nn.Module, label: int | None) -> Model:
    """Return the network as a callable of (x_t, t) alone, for one class or, with None, for none."""
    if label is None:
        return network
    return lambda x, t: network(x, t, torch.full((len(x),), label, device=x.device))


@dataclass(frozen=True)
class Files:
    """The inputs of a run and where their results go."""

    input_dir: Path
    save_dir: Path
    names: list[str]
    """Relative path of every input, sorted."""
    results: dict[str, str]
    """Relative path of each input's result."""


def find_files(args: argparse.Namespace) -> Files:
    """List the inputs and name their results.

    Raises:
        ValueError: There are no images, or a result would take the place of a comparison strip.
    """
    names = images.find_images(args.input_dir, args.save_dir)
    if args.comparison and any(name.startswith("comparison/") for name in names):
        raise ValueError(
            f"{args.input_dir}/comparison: --comparison saves its strips under this name; rename it"
        )
    return Files(args.input_dir, args.save_dir, names, images.result_names(names))


def run(
    args: argparse.Namespace,
    config: Config,
    launch: Launch,
    files: Files,
    network: nn.Module,
    sample: Sampler,
    calls_per_image: int,
    parameters: dict[str, object],
) -> int:
    """Do this process's share of the images.

    Args:
        sample: The method, on one batch.
        calls_per_image: Network calls that it makes for an image.
        parameters: What the PNG files record of how they were made.

    Returns:
        Exit code: 0, or 3 where some images failed. One of several processes returns 0 all the same:
        a launcher would stop the others, which still have work.
    """
    mine = job.share(files.names, launch.rank, launch.world_size)
    progress = Progress(len(mine), calls_per_image, launch.rank)
    text = {"parameters": json.dumps({**parameters, "precision": str(launch.dtype).removeprefix("torch.")})}

    def counted(x: Tensor, t: Tensor, *label: Tensor) -> Tensor:
        progress.network_called(len(x))
        return network(x, t, *label)

    def load(name: str) -> Tensor:
        try:
            image = images.decode(files.input_dir / name)
        except (ValueError, OSError):
            progress.skipped(1)
            raise
        image = images.fit(image, config.model.image_size, args.fit)
        return images.to_tensor(image, config.model.in_channels)

    def process(names: list[str], batch: Tensor) -> list[Tensor]:
        batch = batch.to(launch.device).contiguous(memory_format=torch.channels_last)
        result, latent = sample(counted, names, batch)
        return [result, batch, latent]

    def save(name: str, rows: list[Tensor]) -> None:
        result, guide, latent = (images.to_image(row) for row in rows)
        target = files.results[name]
        job.write_atomically(files.save_dir / target, images.encode_png(result, text))
        if args.comparison:
            strip = images.strip([guide, latent, result])
            job.write_atomically(files.save_dir / "comparison" / target, images.encode_png(strip, text))

    micro_batch = args.micro_batch or (16 if launch.device.type == "cuda" else 4)
    start = time.monotonic()
    with torch.inference_mode():
        outcome = job.run(mine, micro_batch, load, process, save)
    progress.close()
    _report(outcome, launch, files.save_dir, time.monotonic() - start)
    alone = launch.world_size == 1
    return options.EXIT_SOME_FAILED if outcome.failures and alone else options.EXIT_DONE


def _report(outcome: job.Outcome, launch: Launch, save_dir: Path, seconds: float) -> None:
    rank = f"[{launch.rank}/{launch.world_size}] " if launch.world_size > 1 else ""
    failed = f", {len(outcome.failures)} failed" if outcome.failures else ""
    print(f"{rank}{outcome.num_done} images in {save_dir}{failed}, {seconds:.1f} s", file=sys.stderr)
