"""The six domains of points that DDIB's first experiments translate between (Su et al. 2023, section 4.1)."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

WIDTH = 0.5
"""Thickness of the outline of a ring or a square, before the scaling."""
BLUR = 0.05
"""Standard deviation of the noise around the moons' arcs, before the scaling."""


@dataclass(frozen=True)
class Domain:
    """Points in the plane, brought to mean 0 and to variance 1 on the average of the two coordinates."""

    draw: Callable[[int, Generator], Tensor]
    """(N, generator) -> points before the scaling, float64, shape [N, 2]."""
    variance: float
    """Of those points, the mean over the two coordinates."""
    centre: tuple[float, float] = (0.0, 0.0)
    """Mean of those points."""

    @property
    def scale(self) -> float:
        """What the points are divided by."""
        return math.sqrt(self.variance)

    def sample(self, count: int, generator: Generator) -> Tensor:
        """Draw points, float32, shape [count, 2]."""
        points = self.draw(count, generator)
        return ((points - points.new_tensor(self.centre)) / self.scale).float()


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float64)


def _moons(count: int, generator: Generator) -> Tensor:
    """Half a circle of radius 1 about the origin, and below it another about (1, 0.5), open above."""
    angle, second = math.pi * _uniform(count, generator), _uniform(count, generator) < 0.5
    x, y = angle.cos(), angle.sin()
    arcs = torch.stack([torch.where(second, 1 - x, x), torch.where(second, 0.5 - y, y)], dim=1)
    return arcs + BLUR * torch.randn(count, 2, generator=generator, dtype=torch.float64)


def _checkerboard(count: int, generator: Generator) -> Tensor:
    """Every second of the 4 x 4 unit squares that cover [-2, 2] x [-2, 2]."""
    x, y = 4 * _uniform(count, generator) - 2, 2 * _uniform(count, generator)
    # y is a place in the two squares of a column, each lifted over the empty ones below it
    return torch.stack([x, y + y.floor() + x.floor() % 2 - 2], dim=1)


def _circle(place: Tensor) -> Tensor:
    return torch.stack([(2 * math.pi * place).cos(), (2 * math.pi * place).sin()], dim=1)


def _square(place: Tensor) -> Tensor:
    """The outline of [-1, 1] x [-1, 1], from place 0 on the right side once around to 1."""
    side, along = (4 * place).floor(), 2 * (4 * place % 1) - 1
    across = torch.where(side < 2, 1.0, -1.0).to(along.dtype)
    upright = torch.stack([across, along], dim=1)
    return torch.where((side % 2 == 0)[:, None], upright, upright.flip(1))


def _outlines(
    outline: Callable[[Tensor], Tensor], radii: Sequence[float], centres: Sequence[float], spread: float
) -> Domain:
    """Build a domain of thick outlines.

    Args:
        outline: Places from 0 to 1 -> points of the outline of radius 1.
        radii: Of each outline.
        centres: x of each one's centre, in all 0; y is 0.
        spread: Variance of the outline of radius 1, the mean over the two coordinates.
    """

    def draw(count: int, generator: Generator) -> Tensor:
        which = torch.randint(len(radii), (count,), generator=generator)
        points = outline(_uniform(count, generator))
        radius = points.new_tensor(radii)[which] + WIDTH * (_uniform(count, generator) - 0.5)
        points = radius[:, None] * points
        points[:, 0] += points.new_tensor(centres)[which]
        return points

    square = sum(radius**2 + WIDTH**2 / 12 for radius in radii) / len(radii)
    return Domain(draw, spread * square + sum(centre**2 for centre in centres) / len(centres) / 2)


NESTED, ALIKE, AT_ORIGIN = (1, 2, 3), (1, 1, 1), (0, 0, 0)

DOMAINS = {
    # y of the two arcs: variance 1/2 - 4/pi^2, and means 2/pi and 1/2 - 2/pi
    "moons": Domain(
        _moons,
        ((1 / 2 + 1 / 4) + (1 / 2 - 4 / math.pi**2 + (2 / math.pi - 1 / 4) ** 2)) / 2 + BLUR**2,
        (0.5, 0.25),
    ),
    "checkerboards": Domain(_checkerboard, 16 / 12),
    "concentric_rings": _outlines(_circle, NESTED, AT_ORIGIN, 1 / 2),
    "concentric_squares": _outlines(_square, NESTED, AT_ORIGIN, 2 / 3),
    "parallel_rings": _outlines(_circle, ALIKE, (-2.8, 0, 2.8), 1 / 2),
    "parallel_squares": _outlines(_square, ALIKE, (-3, 0, 3), 2 / 3),
}
"""Each by its name; the first four as wide as high, the last two three in a row."""
