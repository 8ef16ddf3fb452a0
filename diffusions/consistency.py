"""Sampling with consistency models (Song et al. 2023, arXiv:2303.01469): one call from noise to an image."""

import math
from collections.abc import Sequence

from torch import Tensor

from diffusions.preconditioning import SIGMA_DATA
from diffusions.prediction import Prediction
from diffusions.process import Model, Noise, Process, as_state, draw
from diffusions.schedule import Schedule

TIMESTEP_SCALING = 10.0
"""Of latent consistency models."""


class Consistency(Process):
    """Each step predicts the image and noises it again, to the level below."""

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[float],
        prediction: str = "x0",
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means, x0 where `precondition` is around it.
            clip_denoised: Clip the predicted x_0 to [-1, 1].

        Raises:
            ValueError: An unknown prediction, or timesteps out of order or range.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised)
        first = schedule.levels([0])[0]
        self.least = first.noise if first.signal == 1 else 0.0
        """Noise at which the network is the identity; images are taken to have it still."""

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Go down, x_k = signal_k x_0 + sqrt(noise_k^2 - e^2) z (Song et al. 2023, algorithm 1).

        e is the least noise.

        Args:
            model: The network, asked once, at level `source`.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level j, 1 to K.
            target: Level k, below.
            noise: Source of z; drawn from once, but not by the step to level 0.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: A step that does not go down.
        """
        self.check_level(source)
        if not 0 <= target < source:
            raise ValueError(f"consistency models step down, found a step from level {source} to {target}")
        x_0 = self.predict_guided(model, as_state(x_t), source).x_0
        if target == 0:
            return x_0
        there = self.levels[target]
        fresh = math.sqrt(max(there.noise**2 - self.least**2, 0.0))
        return there.signal * x_0 + fresh * draw(noise, x_0)


class LatentConsistency(Consistency):
    """Of networks that predict noise and were distilled to be consistent (Luo et al. 2023, arXiv:2310.04378).

    The image is f(x, t) = c_skip x + c_out x_0, with x_0 from the network, c_skip = d^2 / (s^2 + d^2) and
    c_out = s / sqrt(s^2 + d^2), where s = 10 t and d = 0.5: the identity at timestep 0.
    """

    def predict(self, model: Model, x_t: Tensor, level: int, clip: bool) -> Prediction:
        """Ask the network, once, see `Process.predict`; eps is that of the network."""
        found = super().predict(model, x_t, level, clip)
        s = TIMESTEP_SCALING * self.timesteps[level - 1]
        norm = s**2 + SIGMA_DATA**2
        return found._replace(x_0=SIGMA_DATA**2 / norm * x_t + s / math.sqrt(norm) * found.x_0)
