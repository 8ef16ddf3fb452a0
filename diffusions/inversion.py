"""Two other ways to invert DDIM than that of `DDIM.step`, with the same way down."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffusions.ddim import DDIM
from diffusions.prediction import to_x_0
from diffusions.process import Model, Noise, as_state
from diffusions.schedule import Schedule


class SourceInversion(DDIM):
    """DDIM that encodes as the programs of openai and of the DDIB authors do, one level off."""

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move as DDIM on the way down; on the way up, take the state for one of the level above.

        The image counts as level 1, so that the state which is here said to be of level k is moved from
        level k + 1 to k + 2 with the eps of k + 1, and from K to pure noise, A = 0, which leaves the eps
        alone. Decoding starts at level K from there (Su et al. 2023; guided-diffusion's reverse loop).

        Args:
            model: The network, called once.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level to leave, 0 to K.
            target: Level to reach: any below, or the next above.
            noise: As for DDIM.

        Returns:
            State of level `target`, shape of x_t, at least float32.

        Raises:
            ValueError: As for DDIM, or a step up over more than one level.
        """
        if target < source:
            return super().step(model, x_t, source, target, noise)
        self._check_move(source, target)
        if target != source + 1:
            raise ValueError(
                f"the source convention goes up one level at a time, found a step from {source} to {target}; "
                "use DDIM for other moves"
            )
        x_0, eps, _ = self.predict(model, as_state(x_t), target, clip=False)
        if target < self.num_steps:
            return self.move(x_0, eps, target, target + 1)
        return self._scale(target) * eps


class FixedPointInversion(DDIM):
    """DDIM whose step up is the very inverse of its step down, found by iteration."""

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[int],
        prediction: str = "eps",
        clip_denoised: bool = True,
        tolerance: float = 1e-3,
        max_iterations: int = 20,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            clip_denoised: Clip the predicted x_0 to [-1, 1] on the way down; never on the way up.
            tolerance: What the residuals of K steps may come to, each a root mean square in units of
                sqrt(signal^2 + noise^2); an image is done with a step at a K-th of it. Networks in half
                precision need more, or spend all their iterations.
            max_iterations: Most calls of the network that a step up spends on the residual, beyond the
                first call, which is DDIM's.

        Raises:
            ValueError: What `DDIM` refuses, or a tolerance or a number of iterations that is not above 0.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised=clip_denoised)
        if not tolerance > 0 or max_iterations < 1:
            raise ValueError(
                f"tolerance is {tolerance} and max_iterations {max_iterations}; give numbers above 0"
            )
        self.tolerance, self.max_iterations = tolerance, max_iterations

    def step(self, model: Model, x_t: Tensor, source: int, target: int, noise: Noise | None = None) -> Tensor:
        """Move as DDIM on the way down; on the way up, to the state that DDIM brings back to x_t.

        That state is a fixed point of f(x) = DDIM's move of x_t by the eps of x at the level that is
        reached (Pan et al. 2023, arXiv:2309.04907, iterate f; where eps turns sharply that diverges).

        Args:
            model: The network; called once on the way down, and 1 + 1 to `max_iterations` times on the
                way up, as the slowest image of the batch needs.
            x_t: State of level `source`, shape [B, C, ...].
            source: Level to leave, 0 to K.
            target: Level to reach, 0 to K, above or below.
            noise: Never drawn from.

        Returns:
            State of level `target`, shape of x_t, at least float32. Up, each image's residual is at most
            that of DDIM's step, whatever the images beside it.

        Raises:
            ValueError: Levels that are the same or do not exist.
        """
        if target < source:
            return super().step(model, x_t, source, target)
        self._check_move(source, target)
        x_t = as_state(x_t)
        tolerance = self.tolerance * self._scale(target) * (target - source) / self.num_steps

        def residual(x: Tensor) -> Tensor:
            eps = self.predict(model, x, target, clip=False).eps
            return self.move(to_x_0(eps, x_t, self.levels[source]), eps, source, target) - x

        first_guess = x_t + residual(x_t)  # f(x_t): DDIM's own step
        return solve(residual, first_guess, tolerance, self.max_iterations)


def solve(residual: Callable[[Tensor], Tensor], x: Tensor, tolerance: float, max_iterations: int) -> Tensor:
    """Look for a zero of a residual, image by image, along the residual itself.

    x <- x + w r(x), with w = 1 at first and then the length that would have made the last move's
    residual smallest, w = -<dx, dr> / <dr, dr> (Barzilai & Borwein 1988). A fixed w = 1, the plain
    iteration, overshoots for ever where r falls by more than twice the way gone; this w is then below
    1/2, and above 1 where r hardly falls. A move that makes the residual ten times as large is taken
    back, and made a quarter as long. The residual of a step up has one zero: for exact networks it is
    minus the gradient of a convex function, as dx_0 / dx, a covariance, is not negative.

    Args:
        residual: x [B, C, ...] -> r(x), shape of x; called at most `max_iterations` times.
        x: First guess, shape [B, C, ...].
        tolerance: An image whose root mean square residual is no larger stays as it is.
        max_iterations: At least 1.

    Returns:
        For each image the iterate with the least residual, shape of x.
    """
    best = start = x
    least = size_there = x.new_full((len(x),), float("inf"))
    w = torch.ones_like(least)
    r_there = torch.zeros_like(x)
    for iteration in range(max_iterations):
        r = residual(x)
        size = r.square().flatten(1).mean(1)
        better = size < least
        best, least = torch.where(_rows(better, x), x, best), torch.where(better, size, least)
        done = least <= tolerance**2
        if bool(done.all()):
            break
        kept = size <= 100 * size_there
        if iteration > 0:
            length = -_inner(x - start, r - r_there) / _inner(r - r_there, r - r_there)
            length = torch.where((length > 0) & length.isfinite(), length, 1.0)
            w = torch.where(kept, length, w / 4)
        start, r_there = (torch.where(_rows(kept, x), new, old) for new, old in ((x, start), (r, r_there)))
        size_there = torch.where(kept, size, size_there)
        x = torch.where(_rows(done, x), best, start + _rows(w, x) * r_there)
    return best


def _inner(a: Tensor, b: Tensor) -> Tensor:
    """Return the inner product of each image of a with that of b, shape [B]."""
    return (a * b).flatten(1).sum(1)


def _rows(values: Tensor, x: Tensor) -> Tensor:
    """Shape one value an image to go with x."""
    return values.view(-1, *[1] * (x.ndim - 1))
