"""Noise that depends on the image alone: never on rank, batch or position in a list."""

import hashlib

import torch
from torch import Tensor


class ImageNoise:
    """Standard normal noise for a batch, from one generator an image.

    A generator is keyed by (seed, relative path, sample) and runs on the CPU in float32, so an
    image meets the same noise on every device, in every batch and for any number of processes.
    """

    def __init__(self, seed: int, keys: list[tuple[str, int]], shape: tuple[int, ...], device: torch.device):
        """
        Args:
            seed: The run's seed, any whole number from 0.
            keys: Relative POSIX path of each image of the batch, and which of its samples is made.
            shape: Shape of one image, (C, H, W).
            device: Where the noise is wanted.
        """
        self._generators = [torch.Generator().manual_seed(_key(seed, *key)) for key in keys]
        self._shape, self._device = shape, device

    def __call__(self) -> Tensor:
        """Draw the next noise of every image: shape [B, C, H, W], float32."""
        draws = [torch.randn(self._shape, generator=generator) for generator in self._generators]
        return torch.stack(draws).to(self._device)


def _key(seed: int, name: str, sample: int) -> int:
    digest = hashlib.sha256(f"{seed}\0{name}\0{sample}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:8], "big") >> 1  # Generator seeds are signed 64-bit numbers
