"""The logs of all processes that worked on a folder, read in the order in which they count.

A process reads the logs before it writes one, and numbers its own one higher than all of them: no clock
decides what came last. Lines that are not what a process writes are passed over.
"""

import json
import math
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from utils import files
from utils.log import log

SUFFIX = ".jsonl"
_MOST = 1e15
"""Of any number in a line."""


@dataclass(frozen=True, slots=True)
class Log:
    """The head of a log."""

    token: str
    """Of the process; names its log and is part of its temporary names."""
    key: str
    """Of the run."""
    generation: int
    """One more than the highest that the process found."""
    started: float
    """Seconds since 1970, by the clock of its machine."""
    process: dict[str, object]
    """What is recorded of it."""


@dataclass(slots=True)
class History:
    """What all logs together say."""

    ends: dict[str, tuple[Log, bytes]]
    """The last line of each item that has one, by its target."""
    writers: dict[str, Log]
    """Whose each path below save_dir is now: the last that wrote it."""
    processes: list[tuple[Log, dict[str, object]]]
    """Each process, and how it ended where it said so."""

    @property
    def generation(self) -> int:
        """The highest of all logs; 0 where there is none."""
        return max((head.generation for head, _ in self.processes), default=0)


def read(save_dir: Path) -> History:
    """Read the logs of all processes.

    Raises:
        ValueError: The folder of the logs is a link, or cannot be read.
    """
    history = History({}, {}, [])
    for head, path in sorted(_heads(save_dir), key=lambda found: _order(found[0])):
        ended: dict[str, object] = {}
        with path.open("rb") as file:
            for text in file:
                line = _parse(text)
                if "files" in line:
                    history.ends[line["item"]] = head, text
                    history.writers.update(dict.fromkeys(line["files"], head))
                elif "failed" in line:
                    _fail(history, head, line["item"], text)
                elif "stale" in line:
                    for target in line["stale"]:
                        history.ends.pop(target, None)
                elif "end" in line:
                    ended = line["end"]
        history.processes.append((head, ended))
    return history


def _order(head: Log) -> tuple[int, float, str]:
    return head.generation, head.started, head.token


def _fail(history: History, head: Log, target: str, text: bytes) -> None:
    """Take note of a failure, unless a process at work at the same time did what failed here."""
    before = history.ends.get(target)
    if before is None or before[0].generation < head.generation or is_failure(before[1]):
        history.ends[target] = head, text


def is_failure(text: bytes) -> bool:
    """Whether the last line of an item says that it failed."""
    return "failed" in json.loads(text)


def folder(save_dir: Path) -> Path:
    """Return the folder of the logs.

    Raises:
        ValueError: It is a link, which may lead anywhere.
    """
    found = save_dir / files.SCRATCH
    if found.is_symlink():
        raise ValueError(f"{found}: is a link; remove it, what a run records lies in a folder of its own")
    return found


def _heads(save_dir: Path) -> Iterator[tuple[Log, Path]]:
    path = folder(save_dir)
    try:
        entries = list(os.scandir(path)) if path.exists() else []
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}; allow it, or remove it") from None
    for entry in entries:
        if entry.name.endswith(SUFFIX) and stat.S_ISREG(entry.stat(follow_symlinks=False).st_mode):
            try:
                with open(entry.path, "rb") as file:
                    yield _head(entry.name.removesuffix(SUFFIX), file), Path(entry.path)
            except OSError as error:
                log.warning(f"{entry.path}: cannot be read ({error.strerror}), so what it records is lost")


def _head(token: str, file: BinaryIO) -> Log:
    """Read the first line of a log; where it is damaged, the log is of no run, and before all others."""
    line = _loads(file.readline())
    if not isinstance(line.get("process"), dict) or not isinstance(line.get("key"), str):
        return Log(token, "", 0, 0.0, {})
    generation, started = line.get("generation"), line.get("time")
    whole = _is_number(generation) and isinstance(generation, int)
    return Log(
        token,
        line["key"],
        generation if whole else 0,
        float(started) if _is_number(started) else 0.0,
        line["process"],
    )


def _loads(text: bytes) -> dict:
    """Parse a line that was written whole; {} for anything else."""
    try:
        line = json.loads(text) if text.endswith(b"\n") else None  # the disk was full, or power failed
    except (ValueError, RecursionError):
        return {}
    return line if isinstance(line, dict) else {}


def _parse(text: bytes) -> dict:
    """Parse a line about an item or an end; {} for what is none."""
    line = _loads(text)
    if "files" in line:
        good = _is_done(line)
    elif "failed" in line:
        good = all(isinstance(line.get(key), str) for key in ("item", "input", "failed"))
    elif "stale" in line:
        good = isinstance(line["stale"], list) and all(isinstance(target, str) for target in line["stale"])
    else:
        good = isinstance(line.get("end"), dict)
    return line if good else {}


def _is_done(line: dict) -> bool:
    sums, made_from = line["files"], line.get("made_from")
    return (
        isinstance(line.get("item"), str)
        and isinstance(sums, dict)
        and all(_is_inside(path) and _is_sum(entry) for path, entry in sums.items())
        and isinstance(made_from, dict)
        and all(_is_number(line.get(key)) for key in ("calls", "seconds"))
        and isinstance(line.get("precision"), str)
    )


def _is_sum(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and _is_number(entry[0]) and isinstance(entry[1], str)


def _is_inside(path: str) -> bool:
    """Whether a recorded path stays below save_dir: what was damaged may say anything."""
    return bool(path) and "\0" not in path and path[0] != "/" and ".." not in PurePosixPath(path).parts


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < _MOST
