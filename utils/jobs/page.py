"""The page of a run, report.html: inputs beside results, in one file that opens from disk."""

import base64
import hashlib
import html
import itertools
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

from utils.jobs.notes import Known
from utils.option import width_height
from utils.running import INPUT

NAME = "report.html"
_TEMPLATE = Path(__file__).with_name("page.html")
_SCRIPT = re.compile("<script>(.*?)</script>", re.DOTALL)


@dataclass(frozen=True)
class About:
    """What a page shows of a run beside its items."""

    title: str
    named: dict[str, str]
    """Names of the files that the settings know by their content."""
    given: dict[str, object]
    """Options that have another value than their default."""
    settings: dict[str, object]
    """As in run.json."""
    inputs: Path
    """Folder of the inputs."""
    folders: list[str]
    """Those of the results, below that of the run: '' for one result an input, else of a sweep."""
    strips: str | None = None
    """Folder of the comparison strips, where there are any."""
    sheets: str | None = None
    """Folder of the contact sheets, likewise."""
    trajectories: str | None = None
    """Folder of the ways to the results, likewise."""
    suffix: str = ".png"
    """Of most results."""
    previews: str = ""
    """Folder of pictures of results that browsers do not show: each is named as the result, and .png."""
    shown: tuple[str, ...] = (".png",)
    """Suffixes of results that browsers show."""
    originals: str = ""
    """Folder of pictures of inputs that browsers do not show: each is named as the result, and .png."""
    hidden: tuple[str, ...] = ()
    """Suffixes of inputs that browsers do not show, in lower case."""


class Entry(NamedTuple):
    """One item of the run."""

    input: str
    """Relative path of the input."""
    target: str
    """Relative path of the result, below each of the folders."""
    state: str
    """done, failed or missing."""
    reason: str = ""
    """Why it failed."""


def render(
    save_dir: Path,
    about: About,
    report: dict[str, object],
    entries: Iterable[Entry],
    known: dict[str, Known] | None = None,
) -> str:
    """Return the page, as HTML that names no other place than the folders of inputs and results.

    Args:
        save_dir: Folder that it will lie in.
        about: The run.
        report: As in report.json.
        entries: Its items, in order; the samples of an input follow one another.
        known: What is known of their results, by the folder of these.
    """
    samples = about.settings.get("samples")
    data = {
        "named": about.named,
        "given": about.given,
        "inputs": _address(about.inputs, save_dir),
        "folders": about.folders,
        "samples": samples,
        "strips": about.strips,
        "sheets": about.sheets,
        "trajectories": about.trajectories,
        "suffix": about.suffix,
        "previews": about.previews,
        "shown": about.shown,
        "originals": about.originals,
        "hidden": about.hidden,
        "fit": about.settings.get("fit"),
        "size": _size(about.settings),
        "settings": about.settings,
        "report": report,
        "known": {folder: {"shared": one.shared, "own": one.own} for folder, one in (known or {}).items()},
        "rows": [
            _row(name, list(group), samples is not None, about.suffix)
            for name, group in itertools.groupby(entries, key=lambda entry: entry.input)
        ],
    }
    template = _TEMPLATE.read_text(encoding="utf-8")
    script = hashlib.sha256(_SCRIPT.search(template)[1].encode()).digest()
    values = {
        "title": html.escape(about.title),
        "script": base64.b64encode(script).decode(),
        "data": _embed(data),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: values[match[1]], template)


def _size(settings: dict[str, object]) -> list[int] | None:
    """Return width and height of the results; None where each has its own."""
    asked, side = settings.get("size"), settings["config"]["model"]["image_size"]
    if asked == INPUT or settings.get("region") or (settings.get("tiles") and not asked):
        return None
    return list(width_height(asked)) if asked else [side, side]


def _row(name: str, entries: list[Entry], numbered: bool, usual_suffix: str) -> str | list[object]:
    """Return an input and what became of it: its name, and what cannot be told from that.

    Args:
        name: Relative path of the input.
        entries: Its samples.
        numbered: The targets end in the number of the sample.
        usual_suffix: That of most results.

    Returns:
        The name alone, where all is done under the usual name; else [name, stem of the results or 0,
        a letter for the state of each sample, reasons by sample, suffix of the results].
    """
    stem, dot, suffix = entries[0].target.rpartition(".")
    if numbered:
        stem = stem.removesuffix("_s00")
    states = "".join(entry.state[0] for entry in entries)
    reasons = {index: entry.reason for index, entry in enumerate(entries) if entry.reason}
    usual, other = stem == name.rpartition(".")[0], f"{dot}{suffix}" != usual_suffix
    if usual and not other and not states.strip("d"):
        return name
    row: list[object] = [name, 0 if usual else stem, states]
    if other:
        return [*row, reasons, f"{dot}{suffix}"]
    return [*row, reasons] if reasons else row


def _address(folder: Path, start: Path) -> str:
    """Return a folder as an address relative to another one, ending in a slash."""
    try:
        relative = os.path.relpath(folder, start)
    except ValueError:  # on another drive
        return f"{folder.absolute().as_uri()}/"
    return f"./{quote(os.fsencode(relative.replace(os.sep, '/')))}/"


def _embed(data: object) -> str:
    """Return JSON in which nothing ends the script element that holds it."""
    text = json.dumps(data, separators=(",", ":"))
    return text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e")
