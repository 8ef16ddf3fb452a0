"""The work list of one process: its share of the images, in batches, each result written whole."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass
class Outcome:
    """What became of the images of this process."""

    num_done: int = 0
    failures: list[tuple[str, str]] = field(default_factory=list)
    """(relative path, reason) of each image that has no result."""

    def fail(self, name: str, reason: str) -> None:
        """Record and report an image that has no result."""
        self.failures.append((name, reason))
        print(f"failed: {name}: {reason}", file=sys.stderr)


def share(names: list[str], rank: int, world_size: int) -> list[str]:
    """Return the names that one process does; together the processes do each exactly once."""
    return names[rank::world_size]


def batches(items: list[T], size: int) -> Iterator[list[T]]:
    """Cut a list into consecutive pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def run(
    names: list[str],
    micro_batch: int,
    load: Callable[[str], Tensor],
    process: Callable[[list[str], Tensor], list[Tensor]],
    save: Callable[[str, list[Tensor]], None],
) -> Outcome:
    """Load, process and save every image; one that fails is recorded and the others are done.

    Args:
        names: Relative paths of the images of this process.
        micro_batch: Images processed together.
        load: Name to tensor [C, H, W]; its ValueError or OSError is that image's failure.
        process: Names and images [B, C, H, W] to the tensors to save, each [B, C, H, W], result first.
        save: Name and that image's row of each of these tensors.
    """
    outcome = Outcome()
    for batch in batches(names, micro_batch):
        loaded: dict[str, Tensor] = {}
        for name in batch:
            try:
                loaded[name] = load(name)
            except (ValueError, OSError) as error:
                outcome.fail(name, str(error))
        if not loaded:
            continue
        outputs = process(list(loaded), torch.stack(list(loaded.values())))
        for i, name in enumerate(loaded):
            rows = [output[i] for output in outputs]
            if not rows[0].isfinite().all():
                outcome.fail(
                    name, "the result holds NaN or infinity, so it is not written; try --precision fp32"
                )
                continue
            save(name, rows)
            outcome.num_done += 1
    return outcome


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that it is whole under its final name, or not there at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
