"""How far an edit goes: where it starts, as it was asked for, and what that amounts to."""

from dataclasses import dataclass

from diffusions import levels_walked
from diffusions.process import Process
from utils.config import Config
from utils.sampling.budget import CallsAt, edit_calls, steps_within
from utils.sampling.processes import Trained, choose_timesteps, make_process, read_timesteps
from utils.settings import Edit

_HARDLY = 0.1
"""Below this t0 an edit changes hardly more than the grain of a picture."""


@dataclass(frozen=True)
class Start:
    """A level of a process, from which an edit steps down."""

    process: Process
    level: int
    folder: str = ""
    """Of the results that are made from there."""
    resample: int = 1
    """How often each step at low noise is made."""

    @property
    def num_steps(self) -> int:
        """Down to the image."""
        return len(levels_walked(self.process, self.level, self.resample))

    @property
    def t0(self) -> float:
        """Fraction of the trained process."""
        return self.process.t0_at(self.level)

    @property
    def sigma(self) -> float:
        """The noise in units of the signal."""
        return self.process.sigma(self.level)


def find_starts(edit: Edit, config: Config, trained: Trained, calls_at: CallsAt) -> list[Start]:
    """Choose where an edit begins: none with auto_t0, which searches.

    With `calls`, as many levels as they allow lie below each t0 or sigma0, each on a process of its own. Else
    the starts are among the levels of one process that spans all that was trained: the nearest to each t0 or
    sigma0.

    Args:
        edit: The settings, complete.
        config: Of the network.
        trained: Its process.
        calls_at: Of the guidance.

    Raises:
        ValueError: A level that the process does not have, the same twice, or too few calls for a step.
    """
    if edit.calls:
        return _starts_below(edit, config, trained, calls_at)
    if edit.auto_t0:
        return []
    process = make_process(edit, config, trained, read_timesteps(edit, trained, None))
    for steps in edit.edit_steps:
        if steps > process.num_steps:
            raise ValueError(
                f"--edit_steps {steps}: only {process.num_steps} timesteps are kept; give at most so many, "
                f"or --respace_steps {steps} or more"
            )
    levels = [*_levels(edit, process), *edit.edit_steps]
    _refuse_twice(edit, process, levels)
    return [
        Start(process, level, _folder(edit, process, level, len(levels)), edit.resample) for level in levels
    ]


def _starts_below(edit: Edit, config: Config, trained: Trained, calls_at: CallsAt) -> list[Start]:
    every = Process(trained.schedule, range(trained.schedule.num_timesteps), "x0")
    tops = _levels(edit, every)
    _refuse_twice(edit, every, tops)
    return [_start_below(edit, config, trained, calls_at, top, len(tops)) for top in tops]


def _start_below(
    edit: Edit, config: Config, trained: Trained, calls_at: CallsAt, top: int, num_starts: int
) -> Start:
    """Place as many levels as --calls allow below the `top`-th timestep."""

    def place(num_levels: int) -> Start:
        timesteps = choose_timesteps(edit.respace_type, trained.schedule, top, num_levels)
        process = make_process(edit, config, trained, timesteps)
        return Start(process, num_levels, _folder(edit, process, num_levels, num_starts), edit.resample)

    return place(steps_within(edit.calls, lambda n: edit_calls(edit, place(n).process, n, calls_at), top))


def _levels(edit: Edit, process: Process) -> list[int]:
    try:
        return [process.level_at(t0) for t0 in edit.t0] or [process.level_of(x) for x in edit.sigma0]
    except ValueError as error:
        raise ValueError(f"--sigma0: {error}; choose of these") from None


def _refuse_twice(edit: Edit, process: Process, levels: list[int]) -> None:
    if len(set(levels)) == len(levels):
        return
    asked = [f"t0 {t0:g}" for t0 in edit.t0] + [f"sigma {sigma:g}" for sigma in edit.sigma0]
    asked += map(str, edit.edit_steps)
    names = ", ".join(f"{name} is level {level}" for name, level in zip(asked, levels, strict=True))
    raise ValueError(f"the same level twice: {names} of {process.num_steps}; respace to more steps")


def _folder(edit: Edit, process: Process, level: int, num_starts: int) -> str:
    """Return what the results of one of several starts are called by: what is reached."""
    if num_starts == 1:
        return ""
    if edit.t0:
        return f"t0_{process.t0_at(level):g}"
    return f"sigma_{process.sigma(level):.4g}" if edit.sigma0 else f"steps_{level}"


def name_level(process: Process, level: int) -> str:
    """Return what is written above a state at a level."""
    return f"t0 {process.t0_at(level):.2g}" if level else "input"


def describe_starts(edit: Edit, starts: list[Start]) -> list[str]:
    """Say what t0 the steps amount to, and which t0 is not among the timesteps kept."""
    lines = []
    for asked, start in zip([*edit.t0, *edit.sigma0, *edit.edit_steps], starts, strict=bool(starts)):
        kept = start.process.num_steps
        if edit.t0 and f"{asked:g}" != f"{start.t0:g}":
            beyond = asked > start.process.t0_at(kept)
            hint = "--respace_type uniform-trailing reaches it" if beyond else "more steps are finer"
            lines.append(
                f"note: t0 {asked:g} is not among the {kept} timesteps kept, the nearest is "
                f"t0 {start.t0:g}; {hint}"
            )
        if edit.sigma0 and f"{asked:.3g}" != f"{start.sigma:.3g}":
            lines.append(
                f"note: sigma {asked:g} is not among the {kept} levels kept, the nearest is "
                f"sigma {start.sigma:.4g}; more steps are finer"
            )
        if edit.edit_steps:
            hardly = "; warning: this is hardly an edit, give --t0 0.3 to 0.6, or fewer --respace_steps"
            lines.append(
                f"{start.level} of {kept} steps: t0 {start.t0:g}, sigma {start.sigma:.4g}"
                + (hardly if start.t0 < _HARDLY else "")
            )
    return lines
