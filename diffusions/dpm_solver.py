"""DPM-Solver++ (Lu et al. 2022, arXiv:2211.01095), the multistep solver of second order, 2M."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffusions.process import Model, Noise, Process, Step, as_state, draw
from diffusions.schedule import Schedule


class DPMSolver(Process):
    """Few large steps down, along the ODE or, with fresh noise, along the SDE."""

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[int],
        prediction: str = "eps",
        stochastic: bool = False,
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            stochastic: Solve the SDE (SDE-DPM-Solver++) instead of the ODE.
            clip_denoised: Clip the predicted x_0 to [-1, 1].

        Raises:
            ValueError: An unknown prediction, or timesteps out of order or range.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised)
        self.stochastic = stochastic

    def walk(self, model: Model, noise: Noise | None) -> Step:
        """Begin a walk down, each step with one call of the network (Lu et al. 2022, algorithm 2).

        With h = log(sigma_j / sigma_k) from level j down to k, and the x_0 of the step before,
        D = x_0 + h / (2 h_before) (x_0 - x_0_before):
        ODE: x_k = (noise_k / noise_j) x_j + signal_k (1 - e^-h) D;
        SDE: x_k = (noise_k / noise_j) e^-h x_j + signal_k (1 - e^-2h) D + noise_k sqrt(1 - e^-2h) z.
        The first step and the one to level 0, which has no finite h, take D = x_0. So does one more than
        twice as long as that before it, as the last of evenly spaced timesteps are: over such a distance
        the line through two x_0 is further off than the last of them. So do elements that are not what
        the step before made of them, as where a mask composites: the x_0 before was not theirs.

        Args:
            model: The network.
            noise: Source of z; drawn from by a stochastic step, but not by the one to level 0.

        Returns:
            (x_t, source level, target level) -> state of the target level, which must be below.
        """
        # x_0, the level of the state that it was found in, and the state that it led to
        before: tuple[Tensor, int, Tensor] | None = None

        def step(x_t: Tensor, source: int, target: int) -> Tensor:
            nonlocal before
            if not 0 <= target < source:
                raise ValueError(f"DPM-Solver++ steps down, found a step from level {source} to {target}")
            x_t = as_state(x_t)
            x_0, _, _ = self.predict_guided(model, x_t, source)
            denoised = x_0
            if before is not None and target > 0:
                x_0_before, above, reached = before
                ratio = self._log_ratio(source, target) / self._log_ratio(above, source)
                if ratio <= 2:
                    denoised = torch.where(x_t == reached, x_0 + ratio / 2 * (x_0 - x_0_before), x_0)
            x = self._move(x_t, denoised, source, target, noise)
            before = (x_0, source, x)
            return x

        return step

    def _move(self, x_t: Tensor, denoised: Tensor, source: int, target: int, noise: Noise | None) -> Tensor:
        here, there = self.levels[source], self.levels[target]
        decay = self.sigma(target) / self.sigma(source)
        if not self.stochastic:
            return there.noise / here.noise * x_t + there.signal * (1 - decay) * denoised
        fresh = self.fresh_share(source, target)
        x = there.noise / here.noise * decay * x_t + there.signal * fresh * denoised
        return x + there.noise * math.sqrt(fresh) * draw(noise, x) if target > 0 else x

    def _log_ratio(self, source: int, target: int) -> float:
        return math.log(self.sigma(source) / self.sigma(target))
