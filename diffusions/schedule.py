"""The noise that a network was trained with: levels, and the beta tables of NoiseSchedule."""

import math
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
from torch import Tensor


class Level(NamedTuple):
    """One level of a process, where x = signal x_0 + noise eps."""

    signal: float
    noise: float
    condition: int | float
    """What the network is told: a training timestep, or sigma."""

    @property
    def sigma(self) -> float:
        """noise / signal, infinite where there is no signal."""
        return self.noise / self.signal if self.signal else math.inf


CLEAN = Level(1.0, 0.0, 0)


class Schedule(Protocol):
    """What a process needs of the noise that a network was trained with."""

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps."""

    @property
    def finest(self) -> float:
        """Least distance of two timesteps: 1 where there are no others, less where the network knows any."""

    def levels(self, timesteps: Sequence[float]) -> list[Level]:
        """Return the levels of some timesteps, each from 0 to T - 1."""

    def timestep_at(self, sigma: float) -> float:
        """Return the timestep, 0 to T - 1, whose noise / signal is nearest to sigma, in log sigma."""


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """The noise that a network was trained with: beta_t for t = 0 ... T - 1 (Ho et al. 2020, eq. 2)."""

    betas: Tensor
    """Variance that each timestep adds, above 0, below 1 or at the end 1; float64 on the CPU, [T]."""
    finest = 1

    def __post_init__(self):
        betas = self.betas
        if betas.dtype != torch.float64 or betas.device.type != "cpu" or betas.ndim != 1 or not len(betas):
            raise ValueError(
                "betas must be a float64 table on the CPU, one a timestep, "
                f"got {betas.dtype} of shape {list(betas.shape)} on {betas.device}"
            )
        for t, beta in enumerate(betas.tolist()):
            if not 0 < beta < 1 and not (beta == 1 and t == len(betas) - 1):
                raise ValueError(f"betas must lie strictly between 0 and 1, got {beta:g} at timestep {t}")
        if self.alphas_cumprod[-1] == 0 and betas[-1] < 1:
            raise ValueError("alphas_cumprod must stay above 0, got 0 at the end; use fewer or smaller betas")

    @property
    def num_timesteps(self) -> int:
        """T, the number of timesteps that the network knows."""
        return len(self.betas)

    @property
    def alphas_cumprod(self) -> Tensor:
        """prod_{s <= t} (1 - beta_s) (Ho et al. 2020, eq. 4); float64, shape [T], decreasing from below 1."""
        return (1 - self.betas).cumprod(dim=0)

    def levels(self, timesteps: Sequence[int]) -> list[Level]:
        """Return the levels of some timesteps, variance preserving: signal^2 + noise^2 = 1."""
        kept = zip(timesteps, self.alphas_cumprod[list(timesteps)].tolist(), strict=True)
        return [Level(math.sqrt(alpha), math.sqrt(1 - alpha), t) for t, alpha in kept]

    def timestep_at(self, sigma: float) -> int:
        """Return the timestep whose noise / signal is nearest to sigma, the lower of two as near."""
        table, value = self._log_sigmas, math.log(sigma)
        above = min(bisect_left(table, value), len(table) - 1)
        below = max(above - 1, 0)
        return below if value - table[below] <= table[above] - value else above

    def without_last_signal(self) -> "NoiseSchedule":
        """Return this schedule with zero terminal SNR (Lin et al. 2023, arXiv:2305.08891, algorithm 1).

        sqrt(alphas_cumprod) is shifted to end at 0 and scaled to begin where it did.
        """
        root = self.alphas_cumprod.sqrt()
        alphas = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        return NoiseSchedule(1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]]))

    @cached_property
    def _log_sigmas(self) -> list[float]:
        return ((1 / self.alphas_cumprod - 1).log() / 2).tolist()


def make_schedule(
    name: str, num_timesteps: int, beta_start: float | None = None, beta_end: float | None = None
) -> NoiseSchedule:
    """Build one of the published schedules.

    `linear` is that of Ho et al. (2020), without any scaling by T: where openai's programs train a
    'linear' network with T other than 1000, both ends are 1000 / T times 1e-4 and 0.02, and its
    config says so. `quad` is linear in sqrt(beta) and is elsewhere also called scaled_linear.
    `const` is beta_end throughout, whatever beta_start. `cosine` is that of Nichol & Dhariwal
    (2021, eq. 17), with betas up to 0.999. `sigmoid` is that of Jabri et al. (2022) with start -3,
    end 3 and tau 1, as denoising-diffusion-pytorch has it, likewise up to 0.999.

    Args:
        name: linear, quad, const, cosine or sigmoid.
        num_timesteps: T, at least 1.
        beta_start: First beta, between 0 and 1; for all but cosine and sigmoid.
        beta_end: Last beta, likewise.

    Returns:
        The schedule, T betas.

    Raises:
        ValueError: An unknown name, no timesteps, or ends that are missing, unwanted or out of range.
    """
    if name not in SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}, choose one of {', '.join(SCHEDULES)}")
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")
    if name in _OF_LENGTH:
        if (beta_start, beta_end) != (None, None):
            raise ValueError(f"the {name} schedule takes no beta_start and beta_end; remove them")
        return NoiseSchedule(_OF_LENGTH[name](num_timesteps))
    if beta_start is None or beta_end is None:
        raise ValueError(
            f"the {name} schedule needs beta_start and beta_end, got {beta_start} and {beta_end}"
        )
    if not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"beta_start and beta_end must lie in (0, 1), got {beta_start} and {beta_end}")
    return NoiseSchedule(_BETAS[name](num_timesteps, beta_start, beta_end))


def _linear(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return torch.linspace(beta_start, beta_end, num_timesteps, dtype=torch.float64)


def _quad(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return _linear(num_timesteps, math.sqrt(beta_start), math.sqrt(beta_end)) ** 2


def _const(num_timesteps: int, beta_start: float, beta_end: float) -> Tensor:
    return _linear(num_timesteps, beta_end, beta_end)


def _cosine(num_timesteps: int) -> Tensor:
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    return _betas_of(torch.cos((u + 0.008) / 1.008 * math.pi / 2) ** 2)


def _sigmoid(num_timesteps: int) -> Tensor:
    u = torch.arange(num_timesteps + 1, dtype=torch.float64) / num_timesteps
    # the package rounds the ends to float32, which moves the last beta but one by 1e-5 of itself
    first, last = torch.tensor([-3.0, 3.0], dtype=torch.float64).sigmoid().float().tolist()
    alphas_cumprod = (last - (6 * u - 3).sigmoid()) / (last - first)
    return _betas_of(alphas_cumprod)


def _betas_of(alphas_cumprod: Tensor) -> Tensor:
    """Return what each of T timesteps adds, at most 0.999, of T + 1 values from u = 0."""
    return (1 - alphas_cumprod[1:] / alphas_cumprod[:-1]).clamp(max=0.999)


_BETAS = {"linear": _linear, "quad": _quad, "const": _const}
_OF_LENGTH = {"cosine": _cosine, "sigmoid": _sigmoid}
WITH_ENDS, SCHEDULES = tuple(_BETAS), (*_BETAS, *_OF_LENGTH)
"""Names that `make_schedule` takes: those that need beta_start and beta_end, and all."""
