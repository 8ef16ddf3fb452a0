"""Downloads that end with the whole, right file under its name, or with none and what to do by hand."""

import hashlib
import os
import re
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout

from utils.log import log
from utils.quote import plain
from utils.sources.registry import Mirror
from utils.sources.transfer import (
    CutError,
    DownloadError,
    Pace,
    Patience,
    RefusedError,
    discard,
    notes_of,
    transfer,
)
from utils.sources.weight_formats import check_whole

_WAIT_S = 5.0  # before a process says that it waits for another


def is_offline() -> bool:
    """Whether the environment forbids network access (HF_HUB_OFFLINE)."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def file_name(address: str) -> str:
    """Return a harmless file name for an address: its last part, of letters, digits and ._- alone.

    Raises:
        ValueError: The address is not one of http or https with a host.
    """
    parts = urlsplit(address)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{plain(address)}: not an http:// or https:// address")
    named = [unquote(part) for part in parts.path.split("/") if part]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", named[-1] if named else "").lstrip(".")[-100:]
    if not re.search(r"[A-Za-z0-9]", name):
        name = "weights"
    # so that no two addresses share a file, as .../a/model.pt and .../b/model.pt would
    return f"{hashlib.sha256(address.encode()).hexdigest()[:8]}-{name}"


def download(
    mirrors: Sequence[Mirror], target: Path, size: int | None = None, patience: Patience | None = None
) -> Path:
    """Fetch a file unless it is there, from the first mirror that gives it.

    Of several processes on a machine one fetches while the others wait. What an interrupted download
    left is taken up again where the server allows it.

    Args:
        mirrors: http or https addresses, tried in this order.
        target: Where the file goes; beside it, while it is incomplete, NAME.part.
        size: In bytes, where it is known.
        patience: With slow servers.

    Returns:
        `target`.

    Raises:
        DownloadError: No mirror gave the right file, or the environment says to stay offline.
    """
    if is_there(target, size):
        return target
    if is_offline():
        raise DownloadError(_by_hand(target, mirrors, ["HF_HUB_OFFLINE is set, so nothing was tried"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        if not is_there(target, size):  # another process may just have fetched it
            _fetch_from_first(mirrors, target, size, patience or Patience())
    return target


def is_there(target: Path, size: int | None = None) -> bool:
    """Whether a file is in its place, whole, and weights: not what an earlier program or a server left."""
    if not target.is_file() or size not in (None, target.stat().st_size):
        return False
    try:
        check_whole(target)
    except (ValueError, OSError) as error:
        log.warning("%s: %s", target, error)
        return False
    return True


@contextmanager
def _lock(target: Path) -> Iterator[None]:
    """Let one process of a machine in; a lock of a process that died is free at once."""
    lock = FileLock(target.with_name(f".{target.name}.lock"))
    try:
        lock.acquire(timeout=_WAIT_S)
    except Timeout:
        log.info("waiting for another process that fetches %s", target.name)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _fetch_from_first(mirrors: Sequence[Mirror], target: Path, size: int | None, patience: Patience) -> None:
    reasons = []
    for mirror in mirrors:
        try:
            _fetch(mirror, target, size, patience)
            return
        except (RefusedError, CutError) as error:
            reasons.append(f"{plain(mirror.address)}: {error}")
    raise DownloadError(_by_hand(target, mirrors, reasons))


def _fetch(mirror: Mirror, target: Path, size: int | None, patience: Patience) -> None:
    """Fetch from one mirror, with repetitions, check, and move into place."""
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    _complete(mirror, part, size, patience)
    try:
        _check(mirror, part, size)
    except RefusedError:
        if not resumed:
            raise
        discard(part)  # what was left may have been of another version
        _complete(mirror, part, size, patience)
        _check(mirror, part, size)
    with part.open("rb") as file:
        os.fsync(file.fileno())  # or a power failure could leave the name without the content
    os.replace(part, target)
    notes_of(part).unlink(missing_ok=True)


def _complete(mirror: Mirror, part: Path, size: int | None, patience: Patience) -> None:
    """Repeat requests until the part is the whole file, or too many in a row brought nothing."""
    fruitless, pace = 0, Pace(patience)
    while True:
        before = _size_of(part)
        try:
            transfer(mirror, part, size, pace)
            return
        except CutError:
            fruitless = 0 if _size_of(part) > before else fruitless + 1
            if fruitless >= patience.fruitless:
                raise
        if fruitless:
            time.sleep(patience.pause_s * 2 ** (fruitless - 1))


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _check(mirror: Mirror, part: Path, size: int | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        discard(part)
        raise RefusedError(f"gave {found:,} bytes instead of {size:,}")
    try:
        check_whole(part)
    except ValueError as error:
        discard(part)
        raise RefusedError(f"gave what is no whole file of weights: {error}") from None
    if mirror.digest is None:
        return
    name, wanted = mirror.digest
    with part.open("rb") as file:
        got = hashlib.file_digest(file, name).hexdigest()
    if got == wanted:
        return
    problem = f"gave a file of {name} {got} instead of {wanted}"
    if mirror.confirmed:
        discard(part)
        raise RefusedError(problem)
    log.warning("%s %s, which only one mirror ever showed; the file is kept", plain(mirror.address), problem)


def _by_hand(target: Path, mirrors: Sequence[Mirror], reasons: Sequence[str]) -> str:
    """Say why a file could not be fetched, and the commands that fetch it."""
    lines = [f"{target.name}: could not be fetched", *(f"  {reason}" for reason in reasons)]
    lines += ["By hand, where there is a network, one of:", f"  mkdir -p {shlex.quote(str(target.parent))}"]
    for mirror in mirrors:
        command = f"  curl -fL -C - -o {shlex.quote(str(target))} {shlex.quote(mirror.address)}"
        lines.append(command)
        if mirror.digest:
            name, wanted = mirror.digest
            lines.append(f"    # then: echo '{wanted}  {target}' | {name}sum -c")
    lines.append(f"or copy the file to {target} from elsewhere.")
    return "\n".join(lines)
