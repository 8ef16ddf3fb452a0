"""Who works on which share of a folder's items: one process at a time.

A share is every n-th item from the i-th on. Whoever holds one has a file locked by the system, which lets
go of it when the process ends, however it ends; a second file says who that is.
"""

import contextlib
import errno
import json
import math
import os
import platform
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from filelock import FileLock, Timeout

from utils import files
from utils.jobs import logs
from utils.log import log
from utils.quote import plain

T = TypeVar("T")
FOLDER = "shares"
_MAX_BYTES = 4096
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


class Share(NamedTuple):
    """The items first, first + step, first + 2 step, ... of a run."""

    first: int
    step: int

    def of(self, items: list[T]) -> list[T]:
        """Return the items that are in it."""
        return items[self.first :: self.step]

    def part(self, index: int, count: int) -> "Share":
        """Return the index-th of count parts of it."""
        return Share(self.first + self.step * index, self.step * count)

    def meets(self, other: "Share") -> bool:
        """Whether some item may be in both."""
        return (self.first - other.first) % math.gcd(self.step, other.step) == 0


def check(save_dir: Path, share: Share) -> None:
    """Refuse a share that another process works on; changes nothing.

    Raises:
        ValueError: Such a share, with who holds it.
    """
    folder = logs.folder(save_dir) / FOLDER
    if folder.is_dir():
        with contextlib.suppress(NotImplementedError, OSError), _alone(folder):
            _refuse_held(save_dir, share)


def _alone(folder: Path) -> FileLock:
    """Return what lets one process at a time look and take: to look is to take for a moment."""
    return FileLock(folder / "lock", timeout=30)


def _refuse_held(save_dir: Path, share: Share) -> None:
    for path, other in _found(save_dir):
        if share.meets(other) and not _try_lock(path):
            raise ValueError(
                f"--save_dir {save_dir}: another process works on the same items: {_owner(path)}; wait for "
                "it, stop it, or choose another folder"
            )


@contextlib.contextmanager
def held(save_dir: Path, share: Share) -> Iterator[None]:
    """Hold a share until the end of the block.

    Raises:
        ValueError: Another process holds some of its items.
        OSError: Nothing can be written there.
    """
    folder = logs.folder(save_dir) / FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{share.first}_{share.step}.lock"
    lock = FileLock(path, timeout=0)
    try:
        with _alone(folder):
            _refuse_held(save_dir, share)
            lock.acquire()
            owner = {"host": platform.node(), "pid": os.getpid(), "since": time.strftime("%F %T %z")}
            files.write_atomically(path.with_suffix(".json"), json.dumps(owner).encode())
    except (NotImplementedError, Timeout, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_LOCKS and not isinstance(error, Timeout):
            raise
        log.warning(f"{save_dir}: has no locks ({plain(error)}), so start no second run on it")
    try:
        yield
    finally:
        lock.release()


def _found(save_dir: Path) -> list[tuple[Path, Share]]:
    """List the shares that some process took, dead or alive."""
    folder = logs.folder(save_dir) / FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    matches = [re.fullmatch(r"(\d{1,9})_([1-9]\d{0,8})\.lock", name) for name in names]
    return [(folder / match[0], Share(int(match[1]), int(match[2]))) for match in matches if match]


def _try_lock(path: Path) -> bool:
    """Whether nobody holds the lock of a share; a lock whose owner is dead is nobody's."""
    if not path.is_file() or path.is_symlink():
        return True
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False
    except (OSError, NotImplementedError):
        return True


def _owner(path: Path) -> str:
    """Read who holds a share."""
    try:
        with path.with_suffix(".json").open("rb") as file:
            found = json.loads(file.read(_MAX_BYTES))
        return plain(f"pid {found['pid']} on {found['host']}, since {found['since']}")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return "it does not say which"
