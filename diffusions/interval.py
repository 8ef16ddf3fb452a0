"""Guidance within an interval of noise (Kynkäänniemi et al. 2024, arXiv:2404.07724)."""

import math
from collections.abc import Callable

from torch import Tensor

Network = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, C, ...], what it is told of the level [B]) -> [B, C or 2C, ...]."""


EVERYWHERE = (0.0, math.inf)


class Within:
    """A model that leans where the noise is within an interval, and does not elsewhere.

    At high noise guidance narrows what is made, at low noise it only strengthens colours. A process asks for
    the model of each of its levels.
    """

    def __init__(self, leaning: Network, plain: Network, interval: tuple[float, float]):
        """
        Args:
            leaning: At a sigma above the first end of the interval, up to the second.
            plain: At any other.
            interval: In units of the signal, as `Process.sigma`: that of images, where they are on [-1, 1].
        """
        self._leaning, self._plain, self._interval = leaning, plain, interval

    def at(self, sigma: float) -> Network:
        """Return the model of a level."""
        return self._leaning if is_within(sigma, self._interval) else self._plain


def is_within(sigma: float, interval: tuple[float, float]) -> bool:
    """Whether a level's noise is above the first end of an interval and not above the second."""
    return interval[0] < sigma <= interval[1]
