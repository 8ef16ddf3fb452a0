"""Heun's method for the ODE (Karras et al. 2022, arXiv:2206.00364), up and down."""

from torch import Tensor

from diffusions.process import Model, Noise, Process, as_state


class Heun(Process):
    """Sampling along the ODE at second order: two calls of the network a step."""

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move a state from one level to another (Karras et al. 2022, algorithm 1 without churn).

        In y = x / signal the ODE is dy / dsigma = eps(y, sigma), and with h = sigma_k - sigma_j

            y_k = y_j + h / 2 (eps(y_j, j) + eps(y_j + h eps(y_j, j), k)).

        Level 0 has no eps. The step down to it is Euler's, y_0 = y_j - sigma_j eps(y_j, j), with one call;
        the step up from it undoes that one, y_k = y_0 + sigma_k eps(y_k, k), solved by two passes from y_0.

        Args:
            model: The network; called once by a step to level 0, else twice.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level j to leave, 0 to K.
            target: Level k to reach, 0 to K, above or below.
            noise: Never drawn from.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: Levels that are the same or do not exist.
        """
        h = self.sigma(target) - self.sigma(source)
        if h == 0:
            raise ValueError(f"a step from level {source} to itself; give two different levels")
        up = target > source

        def eps(y: Tensor, level: int) -> Tensor:
            x = self.levels[level].signal * y
            if up:
                return self.predict(model, x, level, clip=False).eps
            return self.predict_guided(model, x, level).eps

        y = as_state(x_t) / self.levels[source].signal
        if target == 0:
            return y + h * eps(y, source)
        if source == 0:
            y = y + h * eps(y + h * eps(y, target), target)
        else:
            here = eps(y, source)
            y = y + h / 2 * (here + eps(y + h * here, target))
        return self.levels[target].signal * y
