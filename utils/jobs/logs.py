"""The logs of all processes that worked on a folder, read in the order in which they count.

A process reads the logs before it writes one, and numbers its own one higher than all of them: no clock
decides what came last. Lines that are not what a process writes are passed over.
"""

import functools
import json
import math
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils import files
from utils.log import log

SUFFIX = ".jsonl"
_MOST = 1e15
"""Of any number in a line."""
_OFFSET_BITS = 44
"""Of the place of a line; the number of its log is above."""
_MOST_OPEN = 64
"""Of the logs at one time: a run of many shares has many."""
_decode = json.JSONDecoder().decode


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


class Failed(NamedTuple):
    """An item that has no result."""

    head: Log
    input: str
    reason: str


class History:
    """What all logs together say; of 100,000 items it keeps where their lines are, not what these say."""

    def __init__(self):
        self.failed: dict[str, Failed] = {}
        """Items whose last line says so, by their target."""
        self.writers: dict[str, Log] = {}
        """Whose each path below save_dir is now: the last that wrote it."""
        self.processes: list[tuple[Log, dict[str, object]]] = []
        """Each process, and how it ended where it said so."""
        self._paths: list[Path] = []
        self._open = functools.lru_cache(_MOST_OPEN)(lambda number: self._paths[number].open("rb"))
        self._places: dict[str, int] = {}
        """Of the line of each item that is done: number of the log, and offset."""

    @property
    def generation(self) -> int:
        """The highest of all logs; 0 where there is none."""
        return max((head.generation for head, _ in self.processes), default=0)

    def done(self, target: str, key: str) -> dict | None:
        """Return the line of an item that a run did, None where its last line is another.

        Args:
            target: Of the item.
            key: Of the run.
        """
        place = self._places.get(target)
        if place is None:
            return None
        head, _ = self.processes[place >> _OFFSET_BITS]
        if head.key != key:
            return None
        file = self._open(place >> _OFFSET_BITS)
        file.seek(place & (1 << _OFFSET_BITS) - 1)
        line = _loads(file.readline())
        if "files" not in line:  # somebody cut the log off since it was read
            return None
        line["token"] = head.token
        return line if all(self.writers[path] is head for path in line["files"]) else None

    def read(self, head: Log, path: Path) -> None:
        """Add the log of a process, after all those that count less."""
        ended: dict[str, object] = {}
        number, offset = len(self.processes), 0
        self._paths.append(path)
        for text in self._open(number):
            line = _parse(text)
            if "files" in line:
                self._finished(line["item"], head, line["files"], number << _OFFSET_BITS | offset)
            elif "failed" in line:
                self._fail(line["item"], Failed(head, line["input"], line["failed"]))
            elif "stale" in line:
                for target in line["stale"]:
                    self._places.pop(target, None)
                    self.failed.pop(target, None)
            elif "end" in line:
                ended = line["end"]
            offset += len(text)
        self.processes.append((head, ended))

    def _finished(self, target: str, head: Log, paths: Iterable[str], place: int) -> None:
        self._places[target] = place
        self.failed.pop(target, None)
        for path in paths:
            self.writers[target if path == target else path] = head  # one string for both, mostly

    def _fail(self, target: str, failed: Failed) -> None:
        """Take note of a failure, unless a process at work at the same time did what failed here."""
        place = self._places.get(target)
        number = None if place is None else place >> _OFFSET_BITS
        # the log that is being read is not among the processes yet, and no older than itself
        older = number is not None and number < len(self.processes)
        if place is None or (older and self.processes[number][0].generation < failed.head.generation):
            self._places.pop(target, None)
            self.failed[target] = failed


def read(save_dir: Path) -> History:
    """Read the logs of all processes.

    Raises:
        ValueError: The folder of the logs is a link, or cannot be read.
    """
    history = History()
    for head, path in sorted(_heads(save_dir), key=lambda found: _order(found[0])):
        history.read(head, path)
    return history


def _order(head: Log) -> tuple[int, float, str]:
    return head.generation, head.started, head.token


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
        line = _decode(text.decode()) if text.endswith(b"\n") else None  # the disk was full, or power failed
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
    sums = line["files"]
    return (
        isinstance(line.get("item"), str)
        and isinstance(sums, dict)
        and all(_is_inside(path) and _is_sum(entry) for path, entry in sums.items())
        and isinstance(line.get("made_from"), dict)
        and _is_number(line.get("calls"))
        and _is_number(line.get("seconds"))
        and isinstance(line.get("precision"), str)
    )


def _is_sum(entry: object) -> bool:
    return isinstance(entry, list) and len(entry) == 2 and _is_number(entry[0]) and isinstance(entry[1], str)


def _is_inside(path: str) -> bool:
    """Whether a recorded path stays below save_dir: what was damaged may say anything."""
    return bool(path) and "\0" not in path and path[0] != "/" and ".." not in path.split("/")


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and 0 <= value < _MOST
