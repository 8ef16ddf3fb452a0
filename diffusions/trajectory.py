"""The way of a walk: a few of its states, evenly spaced, as images."""

import torch
from torch import Tensor

from diffusions.process import Process


class Trajectory:
    """Keeps some states of a walk that it is shown, see `Process.watched`.

    They stay on their device, and no value of them is read.
    """

    def __init__(self, process: Process, num_states: int, num_steps: int):
        """
        Args:
            process: Whose states they are.
            num_states: How many to keep, from 0: the first, and others so that they and what the walk leads
                to are evenly spaced. All, where there are fewer.
            num_steps: Length of the walk, which is the number of states that it shows.
        """
        count = min(num_states, num_steps)
        self._wanted = {i * num_steps // count for i in range(count)}
        self._process, self._num_seen = process, 0
        self.states: list[Tensor] = []
        """What was kept, in the range of images, each [B, C, ...]."""
        self.levels: list[int] = []
        """Where each of them is."""

    def __call__(self, x_t: Tensor, level: int) -> None:
        """Look at the next state of the walk."""
        if self._num_seen in self._wanted:
            self.states.append(self._process.shown(x_t, level))
            self.levels.append(level)
        self._num_seen += 1

    def turn_round(self, x_0: Tensor) -> None:
        """Make a way down from noise to images the way up from them, to noise that is no longer part of it.

        Args:
            x_0: The images that the way led to, shape [B, C, ...].
        """
        if self.states:
            self.states = [x_0, *reversed(self.states[1:])]
            self.levels = [0, *reversed(self.levels[1:])]


def frames(x_0: Tensor, *ways: Trajectory) -> Tensor:
    """Join the states of walks, one after another, and what they led to.

    Args:
        x_0: The result, shape [B, C, ...].
        *ways: What was kept of the walks.

    Returns:
        Shape [B, N, C, ...]; the last of the N is x_0.
    """
    return torch.stack([*(state for way in ways for state in way.states), x_0], dim=1)
