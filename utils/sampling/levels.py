"""How far an edit goes: the levels that were asked for, and what they amount to."""

from diffusions.process import Process
from utils.settings import Edit

_HARDLY = 0.1
"""Below this t0 an edit changes hardly more than the grain of a picture."""


def choose_levels(edit: Edit, process: Process) -> dict[int, str]:
    """Return the levels to edit from, each with the folder of its results; none with auto_t0.

    A folder of t0 or sigma0 is called by what is reached, see `describe_levels`.

    Raises:
        ValueError: A level that the process does not have, or the same twice.
    """
    for steps in edit.edit_steps:
        if steps > process.num_steps:
            raise ValueError(
                f"--edit_steps {steps}: only {process.num_steps} timesteps are kept; give at most so many, "
                f"or --respace_steps {steps} or more"
            )
    asked = [f"t0 {t0:g}" for t0 in edit.t0] + [f"sigma {sigma:g}" for sigma in edit.sigma0]
    asked += list(edit.edit_steps)
    wanted = [process.level_at(t0) for t0 in edit.t0] + [_level_of(process, x) for x in edit.sigma0]
    wanted += list(edit.edit_steps)
    if len(set(wanted)) < len(wanted):
        names = ", ".join(f"{name} is level {level}" for name, level in zip(asked, wanted, strict=True))
        raise ValueError(f"the same level twice: {names} of {process.num_steps}; respace to more steps")
    if len(wanted) == 1:
        return dict.fromkeys(wanted, "")
    return {level: _folder(edit, process, level) for level in wanted}


def _level_of(process: Process, sigma: float) -> int:
    try:
        return process.level_of(sigma)
    except ValueError as error:
        raise ValueError(f"--sigma0: {error}; choose of these") from None


def _folder(edit: Edit, process: Process, level: int) -> str:
    if edit.t0:
        return f"t0_{process.t0_at(level):g}"
    return f"sigma_{process.sigma(level):.4g}" if edit.sigma0 else f"steps_{level}"


def name_level(process: Process, level: int) -> str:
    """Return what is written above a state at a level."""
    return f"t0 {process.t0_at(level):.2g}" if level else "input"


def describe_levels(edit: Edit, process: Process) -> list[str]:
    """Say what t0 the steps amount to, and which t0 is not among the timesteps kept."""
    lines = []
    for asked in edit.t0:
        level = process.level_at(asked)
        if f"{asked:g}" != f"{process.t0_at(level):g}":
            beyond = asked > process.t0_at(process.num_steps)
            hint = "--respace_type uniform-trailing reaches it" if beyond else "more steps are finer"
            lines.append(
                f"note: t0 {asked:g} is not among the {process.num_steps} timesteps kept, the nearest is "
                f"t0 {process.t0_at(level):g}; {hint}"
            )
    for asked in edit.sigma0:
        reached = process.sigma(process.level_of(asked))
        if f"{asked:.3g}" != f"{reached:.3g}":
            lines.append(
                f"note: sigma {asked:g} is not among the {process.num_steps} levels kept, the nearest is "
                f"sigma {reached:.4g}; more steps are finer"
            )
    for level in edit.edit_steps:
        t0 = process.t0_at(level)
        hardly = "; warning: this is hardly an edit, give --t0 0.3 to 0.6, or fewer --respace_steps"
        lines.append(
            f"{level} of {process.num_steps} steps: t0 {t0:g}, sigma {process.sigma(level):.4g}"
            + (hardly if t0 < _HARDLY else "")
        )
    return lines
