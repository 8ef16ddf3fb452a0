"""What a run writes: results under the names of their inputs, comparison strips, sheets, trajectories."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import NamedTuple

from PIL import Image
from torch import Tensor

from utils import codecs, images
from utils.files import SCRATCH
from utils.images import LATENTS, SHEETS, STRIPS, TRAJECTORIES
from utils.jobs.job import Item, ItemError

Finish = Callable[[list[Tensor]], Image.Image | codecs.Original | codecs.Clip]
"""The results of the parts of an input, [C, H, W] in [-1, 1] each -> its result."""
_MOST_ROWS = 12
"""Of the regions or frames of an input, in what shows them below one another."""
PREVIEWS, SHOWN = f"{SCRATCH}/previews", (images.PNG, ".jpg", ".webp")
"""Where pictures of results lie that browsers do not show, and suffixes of those that they do."""
ORIGINALS, HIDDEN = (
    f"{SCRATCH}/inputs",
    (".tif", ".tiff", ".jp2", ".j2k", ".npy", ".fits", ".fit", ".fts", ".pth"),
)
"""Where pictures of inputs lie that browsers do not show, and suffixes of those."""
_ANIMATION = ".apng"
"""Suffix of the trajectory that moves; its strip is a .png."""
_WAY_MS, _FRAME_MS, _HELD_MS = 2000, 20, 1500
"""How long an animation shows all frames but the last, each of them at least, and the last. Below some
10 ms browsers show a frame for 100."""


@dataclass(frozen=True)
class Result:
    """One result of an input."""

    image: Tensor
    """[C, H, W] in [-1, 1]."""
    before: Tensor | None = None
    """What a comparison strip shows between the input and this, shape of image."""
    after: Tensor | None = None
    """What it shows behind this, likewise."""
    trajectory: Tensor | None = None
    """[N, C, H, W], the way to this and this."""
    folder: str = ""
    """Where it goes below save_dir, when an input has several."""
    notes: dict[str, object] = field(default_factory=dict)
    """Parameters of this result alone."""
    files: dict[str, bytes] = field(default_factory=dict)
    """What else is written, by path relative to save_dir."""
    before_label: str = "noised"
    """What `before` is called."""
    frame_labels: list[str] = field(default_factory=list)
    """What the N of `trajectory` are called."""
    problem: str | None = None
    """Why it is none after all."""

    def why_none(self) -> str | None:
        """Say why this is no result after all; None where it is one."""
        if self.problem is None and not self.image.isfinite().all():
            return "the result holds NaN or infinity, in fp32 as well; check weights and config"
        return self.problem

    def to_cpu(self) -> "Result":
        """Return the same with its pictures on the CPU."""
        pictures = {key: getattr(self, key) for key in ("image", "before", "after", "trajectory")}
        return replace(self, **{key: x if x is None else x.cpu() for key, x in pictures.items()})


class Part(NamedTuple):
    """What came of one part of an input, or of all of it."""

    guide: Tensor | None
    """[C, H, W] in [-1, 1], where there is one."""
    results: list[Result]
    """One a folder."""


def make_items(
    names: list[str], num_samples: int | None = None, suffix: Callable[[str], str] = lambda name: images.PNG
) -> list[Item]:
    """List what there is to do: every input or, with a number of samples, each that often, named _s00 ...

    Args:
        names: The inputs.
        num_samples: Of each; None for one, without a number.
        suffix: Gives that of an input's result.
    """
    targets = images.result_names(names, suffix)
    if num_samples is None:
        return [Item(name, 0, targets[name]) for name in names]
    return [
        Item(name, sample, _numbered(targets[name], sample))
        for name in names
        for sample in range(num_samples)
    ]


def _numbered(target: str, sample: int) -> str:
    path = PurePosixPath(target)
    return path.with_name(f"{path.stem}_s{sample:02d}{path.suffix}").as_posix()


@dataclass(frozen=True)
class Writer:
    """Turns the results of an item into files."""

    comparison: bool
    """Also strips of input, noise and result."""
    parameters: dict[str, object] | None
    """What the files record of how they were made, of `record`; None for nothing, not even a mark."""
    folders: tuple[str, ...] = ("",)
    """Of the results of an item, below save_dir."""
    trajectory: bool = False
    """Also the way to each result."""
    latents: bool = False
    """Also the latent of each item."""
    previews: bool = False
    """Also small pictures of those inputs and results that browsers do not show."""

    def paths(self, item: Item) -> list[str]:
        """List all files of an item, relative to save_dir."""
        stem = _stem(item.target)
        results = [_path(folder, item.target) for folder in self.folders]
        found = [*results]
        if self.previews and PurePosixPath(item.target).suffix not in SHOWN:
            found += [_path(PREVIEWS, path) + images.PNG for path in results]
        found += [path for path in [self._original(item)] if path]
        if self.comparison:
            found += [_path(STRIPS, _as_png(path)) for path in results]
        if self.trajectory:
            ways = [_path(TRAJECTORIES, folder, stem) for folder in self.folders]
            found += [way + suffix for way in ways for suffix in (".png", _ANIMATION)]
        if self.latents:
            found.append(_path(LATENTS, f"{stem}.safetensors"))
        return found + ([_path(SHEETS, _as_png(item.target))] if len(self.folders) > 1 else [])

    def _original(self, item: Item) -> str | None:
        """Return where the picture of an input lies that browsers do not show: one for all its samples."""
        wanted = self.previews and item.sample == 0 and item.name.lower().endswith(HIDDEN)
        return _path(ORIGINALS, item.target) + images.PNG if wanted else None

    def show_input(self, item: Item, preview: Callable[[str], bytes]) -> dict[str, bytes]:
        """Return the picture of the input of an item for the page of the run, where browsers show none.

        Args:
            item: What was done.
            preview: Makes a PNG of an input of a name.

        Returns:
            Its content by path relative to save_dir, or nothing.
        """
        path = self._original(item)
        return {path: preview(item.name)} if path else {}

    def encode(
        self, item: Item, parts: list[Part], finish: Finish, notes: dict[str, object]
    ) -> dict[str, bytes]:
        """Encode all results of an item, and a contact sheet where there are several.

        Args:
            item: What was done.
            parts: What came of each of its parts; none where nothing of it may change.
            finish: Makes a picture of the results of the parts.
            notes: What the files record of it beside the parameters.

        Returns:
            Content of each file, by path relative to save_dir.

        Raises:
            ItemError: One of them is no result.
        """
        for result in (result for part in parts for result in part.results):
            if problem := result.why_none():
                raise ItemError(problem)
        if self.latents and len(parts) > 1:
            raise ItemError("of an animation no latents are saved; save its frames as pictures of a folder")
        files: dict[str, bytes] = {}
        by_folder = list(zip(*(part.results for part in parts), strict=True))
        for results in by_folder:
            text, path = self._text(item, notes, merge(results)), _path(results[0].folder, item.target)
            files |= self._result(path, finish([result.image for result in results]), text, self._mark())
            files |= self._show_way(_as_png(path), parts, results, text)
        if not parts:
            picture, text = finish([]), self._text(item, notes, {})
            for folder in self.folders:
                files |= self._result(_path(folder, item.target), picture, text, b"")  # no model made it
        if len(by_folder) > 1:
            own = [merge(results) for results in by_folder]
            text = self._text(item, notes, {key: [known[key] for known in own] for key in own[0]})
            sheet = codecs.column([_sheet(parts[i]) for i in _some(len(parts))])
            files[_path(SHEETS, _as_png(item.target))] = self._png(sheet, text)
        return files

    def _result(
        self,
        path: str,
        picture: Image.Image | codecs.Original | codecs.Clip,
        text: dict[str, str],
        mark: bytes,
    ) -> dict[str, bytes]:
        """Encode a result, and what the page of the run shows of one that browsers do not."""
        suffix = PurePosixPath(path).suffix
        program = str(self.parameters["program"]) if self.parameters else ""
        files = {path: codecs.encode(picture, suffix, text, mark, program)}
        if self.previews and suffix not in SHOWN:
            files[_path(PREVIEWS, path) + images.PNG] = codecs.preview(picture)
        return files

    def _show_way(
        self, path: str, parts: list[Part], results: Sequence[Result], text: dict[str, str]
    ) -> dict[str, bytes]:
        """Encode what is saved beside the results in one folder: a row, or a picture, a part."""
        files = {}
        if self.comparison:
            rows = [_compare(parts[i].guide, results[i]) for i in _some(len(parts))]
            files[_path(STRIPS, path)] = self._png(codecs.column(rows), text)
        if results[0].trajectory is not None:
            path = _path(TRAJECTORIES, path)
            ways = [[codecs.to_image(x) for x in result.trajectory] for result in results]
            rows = [codecs.labelled_strip(ways[i], results[0].frame_labels) for i in _some(len(ways))]
            files[path] = self._png(codecs.column(rows), text)
            frames = [codecs.column(list(states)) for states in zip(*ways, strict=True)]
            path = _stem(path) + _ANIMATION
            files[path] = codecs.encode_apng(frames, _timing(len(frames)), text, self._mark())
        for result in results:
            files.update(result.files)
        return files

    def _png(self, image: Image.Image, text: dict[str, str]) -> bytes:
        return codecs.encode_png(image, text, self._mark())

    def _text(self, item: Item, notes: dict[str, object], own: dict[str, object]) -> dict[str, str]:
        if self.parameters is None:
            return {}
        of_item = {"input": item.name, "sample": item.sample}
        return {"parameters": json.dumps({**self.parameters, **of_item, **notes, **own})}

    def _mark(self) -> bytes:
        """Return what says in each picture that a model made it, of the program and the weights recorded."""
        if self.parameters is None:
            return b""
        known = {key: str(value) for key, value in self.parameters.items()}
        model = ", ".join(known[key] for key in ("weights", "weights_B") if key in known)
        return codecs.make_mark(known["program"], model, f"sha256 {known['weights_sha256']}")


def merge(results: Sequence[Result]) -> dict[str, object]:
    """Return the notes of the parts of a result: a list of each where they differ."""
    lists = {key: [result.notes[key] for result in results] for key in results[0].notes}
    return {
        key: values[0] if all(x == values[0] for x in values) else values for key, values in lists.items()
    }


def _some(count: int) -> list[int]:
    """Return which of many parts get a row: all of a few, else as many, evenly spaced."""
    return sorted({round(i * (count - 1) / (_MOST_ROWS - 1)) for i in range(_MOST_ROWS)})


def _sheet(part: Part) -> Image.Image:
    """Show the results of a part under the names of their folders, after its input."""
    shown = {} if part.guide is None else {"input": part.guide}
    shown |= {result.folder.replace("_", " ", 1): result.image for result in part.results}
    return _label({name: codecs.to_image(x) for name, x in shown.items()})


def _compare(guide: Tensor | None, result: Result) -> Image.Image:
    """Return the strip of a result: what it came from, what lay between, what it is."""
    shown = {"input": guide, result.before_label: result.before, "result": result.image, "back": result.after}
    return _label({name: codecs.to_image(x) for name, x in shown.items() if x is not None})


def _label(shown: dict[str, Image.Image]) -> Image.Image:
    return codecs.labelled_strip(list(shown.values()), list(shown))


def _timing(num_frames: int) -> codecs.Timing:
    """Return how the frames of a way follow one another."""
    num_before = num_frames - 1
    return codecs.Timing([*[max(_FRAME_MS, round(_WAY_MS / num_before))] * num_before, _HELD_MS], 0)


def _stem(path: str) -> str:
    return path.removesuffix(PurePosixPath(path).suffix)


def _as_png(path: str) -> str:
    return _stem(path) + images.PNG


def _path(*parts: str) -> str:
    return PurePosixPath(*parts).as_posix()
