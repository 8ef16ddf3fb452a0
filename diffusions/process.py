"""What the processes share: their levels, the way up, and how they ask the network."""

import math
from collections.abc import Callable, Sequence
from copy import copy
from functools import partial
from itertools import pairwise
from typing import Self

import torch
from torch import Tensor

from diffusions.interval import Within
from diffusions.prediction import PREDICTIONS, Prediction, interpret, split_variance, to_eps, to_x_0
from diffusions.schedule import CLEAN, Schedule

Model = Callable[[Tensor, Tensor], Tensor]
"""A network: (x_t [B, C, ...], timesteps int64 [B], or sigmas or t [B]) -> [B, C or 2C, ...]."""
Noise = Callable[[], Tensor]
"""Returns the next standard normal noise of the batch, [B, C, ...]."""
Gradient = Callable[[Tensor, Tensor], Tensor]
"""(x_t [B, C, ...], what the network is told [B]) -> gradient of a log-likelihood, shape of x_t."""
Step = Callable[[Tensor, int, int], Tensor]
"""Moves a state [B, C, ...] from one level to another."""
Look = Callable[[Tensor, int], None]
"""Is shown a state [B, C, ...] and its level."""


class Process:
    """Levels 0 ... K of a respaced process: x_k = signal_k x_0 + noise_k eps.

    Level 0 is the clean image (signal 1, noise 0); level k is training timestep timesteps[k - 1].
    """

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[float],
        prediction: str = "eps",
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            clip_denoised: Clip the predicted x_0 to [-1, 1] on every step down.

        Raises:
            ValueError: Timesteps out of order or out of range, or an unknown or impossible prediction.
        """
        if prediction not in PREDICTIONS:
            raise ValueError(f"unknown prediction {prediction!r}, choose one of {', '.join(PREDICTIONS)}")
        self.timesteps = _checked(timesteps, schedule.num_timesteps)
        self.levels = (CLEAN, *schedule.levels(self.timesteps))
        """Level 0 to K, float64 as Python floats: cast only where they meet the state."""
        if prediction == "v" and any(abs(a**2 + s**2 - 1) > 1e-6 for a, s, _ in self.levels):
            raise ValueError("prediction v needs a schedule that preserves the variance, not a VE one")
        if self.levels[-1].signal == 0 and prediction not in ("x0", "v"):
            raise ValueError(
                f"prediction {prediction} says nothing of the image at timestep {self.timesteps[-1]}, which "
                "has no signal; networks that know it predict x0 or v, or leave that timestep out"
            )
        self.num_timesteps = schedule.num_timesteps
        self.prediction = prediction
        self.clip_denoised = clip_denoised
        self.bound = 1.0
        self.gradient: Gradient | None = None
        self.look: Look | None = None

    @property
    def num_steps(self) -> int:
        """K, the number of steps from pure noise to an image."""
        return len(self.timesteps)

    def check_level(self, level: int, lowest: int = 1) -> None:
        """Refuse a level that the process does not have.

        Raises:
            ValueError: Below `lowest` or above K.
        """
        if not lowest <= level <= self.num_steps:
            raise ValueError(
                f"level {level}: this process has levels {lowest} to {self.num_steps}; "
                "choose one of them, or respace to more steps"
            )

    def level_at(self, t0: float) -> int:
        """Find the level nearest to a fraction of the trained process, the lower one of two as near.

        Args:
            t0: Share of the T timesteps, above 0 to 1 (t_0 of Meng et al. 2022).

        Returns:
            Level from 1 to K; K for t0 = 1.

        Raises:
            ValueError: Not a fraction.
        """
        if not 0 < t0 <= 1:
            raise ValueError(f"t0 is {t0}; give a fraction of the process, above 0 and up to 1")
        wanted = t0 * self.num_timesteps
        return min(range(1, self.num_steps + 1), key=lambda k: abs(self.timesteps[k - 1] + 1 - wanted))

    def level_of(self, sigma: float) -> int:
        """Find the level whose noise is nearest to sigma, in log sigma, the lower one of two as near.

        Args:
            sigma: In units of the signal, as of `sigma`: that of the images, where they are on [-1, 1].

        Returns:
            Level from 1 to K.

        Raises:
            ValueError: Further beyond the last level, or below the first, than half.
        """
        low, high = self.sigma(1), self.sigma(self.num_steps)
        if not low / 2 <= sigma <= high * 2:
            raise ValueError(f"sigma {sigma:g}: the levels of this process have {low:.4g} to {high:.4g}")
        return min(range(1, self.num_steps + 1), key=lambda k: abs(math.log(self.sigma(k) / sigma)))

    def t0_at(self, level: int) -> float:
        """Return the fraction of the trained process that a level is, which `level_at` finds."""
        self.check_level(level)
        return (self.timesteps[level - 1] + 1) / self.num_timesteps

    def sigma(self, level: int) -> float:
        """Return the noise in units of the signal, for VP sqrt(1 / A_k - 1); inf without signal."""
        self.check_level(level, lowest=0)
        return self.levels[level].sigma

    def guided(self, gradient: Gradient | None) -> Self:
        """Return this process with its steps down leaning along a gradient (Dhariwal & Nichol 2021)."""
        process = copy(self)
        process.gradient = gradient
        return process

    def bounded(self, bound: float | None) -> Self:
        """Return this process with x_0 clipped to [-bound, bound] where it clips, or with None never."""
        process = copy(self)
        process.bound, process.clip_denoised = bound or self.bound, self.clip_denoised and bound is not None
        return process

    def watched(self, look: Look | None) -> Self:
        """Return this process with walks that show every state, before they move it."""
        process = copy(self)
        process.look = look
        return process

    def fresh_share(self, source: int, target: int) -> float:
        """Return the share of a level's noise variance that a lower one lacks: 1 - (sigma_k / sigma_j)^2."""
        return 1 - self.kept_share(source, target)

    def kept_share(self, source: int, target: int) -> float:
        """Return the share of a level's noise variance that a lower one has too: (sigma_k / sigma_j)^2."""
        return (self.sigma(target) / self.sigma(source)) ** 2

    def start(self, model: Model, noise: Noise | None = None) -> Step:
        """Begin a walk over the levels; what a solver remembers of its last steps lives in the walk.

        Args:
            model: The network.
            noise: Source of the noise that the steps draw.

        Returns:
            (x_t, source level, target level) -> state of the target level.
        """
        step, look = self.walk(model, noise), self.look
        if look is None:
            return step

        def watched_step(x_t: Tensor, source: int, target: int) -> Tensor:
            look(x_t, source)
            return step(x_t, source, target)

        return watched_step

    def walk(self, model: Model, noise: Noise | None) -> Step:
        """Begin a walk that nobody watches, see `start`; for a solver with a memory to override."""
        return partial(self.step, model, noise=noise)

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move a state from one level to another."""
        raise NotImplementedError(f"{type(self).__name__} has no step of its own; use start")

    def shown(self, x_t: Tensor, level: int) -> Tensor:
        """Bring a state to the range of images, x_k / sqrt(signal_k^2 + noise_k^2), to look at.

        Args:
            x_t: State, shape [B, C, ...]; a pair of states, [B, 2C, ...], is shown by its first.
            level: Its level, 0 to K.

        Returns:
            Shape [B, C, ...]; of an image, the image.
        """
        return x_t / self._scale(level)

    def _scale(self, level: int) -> float:
        return math.hypot(self.levels[level].signal, self.levels[level].noise)

    def diffuse(self, x_0: Tensor, level: int, noise: Tensor) -> Tensor:
        """Noise an image up to a level, signal_k x_0 + noise_k z (Ho et al. 2020, eq. 4).

        Args:
            x_0: Images, shape [B, C, ...], range [-1, 1].
            level: From 0, which returns x_0, to K.
            noise: z, standard normal, shape of x_0.

        Returns:
            x_k, shape of x_0, at least float32.
        """
        self.check_level(level, lowest=0)
        x_0 = as_state(x_0)
        here = self.levels[level]
        return here.signal * x_0 + here.noise * noise.to(x_0.dtype)

    def renoise(self, x_t: Tensor, source: int, target: int, noise: Tensor) -> Tensor:
        """Noise a state up to a higher level, by what it lacks: q(x_k | x_j) (Lugmayr et al. 2022).

        Args:
            x_t: State of level `source`, shape [B, C, ...].
            source: From 0.
            target: Above.
            noise: Standard normal, shape of x_t.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: Levels that do not exist, or none above the other.
        """
        self.check_level(target, lowest=source + 1)
        x_t, here, there = as_state(x_t), self.levels[source], self.levels[target]
        signal = there.signal / here.signal
        return signal * x_t + math.sqrt(there.noise**2 - (signal * here.noise) ** 2) * noise.to(x_t.dtype)

    def predict(self, model: Model, x_t: Tensor, level: int, clip: bool) -> Prediction:
        """Ask the network, once, for the x_0 and the eps in a state of some level.

        Args:
            model: The network, or what it is at each level, see `Within`.
            x_t: State, shape [B, C, ...], at least float32.
            level: Level that the network is told, 1 to K.
            clip: Clip x_0 to [-1, 1] (see `bounded`), and derive eps from the clipped x_0.

        Returns:
            x_0, eps and perhaps a variance, in the dtype of x_t.
        """
        self.check_level(level)
        here = self.levels[level]
        model = model.at(here.sigma) if isinstance(model, Within) else model
        output, variance = split_variance(model(x_t, self.condition(x_t, level)).to(x_t.dtype), x_t.shape[1])
        x_0, eps = interpret(output, x_t, here, self.prediction)
        if clip:
            x_0 = x_0.clamp(-self.bound, self.bound)
            eps = to_eps(x_0, x_t, here)
        return Prediction(x_0, eps, variance)

    def predict_guided(self, model: Model, x_t: Tensor, level: int) -> Prediction:
        """Do as `predict`, clipped where the process clips, then lean: eps - noise * gradient.

        Dhariwal & Nichol 2021, algorithm 2; the x_0 that belongs to this eps is not clipped again.
        """
        prediction = self.predict(model, x_t, level, self.clip_denoised)
        here = self.levels[level]
        if self.gradient is None or here.signal == 0:  # of noise alone a classifier knows nothing
            return prediction
        eps = prediction.eps - here.noise * self.gradient(x_t, self.condition(x_t, level)).to(x_t.dtype)
        return Prediction(to_x_0(eps, x_t, here), eps, prediction.variance)

    def condition(self, x_t: Tensor, level: int) -> Tensor:
        """Return what the network is told at a level: timesteps int64, or sigmas, shape [B]."""
        told = self.levels[level].condition
        dtype = torch.int64 if isinstance(told, int) else x_t.dtype
        return torch.full((len(x_t),), told, dtype=dtype, device=x_t.device)


def as_state(x: Tensor) -> Tensor:
    """Return x in the precision that a state needs, at least float32."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def draw(noise: Noise | None, like: Tensor) -> Tensor:
    """Draw noise in the dtype of a state.

    Raises:
        ValueError: A step needs noise and was given no source of it.
    """
    if noise is None:
        raise ValueError("this step draws noise and was given none; pass a callable that returns it")
    return noise().to(like.dtype)


def _checked(timesteps: Sequence[float], num_timesteps: int) -> tuple[float, ...]:
    timesteps = tuple(timesteps)
    if not timesteps or timesteps[0] < 0 or timesteps[-1] >= num_timesteps:
        found = f"{timesteps[0]} to {timesteps[-1]}" if timesteps else "none"
        raise ValueError(f"timesteps: found {found}, allowed are 0 to {num_timesteps - 1}; see `respace`")
    for low, high in pairwise(timesteps):
        if low >= high:
            raise ValueError(f"timesteps: found {high} after {low}; give them once each, increasing")
    return timesteps
