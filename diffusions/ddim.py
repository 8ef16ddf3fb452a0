"""The step of DDIM (Song et al. 2021), between any two levels, up or down."""

import math
from collections.abc import Sequence

from torch import Tensor

from diffusions.prediction import to_x_0
from diffusions.process import Model, Noise, Process, as_state, draw
from diffusions.schedule import Schedule


class DDIM(Process):
    """Sampling along the ODE (eta = 0), which also runs backwards, or with part of DDPM's noise."""

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[int],
        prediction: str = "eps",
        eta: float = 0.0,
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            eta: Share of DDPM's noise, 0 (none) to 1 (all).
            clip_denoised: Clip the predicted x_0 to [-1, 1] on the way down; never on the way up.

        Raises:
            ValueError: An unknown prediction, eta out of range, or timesteps out of order or range.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised)
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}; give 0 (deterministic) to 1 (as much noise as DDPM)")
        self.eta = eta

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move a state from one level to another, with one call of the network, at the higher of the two.

        On the way up the network therefore sees the state of the lower level with the timestep of the
        higher: it is asked for the eps that the same step down, from where this one arrives, would use.

        Args:
            model: The network.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level to leave, 0 to K.
            target: Level to reach, 0 to K, above or below.
            noise: Drawn from once by a step down with eta above 0, but not by the one to level 0.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: Levels that are the same or do not exist, or eta above 0 on the way up.
        """
        self._check_move(source, target)
        x_t = as_state(x_t)
        if target < source:
            x_0, eps, _ = self.predict_guided(model, x_t, source)
        else:
            eps = self.predict(model, x_t, target, clip=False).eps
            x_0 = to_x_0(eps, x_t, self.levels[source])
        return self.move(x_0, eps, source, target, noise)

    def move(self, x_0: Tensor, eps: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Compose the state of a level from its parts (Song et al. 2021, eq. 12 and 16).

        x_k = signal_k x_0 + sqrt(noise_k^2 - s^2) eps + s z; s^2 is on the way down eta^2 times the
        variance of q(x_k | x_j, x_0), for VP (1 - A_k) / (1 - A_j) (1 - A_j / A_k); on the way up 0.

        Args:
            x_0: Images, shape [B, C, ...].
            eps: Noise in the state that one leaves, shape of x_0.
            source: Level j to leave.
            target: Level k to reach.
            noise: Source of z; drawn from where s > 0.

        Returns:
            State of level `target`, shape of x_0.
        """
        there = self.levels[target]
        fresh = self.eta**2 * self.fresh_share(source, target) if target < source else 0.0
        x = there.signal * x_0 + there.noise * math.sqrt(1 - fresh) * eps
        s = there.noise * math.sqrt(fresh)
        return x + s * draw(noise, x) if s > 0 else x

    def _check_move(self, source: int, target: int) -> None:
        self.check_level(source, lowest=0)
        self.check_level(target, lowest=0)
        if source == target:
            raise ValueError(f"a step from level {source} to itself; give two different levels")
        if target > source and self.eta > 0:
            raise ValueError(f"eta is {self.eta}: the way up is deterministic; encode with eta=0")
