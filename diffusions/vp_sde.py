"""The variance-preserving SDE of score networks that know any t (Song et al. 2021, arXiv:2011.13456)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from diffusions.process import Model
from diffusions.schedule import Level


@dataclass(frozen=True)
class VPSDE:
    """The noise of dx = -beta x / 2 dt + sqrt(beta) dw (eq. 11, one beta throughout); the network is told t.

    It keeps the variance in the network's own units; the levels are in those of images on [-1, 1].
    """

    beta: float
    """Above 0."""
    t_min: float
    t_max: float
    """First and last t that the network knows, 0 < t_min < t_max; timesteps 0 to T - 1 spread over them."""
    num_timesteps: int
    """T, at least 2."""
    image_range: tuple[float, float] = (-1.0, 1.0)
    """What black and white are in the network's units."""
    finest = 1e-3

    def __post_init__(self):
        if not (self.beta > 0 and 0 < self.t_min < self.t_max and self.num_timesteps > 1):
            raise ValueError(
                "a VP SDE needs beta above 0, 0 < t_min < t_max and at least 2 timesteps, got "
                f"{self.beta}, {self.t_min}, {self.t_max} and {self.num_timesteps}"
            )
        if len(self.image_range) != 2 or not self.image_range[0] < self.image_range[1]:
            raise ValueError(f"image_range {list(self.image_range)}: give two numbers, black below white")

    @property
    def unit(self) -> float:
        """How much of the network's units is 1 of an image on [-1, 1]."""
        low, high = self.image_range
        return (high - low) / 2

    @property
    def _stride(self) -> float:
        return (self.t_max - self.t_min) / (self.num_timesteps - 1)

    def levels(self, timesteps: Sequence[float]) -> list[Level]:
        """Return the levels of some timesteps: signal exp(-beta t / 2), noise sqrt(1 - signal^2) / unit."""
        return [self._level(self.t_min + timestep * self._stride) for timestep in timesteps]

    def _level(self, t: float) -> Level:
        return Level(math.exp(-self.beta * t / 2), math.sqrt(-math.expm1(-self.beta * t)) / self.unit, t)

    def timestep_at(self, sigma: float) -> float:
        """Return the timestep of a noise / signal, or that of an end for one beyond it."""
        t = math.log1p((sigma * self.unit) ** 2) / self.beta
        return min(max((t - self.t_min) / self._stride, 0.0), self.num_timesteps - 1.0)

    def adapt(self, model: Model) -> Model:
        """Let a network of scores in its own units work on images in [-1, 1].

        With black a, white b, c = (a + b) / 2 and unit u = (b - a) / 2, an image x is u x + c to the network,
        a state x_t is u x_t + signal c, and scores are u times as large.

        Args:
            model: (state in its units, t [B]) -> score.

        Returns:
            (x_t [B, C, ...], t [B]) -> score.
        """
        middle = sum(self.image_range) / 2

        def adapted(x_t: Tensor, t: Tensor) -> Tensor:
            signal = (-self.beta / 2 * t).exp().to(x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))
            return self.unit * model(self.unit * x_t + middle * signal, t)

        return adapted
