"""Colour profiles for more than 8 bits: in numbers where they are of a matrix and curves, else by tables.

LittleCMS fills the tables, with the 8 bits that it has in Pillow. A table holds by how much colours at its
nodes differ from their own; between nodes that is interpolated and added to the colour, so that equal steps
stay steps. Around each node several colours of 8 bits are averaged, against their rounding.
"""

import functools
import itertools

import numpy as np
from PIL import Image

from utils.arrays import read_curves
from utils.codecs import icc

_STEP = 5
"""Levels of 8 bits between two nodes: 52 a channel."""
_NODES = np.arange(0, 256, _STEP)
_AROUND = np.minimum(2, np.minimum(_NODES, 255 - _NODES))
"""How many levels to either side of a node are averaged; none at black and white, which stay exact."""


def to_srgb(colours: np.ndarray, profile: bytes) -> np.ndarray:
    """Bring colours from those of a profile to sRGB, as `icc.to_srgb` does.

    Args:
        colours: float32 in [0, 1], [H, W, 1 or 3].
        profile: One of pictures of as many channels, for which `icc.can_return` says so.
    """
    if icc.is_srgb(profile):
        return colours
    if curves := read_curves(profile):
        return curves.to_srgb(colours)
    if colours.shape[2] == 1:
        return np.interp(colours, _NODES / 255, _greys(profile)).astype(np.float32)
    return colours + _between(_table(profile, back=False), colours)


def from_srgb(colours: np.ndarray, profile: bytes) -> np.ndarray:
    """Bring colours from sRGB to those of a profile, the way back."""
    if icc.is_srgb(profile):
        return colours
    if curves := read_curves(profile):
        return curves.from_srgb(colours)
    if colours.shape[2] == 1:
        return np.interp(colours, _greys(profile), _NODES / 255).astype(np.float32)
    return colours + _between(_table(profile, back=True), colours)


@functools.lru_cache(maxsize=8)
def _greys(profile: bytes) -> np.ndarray:
    """Return the grey in sRGB of each node, in [0, 1], none below the one before."""
    greys = icc.greys(profile)
    around = [greys[node - n : node + n + 1].mean() for node, n in zip(_NODES, _AROUND, strict=True)]
    return np.maximum.accumulate(np.array(around))


@functools.lru_cache(maxsize=4)
def _table(profile: bytes, back: bool) -> np.ndarray:
    """Return by how much the colours at all nodes differ from their own, float32 [N, N, N, 3]."""
    total = np.zeros((len(_NODES),) * 3 + (3,), np.float32)
    shifts = list(itertools.product((-1, 0, 1), repeat=3))
    for shift in shifts:
        levels = [_NODES + part * _AROUND for part in shift]
        grid = np.stack(np.meshgrid(*levels, indexing="ij"), axis=3).astype(np.uint8)
        image = Image.fromarray(grid.reshape(len(_NODES), -1, 3))
        after = np.asarray(icc.apply(image, profile, back)).reshape(grid.shape)
        total += after.astype(np.float32) - grid
    return total / (255 * len(shifts))


def _between(table: np.ndarray, colours: np.ndarray) -> np.ndarray:
    """Interpolate a table linearly in each channel: of float32 [H, W, 3] in [0, 1], the same shape."""
    place = colours.clip(0, 1) * np.float32(len(table) - 1)
    low = np.minimum(place.astype(np.int32), len(table) - 2)
    share = place - low
    found = np.zeros_like(colours)
    for corner in itertools.product((0, 1), repeat=3):
        parts = [share[..., i] if on else 1 - share[..., i] for i, on in enumerate(corner)]
        r, g, b = (low[..., i] + on for i, on in enumerate(corner))
        found += table[r, g, b] * (parts[0] * parts[1] * parts[2])[..., None]
    return found
