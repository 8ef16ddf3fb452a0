"""Problems for solvers whose answers are known: ODEs of Gaussians on grids that refine evenly."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from golden_samplers import gaussian, ve_gaussian, worst
from torch import Tensor

from diffusions import BDIA, NoiseSchedule, decode, encode, translate
from diffusions.process import Process
from diffusions.schedule import Schedule
from diffusions.ve import VESchedule

A_DATA, B_DATA = (0.4, 0.3), (-0.5, 0.2)  # mean and std
SIGMA = 5.0
X = torch.linspace(-0.3, 1.1, 15, dtype=torch.float64).view(5, 3)


def cubic_sigmas(K: int) -> Tensor:
    """Sigma of levels 1 to K, even in its third root from level 0, so that all steps shrink with K."""
    return SIGMA * (torch.arange(1, K + 1, dtype=torch.float64) / K) ** 3


def vp_schedule(sigmas: Tensor) -> NoiseSchedule:
    """The schedule that preserves the variance and has these sigmas."""
    A = 1 / (1 + sigmas**2)
    return NoiseSchedule(1 - A / torch.cat([torch.ones(1).double(), A[:-1]]))


@dataclass
class Problem:
    """N(A_DATA) to N(B_DATA), on K levels from 0 to SIGMA."""

    kind: str
    K: int

    def __post_init__(self):
        sigmas = cubic_sigmas(self.K)
        self.schedule: Schedule = VESchedule(sigmas) if self.kind == "ve" else vp_schedule(sigmas)

    def model(self, data: tuple[float, float], prediction: str = "eps") -> Callable[[Tensor, Tensor], Tensor]:
        if self.kind == "ve":
            return ve_gaussian(*data, prediction)
        return gaussian(self.schedule, *data, prediction)

    def process(self, method: type[Process], prediction: str = "eps", **options) -> Process:
        return method(self.schedule, range(self.K), prediction, clip_denoised=False, **options)

    def latent(self, data: tuple[float, float], x: Tensor) -> Tensor:
        """Where the ODE leads from images to level K: (y - m) / sqrt(s^2 + sigma^2) is constant."""
        (m, s), signal = data, 1.0 if self.kind == "ve" else 1 / math.hypot(1, SIGMA)
        return signal * (m + (x - m) * math.hypot(s, SIGMA) / s)

    @staticmethod
    def translated(x: Tensor) -> Tensor:
        """y = m_B + (m_A - m_B) s_B / w_B + (s_B / s_A) (x - m_A) w_A / w_B, w^2 = s^2 + sigma_K^2."""
        (m_A, s_A), (m_B, s_B) = A_DATA, B_DATA
        w_A, w_B = math.hypot(s_A, SIGMA), math.hypot(s_B, SIGMA)
        return m_B + (m_A - m_B) * s_B / w_B + s_B / s_A * (x - m_A) * w_A / w_B


def as_latent(process: Process, x: Tensor) -> Tensor:
    """A state of level K as this process wants it: BDIA's is two."""
    return torch.cat([x, x], dim=1) if isinstance(process, BDIA) else x


def errors(method: type[Process], kind: str, K: int, prediction: str = "eps", **options) -> dict[str, float]:
    """Largest errors of each way, of a translation, of a round trip A to A, and of a cycle A to B to A."""
    problem = Problem(kind, K)
    process = problem.process(method, prediction, **options)
    model_A, model_B = (problem.model(data, prediction) for data in (A_DATA, B_DATA))
    latent = problem.latent(A_DATA, X)
    there = translate(process, model_A, model_B, X)
    return {
        "encode": worst(encode(process, model_A, X)[:, : X.shape[1]] - latent) / float(latent.abs().max()),
        "decode": worst(decode(process, model_A, as_latent(process, latent)) - X),
        "translate": worst(there - problem.translated(X)),
        "same": worst(translate(process, model_A, model_A, X) - X),
        "cycle": worst(translate(process, model_B, model_A, there) - X),
    }


class Calls:
    """A model that counts its calls and keeps what it was asked."""

    def __init__(self, model):
        self._model, self.told = model, []

    def __call__(self, x, t):
        self.told.append(t[0].item())
        return self._model(x, t)
