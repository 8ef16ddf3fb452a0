"""SDEdit on a batch of the work list."""

import math
from collections.abc import Mapping

from torch import Tensor

from diffusions import distance, edit, edit_within
from diffusions.process import Look, Process
from diffusions.trajectory import Trajectory, frames
from utils import log
from utils.images import Prompt
from utils.jobs import Item, Result, item_noise
from utils.sampling import Guide, Start, Tick, name_level, ticking
from utils.settings import Edit


class EditBatch:
    """Edits a batch from each level in turn."""

    def __init__(
        self,
        edit: Edit,
        starts: list[Start],
        searched: Process | None,
        guide: Guide,
        told: Mapping[str, str | Prompt],
        tick: Tick | None = None,
    ):
        """
        Args:
            edit: The settings.
            starts: To edit from; none with auto_t0.
            searched: The sampler whose levels auto_t0 tries.
            guide: The network, and what guides it.
            told: Name of the class of an input's results, or its prompt, by the input's name; none for no
                class.
            tick: Called before each step.
        """
        self.edit, self.starts, self.searched, self.guide = edit, starts, searched, guide
        self.told, self.tick, self.space = told, tick, guide.network.space

    def __call__(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        """Edit a batch from every level, or from one that each image needs; return the results by item."""
        tensors = tensors | self._in_space(tensors)
        if self.edit.auto_t0:
            return self._edit_within(items, tensors)
        by_start = [self._edit_from(start, items, tensors) for start in self.starts]
        return [list(row) for row in zip(*by_start, strict=True)]

    def _in_space(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what the network works on, and where it may change that and how far."""
        to = {"image": self.space.encode, "mask": self.space.free, "strength": self.space.share}
        return {f"own_{key}": to[key](tensor) for key, tensor in tensors.items()}

    def _edit(
        self, start: Start, items: list[Item], tensors: dict[str, Tensor], way: Look | None = None
    ) -> Tensor:
        guide, images = tensors["own_image"], tensors["image"]
        bound = self.guide.bind([self.told.get(item.name) for item in items])
        process = start.process.guided(bound.gradient).watched(ticking(self.tick, way))
        edited = edit(
            *(process, bound.guided, guide, start.level, item_noise(self.edit, items, guide)),
            mask=tensors.get("own_mask"),
            strength=tensors.get("own_strength"),
            fixed_noise=self.edit.mask_noise == "fixed",
            repeats=self.edit.repeats,
            resample=self.edit.resample,
        )
        made = self.space.decode(edited, images.shape[2:])
        return self.space.keep(made, images, tensors.get("mask"), tensors.get("strength"))

    def _edit_from(self, start: Start, items: list[Item], tensors: dict[str, Tensor]) -> list[Result]:
        guide, noised, size = tensors["own_image"], [None] * len(items), tensors["image"].shape[2:]
        process, level = start.process, start.level
        if self.edit.comparison:  # with the first noise that edit draws
            noised = process.diffuse(guide, level, item_noise(self.edit, items, guide)())
            noised = self.space.decode(process.shown(noised, level), size)
        num_frames = self.edit.trajectory or 1  # the last is the result
        way = Trajectory(process, num_frames - 1, self.edit.repeats * start.num_steps)
        edited = self._edit(start, items, tensors, way)
        way.states = [self.space.decode(state, size) for state in way.states]
        ways = frames(edited, way) if self.edit.trajectory else [None] * len(items)
        names = [*(name_level(process, reached) for reached in way.levels), "result"]
        own = {"folder": start.folder, "frame_labels": names}
        return [
            Result(x, z, trajectory=way, notes=self._notes(start, item), **own)
            for item, x, z, way in zip(items, edited, noised, ways, strict=True)
        ]

    def _edit_within(self, items: list[Item], tensors: dict[str, Tensor]) -> list[list[Result]]:
        process = self.searched

        def edit_rows(rows, level):
            part = {key: tensor[rows] for key, tensor in tensors.items()}
            return self._edit(Start(process, level), [items[row] for row in rows], part)

        def distances(rows, edited):
            mask = tensors.get("mask")
            return distance(edited, tensors["image"][rows], None if mask is None else mask[rows])

        limit, num_levels = self.edit.faithfulness, process.num_steps
        found = edit_within(edit_rows, distances, tensors["image"], num_levels, limit)
        results = []
        for item, edited, level, value in zip(items, *found, strict=True):
            if level == 0:
                problem = f"even 1 step goes further than --faithfulness {limit:g}; allow more"
                results.append([Result(edited, problem=problem)])
                continue
            log.log.info(f"{item.target}: level {level} of {num_levels}, difference {value:.4f}")
            notes = {**self._notes(Start(process, level), item), "difference": round(value, 6)}
            results.append([Result(edited, notes=notes)])
        return results

    def _notes(self, start: Start, item: Item) -> dict[str, object]:
        return {
            **self.guide.guidance.note(self.told.get(item.name)),
            "timesteps": start.process.num_steps,
            "edit_steps": start.level,
            "t0": round(start.t0, 6),
            "sigma": _in_json(start.sigma),
        }


def _in_json(sigma: float) -> float | str:
    """Return a noise level as JSON has it, which knows no infinity."""
    return round(sigma, 6) if math.isfinite(sigma) else str(sigma)
