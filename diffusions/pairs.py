"""What two processes of different schedules need to share a latent: its scale."""

import math

from torch import Tensor

from diffusions.bdia import BDIA
from diffusions.process import Process


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
