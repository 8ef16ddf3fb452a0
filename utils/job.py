"""The work list of one process: its share of the items, in batches, each result written whole."""

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


@dataclass(frozen=True)
class Item:
    """One piece of the work."""

    name: str
    """Relative path of the input."""
    sample: int
    """Which of several results for this input."""
    target: str
    """Relative path of the result."""

    @property
    def key(self) -> tuple[str, int]:
        """What the noise of this item depends on."""
        return self.name, self.sample


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


def share(items: list[T], rank: int, world_size: int) -> list[T]:
    """Return the items that one process does; together the processes do each exactly once."""
    return items[rank::world_size]


def batches(items: list[T], size: int) -> Iterator[list[T]]:
    """Cut a list into consecutive pieces of at most `size`."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def run(
    items: list[Item],
    micro_batch: int,
    load: Callable[[Item], dict[str, Tensor]],
    process: Callable[[list[Item], dict[str, Tensor]], list[T]],
    save: Callable[[Item, T], None],
) -> Outcome:
    """Load, process and save every item; one that fails is recorded and the others are done.

    Args:
        items: What this process has to do.
        micro_batch: Items processed together.
        load: Item to named tensors; its ValueError or OSError is that item's failure.
        process: Items and their tensors, stacked, to the output of each.
        save: Item and its output; a ValueError is that item's failure.
    """
    outcome = Outcome()
    for batch in batches(items, micro_batch):
        loaded: dict[Item, dict[str, Tensor]] = {}
        for item in batch:
            try:
                loaded[item] = load(item)
            except (ValueError, OSError) as error:
                outcome.fail(item.name, str(error))
        if not loaded:
            continue
        inputs = {
            key: torch.stack([row[key] for row in loaded.values()]) for key in next(iter(loaded.values()))
        }
        for item, output in zip(loaded, process(list(loaded), inputs), strict=True):
            try:
                save(item, output)
                outcome.num_done += 1
            except ValueError as error:
                outcome.fail(item.name, str(error))
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
