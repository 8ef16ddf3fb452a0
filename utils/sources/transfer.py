"""One request for a file: what arrived is kept beside it, so that a later one can go on."""

import http.client
import json
import re
import shutil
import socket
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

from utils.log import log
from utils.quote import plain
from utils.sources.registry import Mirror
from utils.sources.weight_formats import refuse_start

_CHUNK = 2**20
_HOPELESS = (socket.gaierror, ssl.SSLCertVerificationError, ConnectionRefusedError)
_HEADERS = {"User-Agent": "sdedit-ddib", "Accept-Encoding": "identity"}


class DownloadError(OSError):
    """A file could not be had; the message says from where and why, and how to fetch it by hand."""


class RefusedError(Exception):
    """A mirror will not give the file, now or later."""


class CutError(Exception):
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
    least_bytes: int = 2**18
    """That must arrive in every `window_s`, whatever the connections; 4 KiB/s, as no working network is."""
    window_s: float = 60.0
    most_bytes: int = 2**36
    """Of a file; the largest checkpoints of such networks take a tenth."""


class Pace:
    """Gives up a server that sends, and yet will never end: too slowly, or too much."""

    def __init__(self, patience: Patience):
        self.patience = patience
        self._since, self._arrived = time.monotonic(), 0

    def advance(self, count: int, end: int) -> None:
        """Take note of bytes, the last of which is the file's byte `end`."""
        self._arrived += count
        if end > self.patience.most_bytes:
            raise RefusedError(
                f"sends more than {self.patience.most_bytes:,} bytes; no such file is so large"
            )
        now = time.monotonic()
        if now - self._since < self.patience.window_s:
            return
        if self._arrived < self.patience.least_bytes:
            raise RefusedError(f"sent {self._arrived:,} bytes in {now - self._since:.0f} s; try again later")
        self._since, self._arrived = now, 0


def transfer(mirror: Mirror, part: Path, size: int | None, pace: Pace) -> None:
    """Bring the part up to the whole file by one request."""
    left = _what_is_left(mirror, part)
    have, validator = left.have, left.validator
    if have and have == left.total:
        return
    request = urllib.request.Request(mirror.address, headers=_HEADERS)
    if have:
        request.add_header("Range", f"bytes={have}-")
        if validator:
            request.add_header("If-Range", validator)
    try:
        with _OPENER.open(request, timeout=pace.patience.timeout_s) as response:
            _receive(response, mirror, part, left, size, pace)
    except urllib.error.HTTPError as error:
        _judge_status(error, part, have)
    except DownloadError:
        raise
    except urllib.error.URLError as error:
        hopeless = isinstance(error.reason, _HOPELESS)
        raise (RefusedError if hopeless else CutError)(plain(error.reason)) from None
    except (OSError, http.client.HTTPException) as error:
        raise CutError(plain(error) or type(error).__name__) from None
    except ValueError as error:  # of a malformed address or redirection
        raise RefusedError(plain(error)) from None


def _judge_status(error: urllib.error.HTTPError, part: Path, have: int) -> None:
    """Tell apart what a repetition may mend."""
    error.close()
    if error.code == 416 and have:
        discard(part)
        raise CutError("what was left of an earlier download does not belong to it")
    problem = f"answers {error.code} {plain(error.reason, 60)}"
    raise (CutError if error.code in (408, 429) or error.code >= 500 else RefusedError)(problem)


def _receive(
    response: http.client.HTTPResponse,
    mirror: Mirror,
    part: Path,
    left: "_Left",
    size: int | None,
    pace: Pace,
) -> None:
    start, total = _range_of(response, part, left)
    _refuse_headers(response.headers, size, total, pace.patience.most_bytes)
    _check_space(part, (total or size or 0) - start)
    notes = {"address": mirror.address, "validator": _validator(response.headers), "total": total}
    notes_of(part).write_text(json.dumps(notes))
    end = start
    with part.open("r+b" if start else "wb", buffering=0) as file, _progress(part, start, total) as advance:
        file.seek(start)
        while chunk := response.read1(_CHUNK):
            end += len(chunk)
            if end > (size or total or end):
                raise RefusedError("sends more than it announced")
            if end == len(chunk):
                _check_start(chunk, part)
            _write(file, chunk)
            advance(len(chunk))
            pace.advance(len(chunk), end)
    if total is not None and end < total:
        raise CutError(f"the connection ended after {end:,} of {total:,} bytes")


def _refuse_headers(headers: http.client.HTTPMessage, size: int | None, total: int | None, most: int) -> None:
    if headers.get_content_type() == "text/html":
        raise RefusedError("gives a web page instead of a file")
    if headers.get("Content-Encoding", "identity") != "identity":
        raise RefusedError(f"gives the file encoded as {plain(headers['Content-Encoding'], 20)}")
    if size is not None and total is not None and total != size:
        raise RefusedError(f"gives {total:,} bytes instead of {size:,}: another file")
    if total is not None and total > most:
        raise RefusedError(f"gives {total:,} bytes; no such file is so large")


def _check_start(chunk: bytes, part: Path) -> None:
    """Give up what does not begin as weights do; a first piece of few bytes cannot tell."""
    if len(chunk) < 512:
        return
    try:
        refuse_start(chunk[:512])
    except ValueError as error:
        discard(part)
        raise RefusedError(f"gives {error}") from None


def _write(file: FileIO, chunk: bytes) -> None:
    try:
        if file.write(chunk) != len(chunk):
            raise OSError("the disk is full")
    except OSError as error:  # unlike one of the connection, no repetition mends it
        raise DownloadError(f"{file.name}: {error}; make room, or give --weights_dir") from None


def _range_of(response: http.client.HTTPResponse, part: Path, left: "_Left") -> tuple[int, int | None]:
    """Return where in the file a response begins, and how long the file is if the server says so."""
    if response.status != 206:
        length = response.headers.get("Content-Length", "")
        return 0, int(length) if length.isascii() and length.isdecimal() and len(length) < 20 else None
    given = re.fullmatch(
        r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", response.headers.get("Content-Range", "")
    )
    if given is None or int(given[1]) != left.have:
        discard(part)
        raise CutError("gives another range than it was asked for")
    total = None if given[3] == "*" else int(given[3])
    now = _validator(response.headers)
    changed = left.total is not None and total is not None and left.total != total
    # a partial answer repeats the ETag that the whole one had, and may leave out Last-Modified
    must_repeat = bool(left.validator) and (now is not None or left.validator.startswith('"'))
    if changed or (must_repeat and now != left.validator):
        discard(part)
        raise CutError("gives the rest of another version of the file")
    return left.have, total if total is not None else left.total


@dataclass(frozen=True)
class _Left:
    """What an interrupted download left."""

    have: int = 0
    validator: str | None = None
    """What the server called this version of the file."""
    total: int | None = None
    """Bytes of the whole file."""


def _what_is_left(mirror: Mirror, part: Path) -> _Left:
    """Return how much of a file is there that may be gone on with, and how to tell that it is the same."""
    try:
        notes = json.loads(notes_of(part).read_text())
        left = _Left(part.stat().st_size, notes["validator"], notes["total"])
        same = notes["address"] == mirror.address
        same = same and isinstance(left.validator, str | None) and isinstance(left.total, int | None)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        same = False
    # without either, two versions could be mixed unseen
    if same and (left.validator or mirror.digest) and left.have <= (left.total or left.have):
        return left
    discard(part)
    return _Left()


def _validator(headers: http.client.HTTPMessage) -> str | None:
    etag = headers.get("ETag", "")
    return (etag if etag.startswith('"') else None) or headers.get("Last-Modified")  # a weak ETag is no help


def notes_of(part: Path) -> Path:
    return part.with_name(f".{part.name}.json")


def discard(part: Path) -> None:
    part.unlink(missing_ok=True)
    notes_of(part).unlink(missing_ok=True)


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
            raise RefusedError(f"leads on to {plain(newurl)}, which is not as safe")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


_OPENER = urllib.request.build_opener(_SafeRedirects)
