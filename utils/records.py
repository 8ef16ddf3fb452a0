"""What a run has finished: a log by each process, read when the run starts again.

The files of an item are written under temporary names, then recorded, then renamed. A process may be
killed between any two of these: what was recorded is renamed by the next run, what was not is done again.
"""

import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from utils import files
from utils.job import Item, ItemError
from utils.log import log


@dataclass(frozen=True, slots=True)
class Done:
    """The files of an item: relative path -> (size in bytes, SHA-256)."""

    files: dict[str, tuple[int, str]]
    token: str
    """Of the process that wrote them; part of the temporary names."""


def read_logs(save_dir: Path) -> Iterator[tuple[str, dict]]:
    """Read all lines that were written whole, with the token of their process; the first is its header."""
    for path in sorted((save_dir / files.SCRATCH).glob("*.jsonl")):
        with path.open("rb") as file:
            for line in file:
                try:
                    if line.endswith(b"\n"):
                        yield path.stem, json.loads(line)
                except ValueError:  # the disk was full, or the machine went down
                    continue


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
        self._token, self._log = uuid.uuid4().hex[:12], None
        self._lock, self._folders = threading.Lock(), set[Path]()
        self._done: dict[str, Done] = {}
        self._known: set[str] = set()
        """Paths that some run wrote."""

    def missing(self, items: list[Item], verify: bool = False) -> list[Item]:
        """Return the items that are not done, in order.

        Renames what was recorded and not yet renamed, removes what was never recorded, and reports files
        that are not what was recorded.

        Args:
            items: The share of this process: no other process touches their files.
            verify: Compare contents, not only sizes.
        """
        self._read({item.target for item in items})
        temporaries = self._temporaries({temporary_stem(item.target) for item in items})
        found = [item for item in items if not self._is_whole(item, temporaries, verify)]
        for path in temporaries.values():
            path.unlink(missing_ok=True)
        for target in self._done.keys() - {item.target for item in found}:
            self._known.difference_update(self._done[target].files)
        self._done.clear()  # of a long list, a hundred megabytes
        return found

    def commit(self, item: Item, contents: dict[str, bytes], notes: dict[str, object]) -> None:
        """Write the files of an item: all of them, or on the next start of the run.

        Args:
            item: Whose they are.
            contents: Content by path relative to save_dir.
            notes: What else is recorded.

        Raises:
            ItemError: A path that leads out of save_dir, or a file that no run wrote is in the way.
            OSError: The disk does not take them; nothing is left then.
        """
        names = _names(item.target, contents, self._token)
        staged = {}
        try:
            for path, content in contents.items():
                folder = self._folder(path)
                staged[folder / names[path]] = self._save_dir / path
                files.write_synced(folder / names[path], content)
            sums = {
                path: (len(content), hashlib.sha256(content).hexdigest())
                for path, content in contents.items()
            }
            self._append({"item": item.target, "files": sums, **notes})
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
        """Record how this process ended."""
        self._append({"end": summary})

    def _read(self, targets: set[str]) -> None:
        keys: dict[str, str] = {}
        for token, line in read_logs(self._save_dir):
            if "process" in line:
                keys[token] = line["key"]
            elif "files" in line:
                self._known.update(line["files"])
                if keys.get(token) == self._key and line["item"] in targets:
                    sums = {path: (size, digest) for path, (size, digest) in line["files"].items()}
                    self._done[line["item"]] = Done(sums, token)

    def _temporaries(self, hashes: set[str]) -> dict[str, Path]:
        """Find the temporary files of items, by name."""
        return {
            name: Path(folder, name)
            for folder, _, names in os.walk(self._save_dir)
            for name in names
            if name.endswith(".tmp") and name[1:].partition("-")[0] in hashes
        }

    def _is_whole(self, item: Item, temporaries: dict[str, Path], verify: bool) -> bool:
        done = self._done.get(item.target)
        if done is None:
            return False
        names = _names(item.target, done.files, done.token)
        for path, (size, digest) in done.files.items():
            final = self._save_dir / path
            temporary = temporaries.get(names[path])
            if (
                temporary is not None
                and temporary.stat().st_size == size
                and files.sha256(temporary) == digest
            ):
                os.replace(temporaries.pop(names[path]), final)
            elif not final.is_file():
                return False
            elif final.stat().st_size != size or (verify and files.sha256(final) != digest):
                log.warning(f"{path} is not what was written; it is made again")
                return False
        return True

    def _folder(self, path: str) -> Path:
        """Make the folder of a result, inside save_dir."""
        final = self._save_dir / path
        folder = final.parent
        with self._lock:
            if folder not in self._folders:
                if not folder.resolve().is_relative_to(self._save_dir.resolve()):
                    raise ItemError(f"{folder} is a link that leads out of {self._save_dir}; remove it")
                folder.mkdir(parents=True, exist_ok=True)
                self._folders.add(folder)
        if path not in self._known and not self._replace and os.path.lexists(final):
            raise ItemError(f"{final} is in the way, which no run wrote; move it, or allow --overwrite")
        return folder

    def _append(self, line: dict[str, object]) -> None:
        with self._lock:
            if self._log is None:
                path = self._save_dir / files.SCRATCH / f"{self._token}.jsonl"
                path.parent.mkdir(parents=True, exist_ok=True)
                self._log = path.open("ab", buffering=0)
                self._write({"process": self._header, "key": self._key})
            self._write(line)

    def _write(self, line: dict[str, object]) -> None:
        data = json.dumps({**line, "time": round(time.time(), 3)}).encode() + b"\n"
        written = self._log.write(data)
        if written != len(data):  # a disk that is full takes part of it
            raise OSError(28, "No space left on device", self._log.name)
        os.fsync(self._log.fileno())


def temporary_stem(target: str) -> str:
    """Name what the temporary files of an item begin with, after a dot."""
    return hashlib.sha256(target.encode("utf-8", "surrogateescape")).hexdigest()[:24]


def _names(target: str, paths, token: str) -> dict[str, str]:
    """Name the temporary files of an item: short, and known to whoever takes over the item."""
    return {path: f".{temporary_stem(target)}-{token}-{number}.tmp" for number, path in enumerate(paths)}
