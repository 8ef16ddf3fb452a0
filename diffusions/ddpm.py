"""The ancestral step of DDPM (Ho et al. 2020), from a level to the one below."""

import math
from collections.abc import Sequence

from torch import Tensor

from diffusions.process import Model, Noise, Process, as_state, draw
from diffusions.schedule import Schedule

VAR_TYPES = ("fixed_small", "fixed_large", "learned_range")


class DDPM(Process):
    """Ancestral sampling: each step down adds fresh noise, but for the last."""

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[int],
        prediction: str = "eps",
        var_type: str = "fixed_small",
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            var_type: Variance of a step: fixed_small, fixed_large, or learned_range (2C channels).
            clip_denoised: Clip the predicted x_0 to [-1, 1].

        Raises:
            ValueError: An unknown name, or timesteps out of order or out of range.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised)
        if var_type not in VAR_TYPES:
            raise ValueError(f"unknown var_type {var_type!r}, choose one of {', '.join(VAR_TYPES)}")
        self.var_type = var_type

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Go down one level, x_{k-1} = mean + sqrt(variance) z (Ho et al. 2020, algorithm 2).

        Args:
            model: The network, asked once, at level `source`.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level k, 1 to K.
            target: Level k - 1.
            noise: Source of z; drawn from once, but not by the step to level 0.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: Another move than one level down, or no variance where the network must learn it.
        """
        if target != source - 1:
            raise ValueError(
                f"DDPM steps one level down, found a step from {source} to {target}; use DDIM for other moves"
            )
        self.check_level(source)
        x_t = as_state(x_t)
        x_0, _, learned = self.predict(model, x_t, source, self.clip_denoised)
        mean, variance = self.posterior_mean(x_0, x_t, source), self.variance(source, learned)
        if self.gradient is not None:  # Dhariwal & Nichol 2021, algorithm 1
            mean = mean + variance * self.gradient(x_t, self.condition(x_t, source)).to(x_t.dtype)
        return mean if target == 0 else mean + variance**0.5 * draw(noise, mean)

    def posterior_mean(self, x_0: Tensor, x_t: Tensor, level: int) -> Tensor:
        """Return the mean of q(x_{k-1} | x_k, x_0) (Ho et al. 2020, eq. 7).

        signal_{k-1} f x_0 + r (1 - f) x_k, where r = signal_{k-1} / signal_k and f is the share of x_k's
        noise that is not in x_{k-1}; for VP, f = b / (1 - A_k) with b = 1 - A_k / A_{k-1}.

        Args:
            x_0: Images, shape [B, C, ...].
            x_t: State of the level, shape of x_0.
            level: k, 1 to K.
        """
        below, here = self.levels[level - 1], self.levels[level]
        fresh = self.fresh_share(level, level - 1)
        kept = below.noise**2 / here.noise**2 * here.signal  # r (1 - f) without dividing by a signal of 0
        return below.signal * fresh * x_0 + (kept / below.signal) * x_t

    def variance(self, level: int, learned: Tensor | None = None) -> float | Tensor:
        """Return the variance of the step from a level to the one below.

        fixed_small is that of q(x_{k-1} | x_k, x_0), 0 at level 1; fixed_large is b; learned_range is
        exp(f log b + (1 - f) log fixed_small), f = (learned + 1) / 2 (Nichol & Dhariwal 2021, eq. 15).
        Where the last two would use the fixed_small of level 1, they use that of level 2.

        Args:
            level: k, 1 to K.
            learned: The network's variance, -1 to 1, shape [B, C, ...]; for learned_range.

        Returns:
            A number, or for learned_range a tensor of the shape of `learned`.

        Raises:
            ValueError: learned_range without a learned variance.
        """
        if self.var_type == "fixed_small":
            return self._fixed_small(level)
        if self.var_type == "fixed_large":
            return self._beta(level) if level > 1 else self._positive_fixed_small(level)
        if learned is None:
            raise ValueError(
                "var_type is learned_range, but the network returns no variance; "
                "choose fixed_small or fixed_large, or a network of twice as many output channels"
            )
        low, high = math.log(self._positive_fixed_small(level)), math.log(self._beta(level))
        return (low + (learned + 1) / 2 * (high - low)).exp()

    def _beta(self, level: int) -> float:
        return self.levels[level].noise ** 2 * self.fresh_share(level, level - 1)

    def _fixed_small(self, level: int) -> float:
        return self.levels[level - 1].noise ** 2 * self.fresh_share(level, level - 1)

    def _positive_fixed_small(self, level: int) -> float:
        # a process of one step has no level 2: what is left is beta, and no step uses it
        return self._fixed_small(max(level, 2)) if self.num_steps > 1 else self._beta(level)
