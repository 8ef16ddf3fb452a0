"""At what size pictures are worked on, and how networks of one size do that."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusions.tiles import Tiles
from utils import images, jobs, log, settings
from utils.config import Config
from utils.quote import plain
from utils.running import AUTO, Place, Running
from utils.sampling.networks import size_multiple


@dataclass(frozen=True)
class Sizing:
    """What --size and --tiles amount to with the networks of a run."""

    side: int
    """Of the images that the networks were trained on, and of a tile."""
    size: tuple[int, int] | None
    """Width and height of the results, None for those of each picture."""
    tiled: bool
    least: int
    """Width and height that a picture needs."""
    factor: int = 1
    """Width and height in a picture of one pixel of what the networks work on."""

    @property
    def shape(self) -> tuple[int | None, int | None]:
        """Height and width of the results, None for any."""
        return (None, None) if self.size is None else self.size[::-1]

    @property
    def shape_of_latents(self) -> tuple[int | None, int | None]:
        """Height and width of what the networks work on, None for any."""
        height, width = (None if side is None else -(-side // self.factor) for side in self.shape)
        return height, width

    def tiles(self, most: int) -> Tiles | None:
        """Return what pictures are cut into, `most` of them a network call; None where they are not."""
        return Tiles(self.side // self.factor, most) if self.tiled else None

    def calls(self, sizes: Iterable[tuple[int, int]]) -> float:
        """Return how many images of a network call a picture is, the mean over pictures of some sizes."""
        fitting = [size for size in sizes if min(size) >= self.least]
        if not self.tiled or not fitting:
            return 1
        tiles = Tiles(self.side // self.factor, 1)
        counts = [tiles.count(*(-(-side // self.factor) for side in size)) for size in fitting]
        return sum(counts) / len(counts)

    def describe(self, seen: Mapping[str, tuple[int, int]]) -> list[str]:
        """Say at what size pictures are worked on, and which are too small for that.

        Args:
            seen: Inputs by their names, those of which the size is known.
        """
        if self.size is not None:
            at = f"at {_times(self.size)}"
        else:
            sizes = sorted(seen.values(), key=lambda size: size[0] * size[1])
            ends = list(dict.fromkeys([*sizes[:1], *sizes[-1:]]))
            at = f"at their own size{', ' if ends else ''}{' to '.join(map(_times, ends))}"
        if self.tiled:
            about = "about " if len(set(seen.values())) > 1 else ""
            at += f" in {about}{self.calls(seen.values()):.4g} tiles of {self.side}x{self.side}"
        small = [name for name, size in seen.items() if self.size is None and min(size) < self.least]
        names = ", ".join(map(plain, small[:3])) + (", ..." if len(small) > 3 else "")
        short = f"{len(small)} inputs are below {self.least}x{self.least} and would fail: {names}"
        return [at, short] if small else [at]

    def warn(self, sizes: Iterable[tuple[int, int]]) -> None:
        """Say once what a network does on pictures beyond its own size."""
        largest = max(sizes, key=max, default=(0, 0))
        if not self.tiled and max(largest) > self.side:
            log.once(
                f"note: this network knows {self.side}x{self.side}; run on {_times(largest)} as a whole it "
                "may repeat content and lose shapes and colours; --tiles runs it on tiles of its own size"
            )


def find_sizing(method: settings.Method, configs: dict[str, Config]) -> Sizing:
    """Work out at what size a method works.

    Args:
        method: The settings.
        configs: Of the networks that it calls, by the options that named them.

    Raises:
        ValueError: A size that one of the networks cannot take.
    """
    models = {name: config.model for name, config in configs.items()}
    main = next(iter(configs.values()))
    side, factor = main.image_size, main.factor
    size = None if method.keeps_size else method.wanted_size or (side, side)
    asked = f"--size {method.size}" if method.size else "--tiles"
    for name, model in models.items():
        if size_multiple(model) is None and size != (side, side) and not method.tiles:
            raise ValueError(
                f"{asked}: the network of --{name} takes images of {side}x{side} alone; add --tiles, which "
                "runs it on tiles of that size"
            )
    least = (
        side if method.tiles else max(factor * (size_multiple(model) or side) for model in models.values())
    )
    if size is not None and min(size) < least:
        hint = "--tiles are of {0}x{0}; give at least that, or leave them out"
        hint = hint if method.tiles else "this network takes {0}x{0} or more; give at least that"
        raise ValueError(f"{asked}: {hint.format(least)}")
    return Sizing(side, size, method.tiles, least, factor)


def find_sizes(sizing: Sizing, running: Running, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return width and height of the results by the inputs' names, as far as the heads of files tell them."""
    if sizing.size is not None:
        return dict.fromkeys(names, sizing.size)
    return images.look_at(running.folder, names)


def check_place(sizing: Sizing, place: Place) -> None:
    """Refuse options of where a network runs that do not go with the sizes.

    Raises:
        ValueError: Such options.
    """
    if sizing.tiled and place.micro_batch == AUTO:
        raise ValueError("--micro_batch auto: not with --tiles; give a number, of tiles a network call")
    if place.compile and sizing.size is None and not sizing.tiled:
        raise ValueError("--compile: for one size alone; give --size WIDTHxHEIGHT, or --tiles")


class Retrying:
    """A method on a batch by tiles: again with half as many a network call where memory is short."""

    def __init__(self, sampler: jobs.Sampler, tiles: Tiles):
        self._sampler, self._tiles = sampler, tiles

    def __call__(self, items: list[jobs.Item], tensors: dict[str, Tensor]) -> list[list[jobs.Result]]:
        """Return the results of each item, see `jobs.Sampler`."""
        while (rows := self._try(items, tensors)) is None:
            self._tiles.most = (self._tiles.most + 1) // 2
            log.log.warning(f"out of memory; going on with {self._tiles.most} tiles a network call")
        return rows

    def _try(self, items: list[jobs.Item], tensors: dict[str, Tensor]) -> list[list[jobs.Result]] | None:
        try:
            return self._sampler(items, tensors)
        except (RuntimeError, MemoryError) as error:
            if self._tiles.most == 1 or not jobs.is_short_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None


def _times(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
