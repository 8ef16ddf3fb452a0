"""What is measured together: the results of a run, or of each part of a sweep."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils import codecs, images

_SWEEP = re.compile(r"(?:(t0|steps)_([0-9.e+-]+)|to_.+)")


@dataclass(frozen=True)
class Row:
    """Results that are measured together."""

    label: str
    folder: Path
    """What the names of the results are relative to."""
    pairs: list[tuple[str, str]]
    """Relative paths of a guide and its result."""
    num_missing: int
    fit: str
    """How guides were brought to the size of the results."""
    parameter: tuple[str, float] | None = None
    """Of a sweep: t0 or steps, and its value."""
    ends: codecs.Ends | None = None
    """Values of black and white in files of numbers."""


def find_rows(results: Path, names: list[str], fit: str | None, one_of_several: bool) -> list[Row]:
    """List the rows of a folder of results: itself, or each folder of a sweep.

    Args:
        results: Where a run wrote.
        names: Of its guides.
        fit: How they were brought to the size of the results; None for what its run.json says.
        one_of_several: The label of a part of a sweep begins with the name of the folder.

    Raises:
        ValueError: It holds no result of any guide.
    """
    settings = _read_settings(results)
    fit = fit or settings.get("fit") or "crop"
    targets = images.result_names(names)
    rows = []
    for folder, parameter in _folders(results):
        wanted = [
            (name, result)
            for name in names
            for result in _results(targets[name], results / folder, settings.get("samples"))
        ]
        pairs = [(name, result) for name, result in wanted if (results / folder / result).is_file()]
        if pairs:
            label = f"{results.name}/{folder}" if one_of_several else folder or results.name
            missing = len(wanted) - len(pairs)
            rows.append(Row(label, results / folder, pairs, missing, fit, parameter, _ends(settings)))
    if not rows:
        example = next(iter(targets.values()))
        raise ValueError(
            f"{results}: no result of any guide, such as {example}, nor in t0_*, steps_* or to_*"
        )
    return rows


def _read_settings(results: Path) -> dict[str, object]:
    """Return the settings of the run that made results; none where they are of another program."""
    try:
        return json.loads((results / "run.json").read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _ends(settings: dict[str, object]) -> codecs.Ends | None:
    """Return which values were black and white in files of numbers; None where nothing said so."""
    config = settings.get("config") or {}
    found = settings.get("range") or config.get("diffusion", {}).get("image_range")
    return (float(found[0]), float(found[1])) if found else None


def _folders(results: Path) -> list[tuple[str, tuple[str, float] | None]]:
    """List the folder itself and those of a sweep, in the order of their parameters."""
    found: list[tuple[str, tuple[str, float] | None]] = []
    for path in results.iterdir():
        if path.is_dir() and (match := _SWEEP.fullmatch(path.name)):
            found.append((path.name, (match[1], float(match[2])) if match[1] else None))
    return [("", None), *sorted(found, key=lambda each: (each[1][1] if each[1] else 0.0, each[0]))]


def _results(target: str, folder: Path, samples: int | None) -> Iterator[str]:
    """Name the results of a guide: one, or as many as the run drew samples."""
    stem = target.removesuffix(images.PNG)
    if samples is None and not any((folder / f"{stem}{suffix}").is_file() for suffix in images.RESULTS):
        samples = len({path.stem for path in folder.glob(f"{_literal(stem)}_s[0-9][0-9].*")}) or None
    for number in range(samples or 1):
        name = stem if samples is None else f"{stem}_s{number:02d}"
        there = (f"{name}{suffix}" for suffix in images.RESULTS if (folder / f"{name}{suffix}").is_file())
        yield next(there, f"{name}{images.PNG}")


def _literal(text: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", text)
