"""Heun's method for the ODE (Karras et al. 2022, arXiv:2206.00364), up and down."""

import math

from torch import Tensor

from diffusions.prediction import to_x_0
from diffusions.process import Model, Noise, Process, as_state

_FAR = 8.0
"""Larger sigma of a step over sqrt(1 + sigma^2) of its smaller: beyond it sigma is no variable to step in."""
_DEAF = 30.0
"""Likewise: beyond it, the x_0 that follows from a network's eps at the upper level is mostly its error."""


class Heun(Process):
    """Sampling along the ODE at second order: two calls of the network a step."""

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move a state from one level to another (Karras et al. 2022, algorithm 1 without churn).

        In y = x / signal the ODE is dy / dsigma = eps(y, sigma), and with h = sigma_k - sigma_j

            y_k = y_j + h / 2 (eps(y_j, j) + eps(y_j + h eps(y_j, j), k)).

        Level 0 has no eps. The step down to it is Euler's, y_0 = y_j - sigma_j eps(y_j, j) = x_0, with one
        call; the step up from it undoes that one, y_k = y_0 + sigma_k eps(y_k, k), solved by two passes.

        Over a gap in sigma, as before the last timestep of a cosine schedule (from 32 to 20291), this
        trapezium says nothing of what lies between. The step is then taken in the angle, see `_in_angle`;
        where only an eps or a score is known at the far side, too little to tell x_0, it is DDIM's.

        Args:
            model: The network; called once by a step to level 0 and by one of DDIM, else twice.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level j to leave, 0 to K.
            target: Level k to reach, 0 to K, above or below.
            noise: Never drawn from.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: Levels that are the same or do not exist.
        """
        self.check_level(source, lowest=0)
        self.check_level(target, lowest=0)
        if source == target:
            raise ValueError(f"a step from level {source} to itself; give two different levels")
        x_t, low, high = as_state(x_t), *sorted((source, target))
        if target == 0:
            return self.predict_guided(model, x_t, source).x_0
        gap = self.sigma(high) / math.hypot(1, self.sigma(low))
        if gap <= _FAR or (low == 0 and gap < math.inf):
            return self._in_sigma(model, x_t, source, target)
        if low > 0 and (gap <= _DEAF or self.prediction in ("v", "x0")):
            return self._in_angle(model, x_t, source, target)
        return self._first_order(model, x_t, source, target)

    def _in_sigma(self, model: Model, x_t: Tensor, source: int, target: int) -> Tensor:
        h = self.sigma(target) - self.sigma(source)

        def eps(y: Tensor, level: int) -> Tensor:
            return self._parts(model, self.levels[level].signal * y, level, target > source)[1]

        y = x_t / self.levels[source].signal
        if source == 0:
            y = y + h * eps(y + h * eps(y, target), target)
        else:
            here = eps(y, source)
            y = y + h / 2 * (here + eps(y + h * here, target))
        return self.levels[target].signal * y

    def _in_angle(self, model: Model, x_t: Tensor, source: int, target: int) -> Tensor:
        """Step in a = arctan(sigma), which ends at pi / 2, of u = x / sqrt(signal^2 + noise^2).

        The ODE is du / da = v(u, a) = cos(a) eps - sin(a) x_0 (Salimans & Ho 2022, appendix D). With d from
        level j to k, Euler's step is DDIM's, g = cos(d) u_j + sin(d) v(u_j, j), and the trapezium that is
        exact, too, where x_0 and eps stay the same is u_k = u_j + tan(d / 2) (v(u_j, j) + v(g, k)).
        """

        def velocity(u: Tensor, level: int) -> Tensor:
            x_0, eps = self._parts(model, self._scale(level) * u, level, target > source)
            return math.cos(self._angle(level)) * eps - math.sin(self._angle(level)) * x_0

        u, d = x_t / self._scale(source), self._angle(target) - self._angle(source)
        here = velocity(u, source)
        there = velocity(math.cos(d) * u + math.sin(d) * here, target)
        return self._scale(target) * (u + math.tan(d / 2) * (here + there))

    def _first_order(self, model: Model, x_t: Tensor, source: int, target: int) -> Tensor:
        """Step as DDIM does: up mirrors down, and the network is told the upper level both ways."""
        x_0, eps = self._parts(model, x_t, max(source, target), target > source)
        if target > source:
            x_0 = to_x_0(eps, x_t, self.levels[source])
        return self.levels[target].signal * x_0 + self.levels[target].noise * eps

    def _parts(self, model: Model, x_t: Tensor, level: int, up: bool) -> tuple[Tensor, Tensor]:
        """Return the x_0 and the eps in a state; nothing is clipped or guided on the way up."""
        ask = self.predict(model, x_t, level, clip=False) if up else self.predict_guided(model, x_t, level)
        return ask.x_0, ask.eps

    def _angle(self, level: int) -> float:
        return math.atan2(self.levels[level].noise, self.levels[level].signal)
