"""How many network evaluations a setting takes, and how many steps a number of them allows."""

from bisect import bisect_right
from collections.abc import Callable

from utils.settings import Edit, Translate

_FIXED_POINT_CALLS = 4
"""About what a step of that inversion takes until it stops by itself."""


def edit_calls(edit: Edit, num_steps: int, calls_per_step: int) -> int:
    """Count the network evaluations of one picture, or tile, that is edited once.

    Args:
        edit: The settings, complete.
        num_steps: Down to the image.
        calls_per_step: Of guidance: 2 where two predictions are mixed, else 1.
    """
    down = 2 * num_steps - 1 if edit.sampler == "heun" else num_steps
    return down * calls_per_step + num_steps * (edit.corrector_steps or 0)


def encoding_calls(translate: Translate, num_steps: int) -> int:
    """Count, or of fixed_point estimate, the network evaluations of the way up of one picture or tile."""
    per_step = {"heun": 2, "dpm-solver++": 2}.get(translate.solver, 1)
    if translate.inversion == "fixed_point":
        per_step = _FIXED_POINT_CALLS
    return per_step * num_steps + (translate.solver == "exact")


def decoding_calls(translate: Translate, num_steps: int, calls_per_step: int) -> int:
    """Count the network evaluations of the way down of one picture or tile."""
    more = {"heun": num_steps - 1, "exact": 1}.get(translate.solver, 0)
    return (num_steps + more) * calls_per_step


def translation_steps(translate: Translate, calls_per_step: int) -> int | None:
    """Return how many steps --calls allow for both ways, None where they do not say it.

    Args:
        translate: The settings, complete.
        calls_per_step: Of the guidance of the way down.

    Raises:
        ValueError: One step takes more.
    """
    if translate.calls is None:
        return None
    return steps_within(
        translate.calls,
        lambda steps: encoding_calls(translate, steps) + decoding_calls(translate, steps, calls_per_step),
    )


def steps_within(calls: int, count: Callable[[int], int], most: int = 10**6) -> int:
    """Return how many steps take at most so many network evaluations.

    Args:
        calls: What --calls allows.
        count: Number of steps -> network evaluations, which grow with it.
        most: How many steps there are.

    Raises:
        ValueError: One step takes more.
    """
    steps = bisect_right(range(1, min(calls, most) + 1), calls, key=count)
    if not steps:
        raise ValueError(f"--calls {calls}: one step of this solver and guidance takes {count(1)}; give more")
    return steps
