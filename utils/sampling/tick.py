"""To be told of every step of a walk, beside whoever looks at its states."""

from collections.abc import Callable

from torch import Tensor

from diffusions.process import Look

Tick = Callable[[], None]
"""Called before each step of a batch; may raise, to end it."""


def ticking(tick: Tick | None, look: Look | None) -> Look | None:
    """Return a look that calls both."""
    if tick is None:
        return look

    def both(x_t: Tensor, level: int) -> None:
        tick()
        if look is not None:
            look(x_t, level)

    return both
