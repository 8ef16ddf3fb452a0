"""Noise that depends on the image alone: never on rank, batch or position in a list."""

import functools
import hashlib
from concurrent.futures import ThreadPoolExecutor

import torch
from torch import Tensor

from utils.jobs.job import Item
from utils.settings import Method

Key = tuple[str | int, ...]
"""What the noise of an image depends on beside the seed."""


class ImageNoise:
    """Standard normal noise for a batch, from one generator an image.

    A generator is keyed by (seed, relative path, sample), and by the region where there are several. It runs
    on the CPU in float32, so an image meets the same noise on every device, in every batch and for any
    number of processes. For another device each noise is drawn in a thread while the network computes with
    the one before.
    """

    def __init__(self, seed: int, keys: list[Key], shape: tuple[int, ...], device: torch.device):
        """
        Args:
            seed: The run's seed, any whole number from 0.
            keys: Of each image of the batch, see `noise_key`.
            shape: Shape of one image, (C, H, W).
            device: Where the noise is wanted.
        """
        self._generators = [torch.Generator().manual_seed(_key(seed, *key)) for key in keys]
        self._shape, self._device = shape, device
        self._ahead = None if device.type == "cpu" else _thread().submit(self._draw)

    def __call__(self) -> Tensor:
        """Return the next noise of every image: shape [B, C, H, W], float32."""
        if self._ahead is None:
            return self._draw()
        noise, self._ahead = self._ahead.result(), _thread().submit(self._draw)
        return noise.to(self._device, non_blocking=True)

    def _draw(self) -> Tensor:
        draws = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        noise = torch.stack(draws)
        return noise.pin_memory() if self._device.type == "cuda" else noise


def noise_key(item: Item, method: Method) -> Key:
    """Return what the noise of an item depends on: its path or its folder, its sample, its region.

    The frames of an animation are one input, so they share their noise: what stands still stays still.
    """
    by_name = method.noise_by == "name"
    own = item.name if by_name else f"{item.name.rpartition('/')[0]}/"
    regions = (item.part,) if method.by_region and item.part else ()
    return (own, item.sample, *regions)


def item_noise(method: Method, items: list[Item], like: Tensor) -> ImageNoise:
    """Return the noise of items of the work list, of the shape and on the device of `like`, [B, C, H, W]."""
    keys = [noise_key(item, method) for item in items]
    return ImageNoise(method.seed, keys, like.shape[1:], like.device)


@functools.cache
def _thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1)


def _key(seed: int, *key: str | int) -> int:
    text = "\0".join(map(str, (seed, *key)))
    digest = hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # Generator seeds are signed 64-bit numbers
