"""Variance-exploding processes (Song et al. 2021, arXiv:2011.13456): x = x_0 + sigma eps."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from diffusions.ddpm import DDPM
from diffusions.prediction import interpret, split_variance
from diffusions.process import Model, Noise, draw
from diffusions.respacing import karras_sigmas
from diffusions.schedule import Level, NoiseSchedule

_ROUNDING = 1e-11
"""Of a timestep: what the logarithms leave of a sigma of the table."""


@dataclass(frozen=True, eq=False)
class VESchedule:
    """The noise of a VE process; the network is told sigma, and knows those between timesteps as well."""

    sigmas: Tensor
    """Increasing, above 0; float64 on the CPU, shape [T]."""
    finest = 1e-3

    def __post_init__(self):
        if self.sigmas.dtype != torch.float64 or self.sigmas.ndim != 1 or not len(self.sigmas):
            raise ValueError(f"sigmas must be a float64 table, got {self.sigmas.dtype} {self.sigmas.shape}")
        if not (self.sigmas[0] > 0 and (self.sigmas.diff() > 0).all() and self.sigmas[-1].isfinite()):
            raise ValueError("sigmas must increase from above 0, and be finite")

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""
        return len(self.sigmas)

    def levels(self, timesteps: Sequence[float]) -> list[Level]:
        """Return the levels of some timesteps: signal 1; between two of them log sigma is linear."""
        return [Level(1.0, sigma, sigma) for sigma in map(self._sigma, timesteps)]

    def timestep_at(self, sigma: float) -> float:
        """Return the timestep of a sigma, in general a fraction; that of an end for one beyond it."""
        table = self._table
        above = bisect_left(table, sigma)
        if above in (0, len(table)) or table[above] == sigma:
            return min(above, len(table) - 1)
        low, high = table[above - 1], table[above]
        timestep = above - 1 + math.log(sigma / low) / math.log(high / low)
        return round(timestep) if abs(timestep - round(timestep)) < _ROUNDING else timestep

    def _sigma(self, timestep: float) -> float:
        below = int(timestep)
        low, share = self._table[below], timestep - below
        return low * (self._table[below + 1] / low) ** share if share else low

    @cached_property
    def _table(self) -> list[float]:
        return self.sigmas.tolist()


def make_ve_schedule(sigma_min: float, sigma_max: float, num_timesteps: int) -> VESchedule:
    """Build the geometric schedule, sigma_i = sigma_min (sigma_max / sigma_min)^(i / (T - 1)).

    Args:
        sigma_min: Noise at timestep 0, above 0, in the units of the images.
        sigma_max: Noise at timestep T - 1.
        num_timesteps: T, at least 2.

    Raises:
        ValueError: Ends or a number that make no increasing schedule.
    """
    if not 0 < sigma_min < sigma_max or num_timesteps < 2:
        raise ValueError(
            "a VE schedule needs 0 < sigma_min < sigma_max and at least 2 timesteps, "
            f"got {sigma_min}, {sigma_max} and {num_timesteps}"
        )
    exponent = torch.linspace(0, 1, num_timesteps, dtype=torch.float64)
    return VESchedule(sigma_min * (sigma_max / sigma_min) ** exponent)


def make_karras_schedule(sigma_min: float, sigma_max: float, num_timesteps: int) -> VESchedule:
    """Build the schedule of Karras et al. (2022, eq. 5), rho 7, see `karras_sigmas`.

    Args:
        sigma_min: Noise at timestep 0, above 0, in the units of the images.
        sigma_max: Noise at timestep T - 1.
        num_timesteps: T, at least 2.

    Raises:
        ValueError: Ends or a number that make no increasing schedule.
    """
    return VESchedule(torch.tensor(karras_sigmas(sigma_min, sigma_max, num_timesteps), dtype=torch.float64))


class PredictorCorrector(DDPM):
    """DDPM's step, on a VE schedule the predictor, after steps of Langevin dynamics at the same level."""

    def __init__(self, *args, corrector_steps: int, snr: float, **options):
        """
        Args:
            *args: As for DDPM.
            corrector_steps: Langevin steps before each step down, one call of the network each.
            snr: Signal-to-noise ratio that sets their size; 0.16 for CIFAR-10, 0.075 for 256x256.
            **options: As for DDPM.
        """
        super().__init__(*args, **options)
        self.corrector_steps, self.snr = corrector_steps, snr

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Correct, then go down one level (Song et al. 2021, algorithms 2 and 4); see DDPM.step."""
        for _ in range(self.corrector_steps):
            x_t = self.correct(model, x_t, source, noise)
        return super().step(model, x_t, source, target, noise)

    def correct(self, model: Model, x_t: Tensor, level: int, noise: Noise | None) -> Tensor:
        """Take one Langevin step, x + h score + sqrt(2 h) z with h = 2 (snr |z| / |score|)^2.

        The norms are those of each image, where the published program averages them over the batch, so
        that an image's result does not depend on its neighbours.

        Args:
            model: The network.
            x_t: State of the level, shape [B, C, ...].
            level: 1 to K.
            noise: Source of z.
        """
        score = -self.predict(model, x_t, level, clip=False).eps / self.levels[level].noise
        z = draw(noise, x_t)
        norms = [part.flatten(1).norm(dim=1).view(-1, *[1] * (x_t.ndim - 1)) for part in (z, score)]
        h = 2 * (self.snr * norms[0] / norms[1]) ** 2
        return x_t + h * score + (2 * h).sqrt() * z


def from_unit_range(model: Model) -> Model:
    """Let a network of scores of images in [0, 1] work on [-1, 1], where noise and sigma are twice as large.

    Args:
        model: (x_t, sigma) -> score, for images in [0, 1].

    Returns:
        The same for images in [-1, 1].
    """
    return lambda x_t, sigma: model((x_t + 1) / 2, sigma / 2) / 2


def as_ve(model: Model, schedule: NoiseSchedule, prediction: str) -> Model:
    """Let a variance-preserving network predict the eps of a VE state (Karras et al. 2022, table 1).

    It sees x_t / sqrt(1 + sigma^2), at the timestep, in general a fraction, where its schedule has this
    sigma; log sigma is interpolated linearly between timesteps, and a sigma beyond the schedule's ends
    is told as that end.

    Args:
        model: A network of `prediction`, trained on `schedule`, that takes fractional timesteps.
        schedule: T timesteps.
        prediction: eps, x0 or v.

    Returns:
        (x_t, sigma) -> eps; a learned variance is dropped.
    """
    table = (1 / schedule.alphas_cumprod - 1).log() / 2
    table_on = cache(table.to)  # each copy to a GPU is waited for

    def ve_model(x_t: Tensor, sigma: Tensor) -> Tensor:
        t = _interpolate(table_on(sigma.device), sigma.double().log())
        sigma = sigma.to(x_t.dtype).view(-1, *[1] * (x_t.ndim - 1))
        signal = (1 + sigma**2).rsqrt()
        x_vp = signal * x_t
        output, _ = split_variance(model(x_vp, t).to(x_t.dtype), x_t.shape[1])
        return interpret(output, x_vp, Level(signal, signal * sigma, 0), prediction)[1]

    return ve_model


def _interpolate(table: Tensor, values: Tensor) -> Tensor:
    """Return the fractional index of values in an increasing table, from 0 to its last."""
    above = torch.searchsorted(table, values).clamp(1, len(table) - 1)
    low, high = table[above - 1], table[above]
    return (above - 1 + (values - low) / (high - low)).clamp(0, len(table) - 1)
