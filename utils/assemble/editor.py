"""SDEdit: its levels, its records, and the edit of a batch of the work list."""

import argparse

from torch import Tensor

from diffusions import distance, edit, edit_within
from diffusions.process import Look, Model, Process
from diffusions.trajectory import Trajectory, frames
from utils import log
from utils.assemble.guidance import Guidance
from utils.jobs import Item, Result, item_noise

_HARDLY = 0.1
"""Below this t0 an edit changes hardly more than the grain of a picture."""


def choose_levels(args: argparse.Namespace, process: Process) -> dict[int, str]:
    """Return the levels to edit from, each with the folder of its results; none with --auto_t0.

    A folder of --t0 is called by the t0 that is reached, see `describe_levels`.

    Raises:
        ValueError: A level that the process does not have.
    """
    asked = [f"t0 {t0:g}" for t0 in args.t0] if "t0" in args else getattr(args, "edit_steps", [])
    wanted = [process.level_at(t0) for t0 in args.t0] if "t0" in args else asked
    for level in wanted:
        process.check_level(level)
    if len(set(wanted)) < len(wanted):
        names = ", ".join(f"{name} is level {level}" for name, level in zip(asked, wanted, strict=True))
        raise ValueError(f"the same level twice: {names} of {process.num_steps}; respace to more steps")
    if len(wanted) == 1:
        return dict.fromkeys(wanted, "")
    return {level: f"t0_{process.t0_at(level):g}" if "t0" in args else f"steps_{level}" for level in wanted}


def describe_levels(args: argparse.Namespace, process: Process) -> list[str]:
    """Say what t0 each of --edit_steps amounts to, and which t0 is not among the timesteps kept."""
    lines = []
    for asked in getattr(args, "t0", []):
        level = process.level_at(asked)
        if f"{asked:g}" != f"{process.t0_at(level):g}":
            beyond = asked > process.t0_at(process.num_steps)
            hint = "--respace_type uniform-trailing reaches it" if beyond else "more steps are finer"
            lines.append(
                f"note: t0 {asked:g} is not among the {process.num_steps} timesteps kept, the nearest is "
                f"t0 {process.t0_at(level):g}; {hint}"
            )
    for level in getattr(args, "edit_steps", []):
        t0 = process.t0_at(level)
        hardly = "; warning: this is hardly an edit, give --t0 0.3 to 0.6, or fewer --respace_steps"
        lines.append(
            f"{level} of {process.num_steps} steps: t0 {t0:g}, sigma {process.sigma(level):.4g}"
            + (hardly if t0 < _HARDLY else "")
        )
    return lines


def edit_parameters(args: argparse.Namespace, process: Process, guidance: Guidance) -> dict[str, object]:
    """Return what the PNG files record of the method."""
    return {
        "method": "SDEdit",
        "timesteps": process.num_steps,
        "sampler": args.sampler,
        "var_type": getattr(process, "var_type", None),
        "repeats": args.repeats,
        "class_label": guidance.labels[0],
        **guidance.parameters,
    }


class Editor:
    """Edits a batch from each level in turn."""

    def __init__(self, args: argparse.Namespace, process: Process, model: Model, levels: dict[int, str]):
        """
        Args:
            args: The options.
            process: The sampler, guided where wanted.
            model: The network, its class bound.
            levels: To edit from, each with the folder of its results; none with --auto_t0.
        """
        self.args, self.process, self.model, self.levels = args, process, model, levels

    def __call__(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        """Edit a batch from every level, or from one that each image needs; return the results by item."""
        if self.args.auto_t0:
            return self._edit_within(items, tensors)
        by_level = [self._edit_from(level, items, tensors) for level in self.levels]
        return [list(row) for row in zip(*by_level, strict=True)]

    def _edit(
        self, level: int, items: list[Item], tensors: dict[str, Tensor], look: Look | None = None
    ) -> Tensor:
        guide = tensors["image"]
        return edit(
            *(self.process.watched(look), self.model, guide, level, item_noise(self.args.seed, items, guide)),
            mask=tensors.get("mask"),
            strength=tensors.get("strength"),
            fixed_noise=self.args.mask_noise == "fixed",
            repeats=self.args.repeats,
        )

    def _edit_from(self, level: int, items: list[Item], tensors: dict[str, Tensor]) -> list[Result]:
        guide, noised = tensors["image"], [None] * len(items)
        if self.args.comparison:  # with the first noise that edit draws
            noised = self.process.diffuse(guide, level, item_noise(self.args.seed, items, guide)())
            noised = self.process.shown(noised, level)
        num_frames = self.args.trajectory or 1  # the last is the result
        way = Trajectory(self.process, num_frames - 1, self.args.repeats * level)
        edited = self._edit(level, items, tensors, way)
        ways = frames(edited, way) if self.args.trajectory else [None] * len(items)
        shared = {"folder": self.levels[level], "notes": self._notes(level)}
        rows = zip(edited, noised, ways, strict=True)
        return [Result(x, z, trajectory=way, **shared) for x, z, way in rows]

    def _edit_within(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        def edit_rows(rows, level):
            part = {key: tensor[rows] for key, tensor in tensors.items()}
            return self._edit(level, [items[row] for row in rows], part)

        def distances(rows, edited):
            mask = tensors.get("mask")
            return distance(edited, tensors["image"][rows], None if mask is None else mask[rows])

        limit, num_levels = self.args.faithfulness, self.process.num_steps
        found = edit_within(edit_rows, distances, tensors["image"], num_levels, limit)
        results = []
        for item, edited, level, value in zip(items, *found, strict=True):
            if level == 0:
                problem = f"even 1 step goes further than --faithfulness {limit:g}; allow more"
                results.append([Result(edited, problem=problem)])
                continue
            log.log.info(f"{item.target}: level {level} of {num_levels}, difference {value:.4f}")
            results.append([Result(edited, notes={**self._notes(level), "difference": round(value, 6)})])
        return results

    def _notes(self, level: int) -> dict[str, object]:
        return {"edit_steps": level, "sigma": round(self.process.sigma(level), 6)}
