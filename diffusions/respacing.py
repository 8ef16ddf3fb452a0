"""Which training timesteps a process keeps: exactly the number asked for, strictly increasing."""

import math
import re
from collections.abc import Sequence
from fractions import Fraction
from functools import partial
from itertools import accumulate

from diffusions.schedule import Schedule

_RHO = 7.0
"""Of Karras et al.: how strongly a grid crowds towards its least noise."""


def respace(name: str, num_timesteps: int, num_steps: int | None = None) -> list[int]:
    """Choose the training timesteps of a process with fewer steps.

    `uniform` (or `uniform-leading`), `uniform-linspace`, `uniform-trailing`, `quad` and `quad90` keep the
    number asked for; docs/numerics.md has the formulas and an example of each. Other names say themselves
    how many: `none` keeps all, `ddimN` is a whole stride from 0 that keeps N, and `10,15,20` spreads as
    many over three equal sections (the two forms of openai's programs).

    Args:
        name: uniform, uniform-leading, uniform-linspace, uniform-trailing, quad, quad90, none, ddimN,
            or numbers joined by commas.
        num_timesteps: T, what the network was trained with; at least 1.
        num_steps: K, from 1 to T; may be left out for all T, or where the name says it.

    Returns:
        K distinct timesteps from 0 to T - 1, increasing.

    Raises:
        ValueError: An unknown name, or a number of steps that it cannot keep.
    """
    if num_timesteps < 1:
        raise ValueError(f"num_timesteps must be at least 1, got {num_timesteps}")
    if name in _SPACINGS:
        count = num_timesteps if num_steps is None else num_steps
        if not 1 <= count <= num_timesteps:
            raise ValueError(
                f"{name} respacing cannot keep {count} of {num_timesteps} timesteps; "
                f"choose from 1 to {num_timesteps}"
            )
        return _SPACINGS[name](num_timesteps, count)
    timesteps = _by_name(name, num_timesteps)
    if num_steps not in (None, len(timesteps)):
        raise ValueError(
            f"respacing {name!r} keeps {len(timesteps)} of {num_timesteps} timesteps, not {num_steps}; "
            f"ask for {len(timesteps)} steps, or choose a respacing that takes their number"
        )
    return timesteps


def karras_sigmas(sigma_min: float, sigma_max: float, num_steps: int) -> list[float]:
    """Return the grid of Karras et al. (2022, eq. 5), evenly spaced in sigma^(1/7).

    Args:
        sigma_min: Least noise / signal, above 0.
        sigma_max: Most.
        num_steps: K, at least 1.

    Returns:
        K values, increasing, with both ends in them; for K = 1 sigma_max alone.

    Raises:
        ValueError: Ends or a number that make no increasing grid.
    """
    if not 0 < sigma_min < sigma_max < math.inf or num_steps < 1:
        raise ValueError(
            "a Karras grid needs 0 < sigma_min < sigma_max, both finite, and at least 1 step, "
            f"got {sigma_min}, {sigma_max} and {num_steps}"
        )
    low, high = sigma_min ** (1 / _RHO), sigma_max ** (1 / _RHO)
    inner = [(high + i / (num_steps - 1) * (low - high)) ** _RHO for i in range(num_steps - 2, 0, -1)]
    return ([sigma_min] if num_steps > 1 else []) + inner + [sigma_max]


def match_timesteps(schedule: Schedule, sigmas: Sequence[float]) -> list[float]:
    """Choose the timesteps of a schedule whose noise is that of a grid, or of another process.

    Exactly that noise where the schedule has every one, else the nearest in log sigma; where two would fall
    on one timestep, the later moves up, or at the end of the schedule the earlier down.

    Args:
        schedule: Of the process to be, T timesteps.
        sigmas: noise / signal of levels 1 to K, increasing, as of `karras_sigmas` or `Process.sigma`.

    Returns:
        K distinct timesteps from 0 to T - 1, increasing; fractions where the schedule knows them.

    Raises:
        ValueError: More sigmas than the schedule has timesteps, or a last one beyond all its noise.
    """
    count, total = len(sigmas), schedule.num_timesteps
    if (count - 1) * schedule.finest > total - 1:
        raise ValueError(
            f"{count} noise levels to match, but the schedule has {total} timesteps; "
            f"respace the other process to at most {total} steps"
        )
    last, end = (level.sigma for level in schedule.levels([max(total - 2, 0), total - 1]))
    if total > 1 and sigmas[-1] / end > math.sqrt(end / last):
        raise ValueError(
            f"sigma {sigmas[-1]:.4g} to match, but the schedule ends at {end:.4g}; "
            "respace the other process so that it ends there or below"
        )
    timesteps: list[float] = []
    for sigma in sigmas:
        least = timesteps[-1] + schedule.finest if timesteps else 0
        timesteps.append(max(schedule.timestep_at(sigma), least))
    return [min(t, total - 1 - (count - 1 - i) * schedule.finest) for i, t in enumerate(timesteps)]


def _leading(num_timesteps: int, num_steps: int) -> list[int]:
    return [i * num_timesteps // num_steps for i in range(num_steps)]


def _linspace(num_timesteps: int, num_steps: int) -> list[int]:
    stride = Fraction(num_timesteps - 1, max(num_steps - 1, 1))
    return [round(i * stride) for i in range(num_steps)]


def _trailing(num_timesteps: int, num_steps: int) -> list[int]:
    stride = Fraction(num_timesteps, num_steps)
    return [round(i * stride) - 1 for i in range(1, num_steps + 1)]


def _quad(num_timesteps: int, num_steps: int, percent: int = 80) -> list[int]:
    last = max(num_steps - 1, 1)
    # the squares crowd at the start, where i keeps neighbours apart
    return [max(i, percent * num_timesteps * i**2 // (100 * last**2)) for i in range(num_steps)]


_SPACINGS = {
    "uniform": _leading,
    "uniform-leading": _leading,
    "uniform-linspace": _linspace,
    "uniform-trailing": _trailing,
    "quad": _quad,
    "quad90": partial(_quad, percent=90),
}


def _by_name(name: str, num_timesteps: int) -> list[int]:
    if name == "none":
        return list(range(num_timesteps))
    if match := re.fullmatch(r"ddim([0-9]+)", name):
        return _whole_stride(num_timesteps, int(match[1]))
    if re.fullmatch(r"[0-9]+(,[0-9]+)*", name):
        return _sections(num_timesteps, [int(count) for count in name.split(",")])
    raise ValueError(
        f"unknown respacing {name!r}, choose one of {', '.join(_SPACINGS)}, none, ddimN (as in ddim50) "
        "or a number for each section (as in 10,15,20)"
    )


def _whole_stride(num_timesteps: int, num_steps: int) -> list[int]:
    kept = [len(range(0, num_timesteps, stride)) for stride in range(1, num_timesteps + 1)]
    if num_steps in kept:
        return list(range(0, num_timesteps, kept.index(num_steps) + 1))
    below = max((count for count in kept if count < num_steps), default=min(kept))
    above = min((count for count in kept if count > num_steps), default=max(kept))
    nearest = " and ".join(f"ddim{count}" for count in sorted({below, above}))
    raise ValueError(
        f"no whole stride keeps {num_steps} of {num_timesteps} timesteps; "
        f"the nearest that work are {nearest}, and uniform keeps any number"
    )


def _sections(num_timesteps: int, counts: list[int]) -> list[int]:
    size, longer = divmod(num_timesteps, len(counts))
    timesteps, start = [], 0
    for i, count in enumerate(counts):
        length = size + (i < longer)
        if count > length:
            raise ValueError(
                f"section {i + 1} of {len(counts)} holds {length} of {num_timesteps} timesteps "
                f"and cannot keep {count}; choose from 0 to {length}"
            )
        timesteps += [start + t for t in _spread(length, count)]
        start += length
    if not timesteps:
        raise ValueError(f"respacing {','.join(map(str, counts))!r} keeps no timestep; ask for at least 1")
    return timesteps


def _spread(length: int, count: int) -> list[int]:
    # summed in floats as in openai's program: 27 of 1000 holds 499 (exact would be 499.5, rounded to 500)
    stride = (length - 1) / max(count - 1, 1)
    return [round(position) for position in accumulate([0.0] + [stride] * (count - 1))][:count]
