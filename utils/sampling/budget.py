"""How many network evaluations a setting takes, and how many steps a number of them allows."""

from bisect import bisect_right
from collections.abc import Callable

from diffusions import levels_walked
from diffusions.process import Process
from utils.sampling.processes import Trained, make_solver, read_timesteps
from utils.settings import Edit, Translate

CallsAt = Callable[[float], int]
"""Sigma of a level -> network evaluations of one prediction there, by what guides."""
_FIXED_POINT_CALLS = 4
"""About what a step of that inversion takes until it stops by itself."""


def edit_calls(edit: Edit, process: Process, level: int, calls_at: CallsAt) -> int:
    """Count the network evaluations of one picture, or tile, that is edited once.

    Args:
        edit: The settings, complete.
        process: What steps down.
        level: Where it starts.
        calls_at: Of the guidance.
    """
    walked = levels_walked(process, level, edit.resample or 1)
    below = [k - 1 for k in walked if k > 1] if edit.sampler == "heun" else []
    correcting = len(walked) * (edit.corrector_steps or 0)
    return _predictions(process, [*walked, *below], calls_at) + correcting


def encoding_calls(translate: Translate, num_steps: int) -> int:
    """Count, or of fixed_point estimate, the network evaluations of the way up of one picture or tile."""
    per_step = {"heun": 2, "dpm-solver++": 2}.get(translate.solver, 1)
    if translate.inversion == "fixed_point":
        per_step = _FIXED_POINT_CALLS
    return per_step * num_steps + (translate.solver == "exact")


def decoding_calls(translate: Translate, process: Process, calls_at: CallsAt) -> int:
    """Count the network evaluations of the way down of one picture or tile.

    Args:
        translate: The settings, complete.
        process: What steps down.
        calls_at: Of the guidance.
    """
    top = process.num_steps
    more = {"heun": range(1, top), "exact": [top]}.get(translate.solver, [])
    return _predictions(process, [*range(1, top + 1), *more], calls_at)


def _predictions(process: Process, levels: list[int], calls_at: CallsAt) -> int:
    return sum(calls_at(process.sigma(level)) for level in levels)


def translation_timesteps(translate: Translate, trained: Trained, calls_at: CallsAt) -> list[float]:
    """Choose the timesteps of a translation: as many as --calls allow both ways, or what is said.

    Args:
        translate: The settings, complete.
        trained: What the network was trained on.
        calls_at: Of the guidance of the way down.

    Raises:
        ValueError: One step takes more calls, or the respacing is not possible.
    """
    if translate.calls is None:
        return read_timesteps(translate, trained, None)

    def place(num_steps: int) -> list[float]:
        return read_timesteps(translate, trained, num_steps)

    def count(num_steps: int) -> int:
        _, down = make_solver(translate, trained, place(num_steps))
        return encoding_calls(translate, num_steps) + decoding_calls(translate, down, calls_at)

    return place(steps_within(translate.calls, count, trained.schedule.num_timesteps))


def steps_within(calls: int, count: Callable[[int], int], most: int) -> int:
    """Return how many steps take at most so many network evaluations.

    Args:
        calls: What --calls allows.
        count: Number of steps -> network evaluations, which grow with it, or nearly so.
        most: How many steps there are.

    Raises:
        ValueError: One step takes more.
    """
    steps = bisect_right(range(1, min(calls, most) + 1), calls, key=count)
    while steps and count(steps) > calls:
        steps -= 1
    if not steps:
        raise ValueError(f"--calls {calls}: one step of this solver and guidance takes {count(1)}; give more")
    return steps
