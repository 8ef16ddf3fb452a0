"""Downloads that end with the whole, right file under its name, or with none and what to do by hand."""

import hashlib
import http.client
import json
import os
import re
import shlex
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import unquote, urlsplit

from filelock import FileLock, Timeout
from tqdm import tqdm

from utils.log import log
from utils.quote import plain
from utils.registry import Mirror

_CHUNK = 2**20
_WAIT_S = 5.0  # before a process says that it waits for another
_HOPELESS = (socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError)
_HEADERS = {"User-Agent": "sdedit-ddib", "Accept-Encoding": "identity"}


class DownloadError(OSError):
    """A file could not be had; the message says from where and why, and how to fetch it by hand."""


class _RefusedError(Exception):
    """A mirror will not give the file, now or later."""


class _CutError(Exception):
    """A connection ended early; it may be taken up again."""


@dataclass(frozen=True)
class Patience:
    """How long to bear with a server."""

    timeout_s: float = 30.0
    """Of a connection without a byte."""
    fruitless: int = 5
    """Attempts in a row that may bring nothing."""
    pause_s: float = 0.5
    """Before repeating what brought nothing; doubled each time."""


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
    if _is_there(target, size):
        return target
    if is_offline():
        raise DownloadError(_by_hand(target, mirrors, ["HF_HUB_OFFLINE is set, so nothing was tried"]))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target):
        if not _is_there(target, size):  # another process may just have fetched it
            _fetch_from_first(mirrors, target, size, patience or Patience())
    return target


def _is_there(target: Path, size: int | None) -> bool:
    return target.is_file() and size in (None, target.stat().st_size)


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
        except (_RefusedError, _CutError) as error:
            reasons.append(f"{plain(mirror.address)}: {error}")
    raise DownloadError(_by_hand(target, mirrors, reasons))


def _fetch(mirror: Mirror, target: Path, size: int | None, patience: Patience) -> None:
    """Fetch from one mirror, with repetitions, check, and move into place."""
    part = target.with_name(f"{target.name}.part")
    resumed = part.exists()
    _complete(mirror, part, size, patience)
    try:
        _check(mirror, part, size)
    except _RefusedError:
        if not resumed:
            raise
        _complete(mirror, part, size, patience)  # what was left may have been of another version
        _check(mirror, part, size)
    with part.open("rb") as file:
        os.fsync(file.fileno())  # or a power failure could leave the name without the content
    os.replace(part, target)
    _notes(part).unlink(missing_ok=True)


def _complete(mirror: Mirror, part: Path, size: int | None, patience: Patience) -> None:
    """Repeat requests until the part is the whole file, or too many in a row brought nothing."""
    fruitless = 0
    while True:
        before = _size_of(part)
        try:
            _transfer(mirror, part, size, patience.timeout_s)
            return
        except _CutError:
            fruitless = 0 if _size_of(part) > before else fruitless + 1
            if fruitless >= patience.fruitless:
                raise
        if fruitless:
            time.sleep(patience.pause_s * 2 ** (fruitless - 1))


def _size_of(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _transfer(mirror: Mirror, part: Path, size: int | None, timeout_s: float) -> None:
    """Bring the part up to the whole file by one request."""
    have, validator = _resumable(mirror, part)
    request = urllib.request.Request(mirror.address, headers=_HEADERS)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        with _OPENER.open(request, timeout=timeout_s) as response:
            _receive(response, mirror, part, have, size)
    except urllib.error.HTTPError as error:
        _judge_status(error, part, have)
    except DownloadError:
        raise
    except urllib.error.URLError as error:
        hopeless = isinstance(error.reason, _HOPELESS)
        raise (_RefusedError if hopeless else _CutError)(plain(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise _CutError(plain(error) or type(error).__name__) from None
    except ValueError as error:  # of a malformed address or redirection
        raise _RefusedError(plain(error)) from None


def _judge_status(error: urllib.error.HTTPError, part: Path, have: int) -> None:
    """Tell apart what a repetition may mend."""
    error.close()
    if error.code == 416 and have:
        whole = re.fullmatch(r"bytes \*/(\d+)", error.headers.get("Content-Range", ""))
        if whole and int(whole[1]) == have:
            return  # it was complete
        _discard(part)
        raise _CutError("what was left of an earlier download does not belong to it")
    problem = f"answers {error.code} {plain(error.reason, 60)}"
    raise (_CutError if error.code in (408, 429) or error.code >= 500 else _RefusedError)(problem)


def _receive(
    response: http.client.HTTPResponse, mirror: Mirror, part: Path, have: int, size: int | None
) -> None:
    headers = response.headers
    start = _start_of(response, have)
    length = headers.get("Content-Length", "")
    total = start + int(length) if length.isascii() and length.isdecimal() else None
    if headers.get_content_type() == "text/html":
        raise _RefusedError("gives a web page instead of a file")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise _RefusedError(f"gives the file encoded as {plain(headers['Content-Encoding'], 20)}")
    if size is not None and total is not None and total != size:
        raise _RefusedError(f"gives {total:,} bytes instead of {size:,}: another file")
    _check_space(part, (total or size or 0) - start)
    _notes(part).write_text(json.dumps({"address": mirror.address, "validator": _validator(headers)}))
    end = start
    with part.open("r+b" if start else "wb", buffering=0) as file, _progress(part, start, total) as advance:
        file.seek(start)
        while chunk := response.read1(_CHUNK):
            end += len(chunk)
            if end > (size or total or end):
                raise _RefusedError("sends more than it announced")
            _write(file, chunk)
            advance(len(chunk))
    if total is not None and end < total:
        raise _CutError(f"the connection ended after {end:,} of {total:,} bytes")


def _write(file: FileIO, chunk: bytes) -> None:
    try:
        if file.write(chunk) != len(chunk):
            raise OSError("the disk is full")
    except OSError as error:  # unlike one of the connection, no repetition mends it
        raise DownloadError(f"{file.name}: {error}; make room, or give --weights_dir") from None


def _start_of(response: http.client.HTTPResponse, have: int) -> int:
    """Return where in the file a response begins."""
    if response.status != 206:
        return 0
    given = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    if given is None or int(given[1]) != have:
        raise _RefusedError("gives another range than it was asked for")
    return have


def _resumable(mirror: Mirror, part: Path) -> tuple[int, str | None]:
    """Return how much of a file is there that may be gone on with, and how to tell that it is the same."""
    try:
        notes = json.loads(_notes(part).read_text())
        same, validator = notes["address"] == mirror.address, notes["validator"]
        have = part.stat().st_size
    except (OSError, ValueError, KeyError, TypeError):
        same = False
    if same and (validator or mirror.digest):  # without either, two versions could be mixed unseen
        return have, validator
    _discard(part)
    return 0, None


def _validator(headers: http.client.HTTPMessage) -> str | None:
    etag = headers.get("ETag", "")
    return (etag if etag.startswith('"') else None) or headers.get("Last-Modified")  # a weak ETag is no help


def _notes(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def _discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    _notes(part).unlink(missing_ok=True)


def _check(mirror: Mirror, part: Path, size: int | None) -> None:
    found = part.stat().st_size
    if size is not None and found != size:
        _discard(part)
        raise _RefusedError(f"gave {found:,} bytes instead of {size:,}")
    if mirror.digest is None:
        return
    name, wanted = mirror.digest
    with part.open("rb") as file:
        got = hashlib.file_digest(file, name).hexdigest()
    if got == wanted:
        return
    problem = f"gave a file of {name} {got} instead of {wanted}"
    if mirror.confirmed:
        _discard(part)
        raise _RefusedError(problem)
    log.warning("%s %s, which only one mirror ever showed; the file is kept", plain(mirror.address), problem)


def _check_space(part: Path, needed: int) -> None:
    free = shutil.disk_usage(part.parent).free
    if needed > free:
        raise DownloadError(
            f"{part.parent}: {needed:,} bytes are needed and {free:,} free; give --weights_dir"
        )


@contextmanager
def _progress(part: Path, start: int, total: int | None) -> Iterator:
    """Show a bar on a terminal, and one line elsewhere; only one process of a machine comes here."""
    name = part.name.removesuffix(".part")
    if not sys.stderr.isatty():
        if not start:
            log.info("fetching %s%s", name, f", {total / 1e6:,.0f} MB" if total else "")
        yield lambda count: None
        return
    with tqdm(total=total, initial=start, unit="B", unit_scale=True, desc=name, leave=False) as bar:
        yield bar.update


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows to http and https only, and never from https down to http."""

    def redirect_request(self, req, fp, code, msg, headers, newurl):
        scheme = urlsplit(newurl).scheme
        if scheme not in ("http", "https") or (req.type == "https" and scheme == "http"):
            raise _RefusedError(f"leads on to {plain(newurl)}, which is not as safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)


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
