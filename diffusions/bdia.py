"""BDIA (Zhang et al. 2023, arXiv:2307.10829): encoding along the ODE that inverts exactly."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from diffusions.prediction import to_x_0
from diffusions.process import Model, Noise, Process, Step, as_state
from diffusions.schedule import Schedule


class BDIA(Process):
    """Sampling along the ODE with two states, each of them moved by the eps of the other.

    Exact, to rounding: decoding undoes encoding with the same network, as long as both states of the
    latent are kept and nothing is clipped or guided on the way down; so an image comes back from A to A.
    Not exact: a translation, and a cycle A to B to A, which passes through one image of B; their errors
    are of second order. Where the data are far narrower than the steps, the two states drift apart on
    the way down, and what is left of that in the image spoils a cycle sooner than a translation.
    """

    def __init__(
        self,
        schedule: Schedule,
        timesteps: Sequence[int],
        prediction: str = "eps",
        clip_denoised: bool = True,
    ):
        """
        Args:
            schedule: What the network was trained with, T timesteps.
            timesteps: The K that are kept, strictly increasing, from 0 to T - 1; see `respace`.
            prediction: What the network's output means: eps, x0, v or score.
            clip_denoised: Clip the predicted x_0 and the result to [-1, 1] on the way down; never up.

        Raises:
            ValueError: An unknown prediction, or timesteps out of order or range.
        """
        super().__init__(schedule, timesteps, prediction, clip_denoised)
        narrowing = (self.levels[1].noise / self._scale(1)) / (self.levels[-1].noise / self._scale(-1))
        self.gamma = narrowing ** (0.5 / self.num_steps)
        """What a step down leaves of the distance between the states, and a step up divides it by.

        The distance grows on the way down as the states close in on the data, at most by 1 / narrowing,
        and shrinks on the way up. Half of that, in powers, is taken from the one and given to the other.
        """

    def walk(self, model: Model, noise: Noise | None) -> Step:
        """Begin a walk, K + 1 calls of the network over K steps either way.

        With D_jk(x) = DDIM's move of x from level j to k, less x, a step down takes the pair (x_j, z_j) to

            x_k = z_j + D_jk(x_j),    z_k = x_k + gamma (x_j - D_kj(x_k) - x_k),

        and the step up undoes it. Two steps in a row are the paper's, from j over k to l:
        x_l = gamma (x_j - D_kj(x_k)) + (1 - gamma) x_k + D_kl(x_k). All this is in
        x / sqrt(signal^2 + noise^2), for VP x itself.

        At level 0 the states are one image: the way up starts from z_0 = x_0, and the way down ends at
        the middle of x_0 and z_0 (before gamma), which is Gragg's smoothing (1965). The network has no eps
        of level 0; it is asked at the level next to it.

        Args:
            model: The network.
            noise: Never drawn from.

        Returns:
            (state, source level, target level) -> state of the target level, at least float32. A state
            is an image, shape [B, C, ...], at level 0, and at all others the pair, x before z,
            shape [B, 2C, ...].
        """
        asked: tuple[Tensor, tuple[int, bool], tuple[Tensor, Tensor]] | None = None

        def step(state: Tensor, source: int, target: int) -> Tensor:
            nonlocal asked
            self._check_move(source, target)
            up, edge = target > source, max(source, target)
            state = as_state(state)
            x, z = _split(state / self._scale(source), source)
            if asked is not None and asked[0] is state and asked[1] == (source, up):
                here = asked[2]
            else:
                here = self._parts(model, x, source, edge, up)
            if up:
                z = x + (z - x) / self.gamma
            x_k = z + self._compose(here, target) - x
            there = self._parts(model, x_k, target, edge, up)
            z_k = x - self._compose(there, source) + x_k
            if target == 0:
                image = (x_k + z_k) / 2
                return image.clamp(-self.bound, self.bound) if self.clip_denoised else image
            if not up:
                z_k = x_k + self.gamma * (z_k - x_k)
            state = self._scale(target) * torch.cat([x_k, z_k], dim=1)
            asked = state, (target, up), there
            return state

        return step

    def shown(self, x_t: Tensor, level: int) -> Tensor:
        """Bring the first of a pair of states to the range of images, see `Process.shown`."""
        return super().shown(_split(x_t, level)[0], level)

    def _parts(self, model: Model, x: Tensor, level: int, edge: int, up: bool) -> tuple[Tensor, Tensor]:
        """Return the x_0 and the eps in a state that is divided by its scale."""
        x_t = self._scale(level) * x
        ask = partial(self.predict, clip=False) if up else self.predict_guided
        x_0, eps, _ = ask(model, x_t, level or edge)
        return (x_0 if level else to_x_0(eps, x_t, self.levels[0])), eps

    def _compose(self, parts: tuple[Tensor, Tensor], level: int) -> Tensor:
        """Return the state of a level, divided by its scale."""
        x_0, eps = parts
        there = self.levels[level]
        return (there.signal * x_0 + there.noise * eps) / self._scale(level)

    def _check_move(self, source: int, target: int) -> None:
        self.check_level(source, lowest=0)
        self.check_level(target, lowest=0)
        if source == target:
            raise ValueError(f"a step from level {source} to itself; give two different levels")


def _split(state: Tensor, level: int) -> tuple[Tensor, Tensor]:
    if level == 0:
        return state, state
    if state.shape[1] % 2:
        raise ValueError(
            f"a state of BDIA above level 0 is two on the channel axis, found {state.shape[1]} channels; "
            "encode with BDIA, or double a single state x as torch.cat([x, x], dim=1)"
        )
    x, z = state.chunk(2, dim=1)
    return x, z
