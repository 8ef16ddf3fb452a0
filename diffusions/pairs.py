"""What two processes of different schedules need to share a latent: equal noise levels, and its scale."""

import math
from bisect import bisect_left
from collections.abc import Sequence

from torch import Tensor

from diffusions.bdia import BDIA
from diffusions.process import Process
from diffusions.schedule import Schedule


def match_timesteps(schedule: Schedule, sigmas: Sequence[float]) -> list[int]:
    """Choose the timesteps of a schedule whose noise is nearest to that of another process.

    Nearest in log sigma; where two would fall on one timestep, the later moves up, or at the end of the
    schedule the earlier down.

    Args:
        schedule: Of the process to be, T timesteps.
        sigmas: noise / signal of the other process's levels 1 to K, increasing (`Process.sigma`).

    Returns:
        K distinct timesteps from 0 to T - 1, increasing.

    Raises:
        ValueError: More sigmas than the schedule has timesteps, or a last one beyond all its noise.
    """
    count, total = len(sigmas), schedule.num_timesteps
    if count > total:
        raise ValueError(
            f"{count} noise levels to match, but the schedule has {total} timesteps; "
            f"respace the other process to at most {total} steps"
        )
    table = [math.log(level.noise / level.signal) for level in schedule.levels(range(total))]
    wanted = [math.log(sigma) for sigma in sigmas]
    if total > 1 and wanted[-1] - table[-1] > (table[-1] - table[-2]) / 2:
        raise ValueError(
            f"sigma {sigmas[-1]:.4g} to match, but the schedule ends at {math.exp(table[-1]):.4g}; "
            "respace the other process so that it ends there or below"
        )
    timesteps: list[int] = []
    for value in wanted:
        timesteps.append(max(_nearest(table, value), timesteps[-1] + 1 if timesteps else 0))
    return [min(t, total - count + i) for i, t in enumerate(timesteps)]


def carry_latent(latent: Tensor, source: Process, target: Process) -> Tensor:
    """Turn a state of one process's level K into one of another's, scaled as its states are.

    x_A sqrt(signal_B^2 + noise_B^2) / sqrt(signal_A^2 + noise_A^2): both are then noise of the same
    strength. Between VP processes it is the identity.

    Args:
        latent: State of the source's last level, shape [B, C, ...].
        source: Process that encoded it.
        target: Process that is to decode it.

    Returns:
        State of the target's last level, shape of latent.

    Raises:
        ValueError: Only one of the two is BDIA, whose latent is two states.
    """
    if isinstance(source, BDIA) != isinstance(target, BDIA):
        raise ValueError(
            f"a latent of {type(source).__name__} cannot be decoded by {type(target).__name__}: that of BDIA "
            "is two states, others are one; use BDIA for both or for neither"
        )
    a, b = source.levels[-1], target.levels[-1]
    return math.hypot(b.signal, b.noise) / math.hypot(a.signal, a.noise) * latent


def _nearest(table: list[float], value: float) -> int:
    above = min(bisect_left(table, value), len(table) - 1)
    below = max(above - 1, 0)
    return below if value - table[below] <= table[above] - value else above
