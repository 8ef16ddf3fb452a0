"""What a run writes: results under the names of their inputs, comparison strips and contact sheets."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from utils import images
from utils.job import Item, write_atomically

STRIPS, SHEETS = "comparison", "sheets"


@dataclass(frozen=True)
class Result:
    """One result of an input."""

    image: Tensor
    """[C, H, W] in [-1, 1]."""
    before: Tensor | None = None
    """What a comparison strip shows between the input and this, shape of image."""
    after: Tensor | None = None
    """What it shows behind this, likewise."""
    folder: str = ""
    """Where it goes below save_dir, when an input has several."""
    notes: dict[str, object] = field(default_factory=dict)
    """Parameters of this result alone."""
    problem: str | None = None
    """Why it is none after all."""


def make_items(names: list[str], num_samples: int | None = None) -> list[Item]:
    """List what there is to do: every input or, with a number of samples, each that often, named _s00 ..."""
    targets = images.result_names(names)
    if num_samples is None:
        return [Item(name, 0, targets[name]) for name in names]
    return [
        Item(name, sample, f"{targets[name].removesuffix('.png')}_s{sample:02d}.png")
        for name in names
        for sample in range(num_samples)
    ]


@dataclass(frozen=True)
class Writer:
    """Writes the results of an item."""

    save_dir: Path
    comparison: bool
    """Also write strips of input, noise and result."""
    parameters: dict[str, object] | None
    """What the PNG files record of how they were made; None for nothing."""

    def write(self, item: Item, guide: Tensor | None, results: list[Result]) -> None:
        """Write all results of an item, and a contact sheet where there are several.

        Args:
            item: What was done.
            guide: Its input, [C, H, W] in [-1, 1], where there is one.
            results: What came of it.

        Raises:
            ValueError: One of them is no result; none is written then.
        """
        for result in results:
            if result.problem:
                raise ValueError(result.problem)
            if not result.image.isfinite().all():
                raise ValueError(
                    "the result holds NaN or infinity, so it is not written; try --precision fp32"
                )
        pictures = [images.to_image(result.image) for result in results]
        for result, picture in zip(results, pictures, strict=True):
            text = self._text(item, result)
            self._save(picture, text, result.folder, item.target)
            if self.comparison:
                shown = [guide, result.before, result.image, result.after]
                strip = images.strip([images.to_image(x) for x in shown if x is not None])
                self._save(strip, text, STRIPS, result.folder, item.target)
        if len(results) > 1:
            sheet = images.strip([*([] if guide is None else [images.to_image(guide)]), *pictures])
            self._save(sheet, self._text(item, *results), SHEETS, item.target)

    def _save(self, picture: object, text: dict[str, str], *parts: str) -> None:
        write_atomically(self.save_dir.joinpath(*parts), images.encode_png(picture, text))

    def _text(self, item: Item, *results: Result) -> dict[str, str]:
        if self.parameters is None:
            return {}
        notes = {key: [result.notes[key] for result in results] for key in results[0].notes}
        own = {key: values[0] if len(values) == 1 else values for key, values in notes.items()}
        return {"parameters": json.dumps({**self.parameters, "sample": item.sample, **own})}
