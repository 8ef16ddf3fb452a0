"""The pictures that the demo is trained on and judged by: read, parted into seen and held out, augmented."""

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

NUM_TOLD = 3
"""Numbers that say how a picture was changed, all 0 where it was not: sine and cosine of the angle, light."""
_MAX_ANGLE, _MAX_LIGHT, _SHARE_CHANGED = 0.5, 0.25, 0.5


@dataclass(frozen=True)
class Fruits:
    """Pictures with their labels and where each came from."""

    images: Tensor
    """In [-1, 1], shape [N, 3, 64, 64]."""
    labels: Tensor
    """[N], int64."""
    names: tuple[str, ...]
    """Of the classes."""
    sources: np.ndarray
    """[N], the path of each picture upstream: .../folder/[film_]frame_100.jpg."""

    def part(self, chosen: np.ndarray) -> "Fruits":
        """Return the pictures where `chosen`, [N] of bool, is true."""
        kept = torch.from_numpy(chosen)
        return Fruits(self.images[kept], self.labels[kept], self.names, self.sources[chosen])


def read(path: Path) -> Fruits:
    """Read `images` uint8 [N, 64, 64, 3], `labels`, `class_names` and `sources` from an .npz file."""
    data = np.load(path)
    images = torch.from_numpy(data["images"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    labels = torch.from_numpy(data["labels"]).long()
    return Fruits(images, labels, tuple(data["class_names"].tolist()), data["sources"])


def held_out(sources: np.ndarray) -> np.ndarray:
    """Choose the pictures that neither network nor judge sees: the middle tenth of each film, [N] of bool.

    A film turns one fruit before the camera, and views side by side are near-copies of each other, so it
    is a run of neighbouring angles that is held out.
    """
    films: dict[tuple[str, str], list[tuple[int, int]]] = {}
    for index, source in enumerate(sources):
        folder, name = str(source).split("/")[-2:]
        film, frame = re.fullmatch(r"((?:r\d*_)?)(\d+)_.*", name).groups()
        films.setdefault((folder, film), []).append((int(frame), index))
    chosen = np.zeros(len(sources), bool)
    for views in films.values():
        views.sort()
        n = len(views)
        chosen[[index for _, index in views[round(0.45 * n) : round(0.55 * n)]]] = True
    return chosen


def augment(
    images: Tensor, size: int, generator: torch.Generator, change: bool = True
) -> tuple[Tensor, Tensor]:
    """Shrink pictures to 0.5 to 1 of the canvas, put them anywhere on it, flip, turn and light them.

    Place, scale and side are what the network shall learn to make. Half of the pictures are turned and half
    are lit: that is told to the network, so that it makes neither unless asked (Karras et al.,
    arXiv:2206.00364, appendix F.2). The background stays white.

    Args:
        images: In [-1, 1], shape [B, 3, H, H].
        size: Side of the canvas in pixels, at most H.
        generator: Source of all choices.
        change: Whether half are turned and lit.

    Returns:
        Pictures in [-1, 1], shape [B, 3, size, size], and what is told of them, shape [B, NUM_TOLD].
    """
    n = len(images)
    scale, flip, x, y, turn, turned, light, lit = torch.rand((8, n), generator=generator)
    scale, share = 0.5 + 0.5 * scale, _SHARE_CHANGED if change else 0
    angle = torch.where(turned < share, (2 * turn - 1) * _MAX_ANGLE, 0)
    light = torch.where(lit < share, (2 * light - 1) * _MAX_LIGHT, 0)
    side = torch.where(flip < 0.5, -1.0, 1.0)
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = side * angle.cos() / scale
    affine[:, 0, 1] = -side * angle.sin() / scale
    affine[:, 1, 0] = angle.sin() / scale
    affine[:, 1, 1] = angle.cos() / scale
    place = (2 * torch.stack([x, y], dim=1) - 1) * (1 - scale)[:, None]  # centre of the picture on the canvas
    affine[:, :, 2] = -(affine[:, :, :2] @ place[:, :, None])[:, :, 0]
    if size != images.shape[-1]:
        images = F.interpolate(images, size=size, mode="area")
    grid = F.affine_grid(affine, [n, 3, size, size], align_corners=False)
    ink = F.grid_sample(images - 1, grid, align_corners=False)  # outside the picture: 0, hence white
    ink = (ink * (1 + light)[:, None, None, None]).clamp(-2, 0)
    return ink + 1, torch.stack([angle.sin(), 1 - angle.cos(), light], dim=1)
