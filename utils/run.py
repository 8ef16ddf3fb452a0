"""A run of either method over its items: read, compute, write, count, report."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from utils import job, options
from utils.inputs import Inputs
from utils.latents import Latents
from utils.launch import Launch, Progress
from utils.results import Result, Writer

Sampler = Callable[[list[job.Item], dict[str, Tensor]], list[list[Result]]]
"""(items, their tensors [B, ...]) -> the results of each item."""


def run_items(
    args: argparse.Namespace,
    launch: Launch,
    items: list[job.Item],
    inputs: Inputs | Latents,
    sample: Sampler,
    modules: list[nn.Module],
    calls_per_item: int,
    parameters: dict[str, object],
) -> int:
    """Do this process's share of the items.

    Args:
        args: The options.
        launch: This process.
        items: All that is to be done.
        inputs: Reads what an item needs.
        sample: The method, on one batch.
        modules: Networks whose calls are the progress.
        calls_per_item: Network calls that the method makes for an item.
        parameters: What the PNG files record of how they were made, beside what is common.

    Returns:
        Exit code: 0, or 3 where some images failed. One of several processes returns 0 all the same:
        a launcher would stop the others, which still have work.
    """
    mine = job.share(items, launch.rank, launch.world_size)
    progress = Progress(len(mine), calls_per_item, launch.rank)
    for module in modules:
        module.register_forward_pre_hook(lambda _, given: progress.network_called(len(given[0])))
    common = {
        "config": args.config.name,
        "weights": args.weights.name,
        "seed": args.seed,
        "respace_type": args.respace_type,
        "fit": args.fit,
        "precision": str(launch.dtype).removeprefix("torch."),
    }
    writer = Writer(args.save_dir, args.comparison, None if args.no_metadata else {**parameters, **common})

    def load(item: job.Item) -> dict[str, Tensor]:
        try:
            return inputs.load(item.name)
        except (ValueError, OSError):
            progress.skipped(1)
            raise

    def process(
        batch: list[job.Item], tensors: dict[str, Tensor]
    ) -> list[tuple[Tensor | None, list[Result]]]:
        tensors = {
            key: tensor.to(launch.device, memory_format=torch.channels_last)
            for key, tensor in tensors.items()
        }
        guides = tensors["image"] if "image" in tensors else [None] * len(batch)
        return list(zip(guides, sample(batch, tensors), strict=True))

    micro_batch = args.micro_batch or (16 if launch.device.type == "cuda" else 4)
    start = time.monotonic()
    with torch.inference_mode():
        outcome = job.run(mine, micro_batch, load, process, lambda item, output: writer.write(item, *output))
    progress.close()
    _report(outcome, launch, args.save_dir, time.monotonic() - start, progress.num_calls)
    alone = launch.world_size == 1
    return options.EXIT_SOME_FAILED if outcome.failures and alone else options.EXIT_DONE


def _report(outcome: job.Outcome, launch: Launch, save_dir: Path, seconds: float, num_calls: int) -> None:
    rank = f"[{launch.rank}/{launch.world_size}] " if launch.world_size > 1 else ""
    failed = f", {len(outcome.failures)} failed" if outcome.failures else ""
    each = f", {num_calls / outcome.num_done:g} network evaluations each" if outcome.num_done else ""
    print(f"{rank}{outcome.num_done} images in {save_dir}{failed}, {seconds:.1f} s{each}", file=sys.stderr)
