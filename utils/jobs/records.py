"""What a run has finished: a log by each process, read when the run starts again.

The files of an item are written under temporary names, then recorded, then renamed. A process may be
killed between any two of these: what was recorded is renamed by the next run, what was not is done again.
"""

import errno
import hashlib
import json
import os
import stat
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from pathlib import Path

from utils import files
from utils.jobs import logs
from utils.jobs.job import Item, ItemError
from utils.jobs.origin import Origin
from utils.log import log
from utils.quote import plain

_LONGEST_PATH = 4095
"""Bytes that a system call takes."""


class Records:
    """The log of this process, and what the logs of all processes say is done."""

    def __init__(self, save_dir: Path, key: str, header: dict[str, object], replace: bool = False):
        """
        Args:
            save_dir: Folder of the results.
            key: Of the run; what other runs recorded is not done.
            header: What is recorded of this process.
            replace: Files that no run recorded may be replaced.
        """
        self._save_dir, self._key, self._header, self._replace = save_dir, key, header, replace
        self._token, self._log, self._generation = uuid.uuid4().hex[:12], None, 1
        self._lock, self._folders = threading.Lock(), set[Path]()
        self._known: Collection[str] = ()
        """Paths that some run wrote."""

    def missing(
        self, items: list[Item], origin: Callable[[Item], Origin], verify: bool = False
    ) -> list[Item]:
        """Return the items that are not done, in order.

        Done is what this run recorded last of all runs, from the same inputs, and what still lies there.
        Renames what was recorded and not yet renamed, removes what was never recorded, and says how many
        of what was done before are made again, and why.

        Args:
            items: The share of this process: no other process touches their files.
            origin: What an item is made from.
            verify: Compare contents, not only sizes and times.

        Raises:
            ValueError: The logs cannot be read.
        """
        history = logs.read(self._save_dir)
        self._generation = history.generation + 1
        temporaries = self._temporaries(items)
        found, stale, reasons = [], [], Counter[str]()
        for item in items:
            reason = self._why_not_done(item, history, temporaries, origin, verify)
            if reason is not None:
                found.append(item)
            if reason:
                stale.append(item.target)
                reasons[reason] += 1
        for path in temporaries.values():
            path.unlink(missing_ok=True)
        self._known = history.writers.keys()
        if stale:
            why = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
            log.warning(f"{len(stale)} of {len(items)} were done before and are made again: {why}")
            self._append({"stale": stale})
        return found

    def check(self, paths: Iterable[str]) -> None:
        """Refuse an item whose files could not be written, before it is computed.

        Args:
            paths: Of its files, relative to save_dir.

        Raises:
            ItemError: A name that the disk does not take, or something in the way.
        """
        for path in paths:
            self._check(path)

    def commit(
        self, item: Item, contents: dict[str, bytes], made_from: dict[str, object], notes: dict[str, object]
    ) -> None:
        """Write the files of an item: all of them, or on the next start of the run.

        Args:
            item: Whose they are.
            contents: Content by path relative to save_dir.
            made_from: What it was made from, by `Origin.record`.
            notes: What else is recorded.

        Raises:
            ItemError: A path that leads out of save_dir, or a file that no run wrote is in the way.
            OSError: The disk does not take them; nothing is left then.
        """
        names = _names(item.target, contents, self._token)
        staged = {}
        try:
            for path, content in contents.items():
                self._check(path)
                folder = self._folder(path)
                staged[folder / names[path]] = self._save_dir / path
                files.write_synced(folder / names[path], content)
            sums = {
                path: (len(content), hashlib.sha256(content).hexdigest())
                for path, content in contents.items()
            }
            self._append({"item": item.target, "files": sums, "made_from": made_from, **notes})
        except BaseException:
            for temporary in staged:
                temporary.unlink(missing_ok=True)
            raise
        for temporary, path in staged.items():
            os.replace(temporary, path)

    def fail(self, item: Item, reason: str) -> None:
        """Record an item that has no result."""
        self._append({"item": item.target, "input": item.name, "failed": reason})

    def finish(self, summary: dict[str, object]) -> None:
        """Record how this process ended, and keep nothing of the other runs any more."""
        self._known = ()
        self._append({"end": summary})

    def _temporaries(self, items: list[Item]) -> dict[str, Path]:
        """Find the temporary files of items, by name."""
        found = {
            name: Path(folder, name)
            for folder, _, names in os.walk(self._save_dir)
            for name in names
            if name.endswith(".tmp")
        }
        stems = {temporary_stem(item.target) for item in items} if found else set()
        return {name: path for name, path in found.items() if name[1:].partition("-")[0] in stems}

    def _why_not_done(
        self,
        item: Item,
        history: logs.History,
        temporaries: dict[str, Path],
        origin: Callable[[Item], Origin],
        verify: bool,
    ) -> str | None:
        """Return why an item is to be done: '' where this run never did it; None where it is done."""
        line = history.done(item.target, self._key)
        if line is None:
            return ""
        if difference := origin(item).difference(line["made_from"], verify):
            return difference
        if temporaries:
            self._rename(temporaries, item.target, line)
        for path, (size, digest) in line["files"].items():
            if reason := self._damage(path, size, digest if verify else None):
                return reason
        return None

    def _rename(self, temporaries: dict[str, Path], target: str, line: dict) -> None:
        """Give files that were recorded their final names, where a process died before it did."""
        names = _names(target, line["files"], line["token"])
        for path, (size, digest) in line["files"].items():
            temporary = temporaries.get(names[path])
            if temporary is None or temporary.stat().st_size != size or files.sha256(temporary) != digest:
                continue
            try:
                os.replace(temporary, self._save_dir / path)
                del temporaries[names[path]]
            except OSError as error:
                log.warning(f"{plain(path)} cannot be put in its place: {error.strerror}")

    def _damage(self, path: str, size: int, digest: str | None) -> str:
        """Say what is wrong with a file that was recorded; '' for nothing."""
        final = os.path.join(self._save_dir, path)
        try:
            status = os.lstat(final)
            if not stat.S_ISREG(status.st_mode):
                return "result is no file"
            if status.st_size == size and (digest is None or files.sha256(Path(final)) == digest):
                return ""
        except OSError:
            return "result gone"
        log.warning(f"{plain(path)} is not what was written; it is made again")
        return "result changed"

    def _check(self, path: str) -> None:
        final = self._save_dir / path
        for part in Path(path).parts:
            if len(os.fsencode(part)) > self._longest_name():
                raise ItemError(
                    f"its result would be named {plain(part, 40)}, {len(os.fsencode(part))} bytes; the disk "
                    f"takes {self._longest_name()}; give the input a shorter name"
                )
        if len(os.fsencode(final.absolute())) > _LONGEST_PATH:
            raise ItemError(
                f"the path of its result has more than {_LONGEST_PATH} bytes; choose a shorter --save_dir"
            )
        try:
            status = os.lstat(final)
        except FileNotFoundError:
            return
        except NotADirectoryError:
            raise ItemError(f"{plain(final.parent)} is a file where a folder belongs; remove it") from None
        if stat.S_ISDIR(status.st_mode):
            raise ItemError(f"{plain(final)} is a folder, in the way of a result; move it")
        if path not in self._known and not self._replace:
            raise ItemError(f"{final} is in the way, which no run wrote; move it, or allow --overwrite")

    def _longest_name(self) -> int:
        """Return how many bytes of a name the disk takes."""
        return os.pathconf(self._save_dir, "PC_NAME_MAX") if self._save_dir.exists() else 255

    def _folder(self, path: str) -> Path:
        """Make the folder of a result, inside save_dir."""
        folder = (self._save_dir / path).parent
        with self._lock:
            if folder not in self._folders:
                if not folder.resolve().is_relative_to(self._save_dir.resolve()):
                    raise ItemError(f"{folder} is a link that leads out of {self._save_dir}; remove it")
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                except (FileExistsError, NotADirectoryError):
                    raise ItemError(f"{folder} is a file where a folder belongs; remove it") from None
                self._folders.add(folder)
        return folder

    def _append(self, line: dict[str, object]) -> None:
        with self._lock:
            if self._log is None:
                path = logs.folder(self._save_dir) / f"{self._token}{logs.SUFFIX}"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = path.open("ab", buffering=0)
                self._write({"process": self._header, "key": self._key, "generation": self._generation})
            self._write(line)

    def _write(self, line: dict[str, object]) -> None:
        data = json.dumps({**line, "time": round(time.time(), 3)}).encode() + b"\n"
        written = self._log.write(data)
        if written != len(data):  # a disk that is full takes part of it
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._log.name)
        os.fsync(self._log.fileno())


def temporary_stem(target: str) -> str:
    """Name what the temporary files of an item begin with, after a dot."""
    return hashlib.sha256(target.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _names(target: str, paths: Iterable[str], token: str) -> dict[str, str]:
    """Name the temporary files of an item: short, and known to whoever takes over the item."""
    return {path: f".{temporary_stem(target)}-{token}-{number}.tmp" for number, path in enumerate(paths)}
