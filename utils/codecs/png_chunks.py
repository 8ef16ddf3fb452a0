"""The chunks of a PNG file that decide its pixels, without the rest, which is often broken or huge."""

import bisect
import io
import itertools
import os
import struct
import zlib
from dataclasses import dataclass, field
from typing import BinaryIO

from utils.arrays import png16
from utils.codecs.formats import RefusedError
from utils.codecs.icc import MAX_PROFILE, note_on_codes

MAGIC = png16.MAGIC
MAX_CHUNKS = 2**20
MAX_KEPT = 2**20
"""Of EXIF data, or of a text that may hold an orientation, in bytes."""
_PIXELS = (b"tRNS", b"acTL", b"fcTL", b"fdAT")
"""What ancillary chunks decide the pixels or the number of pictures; a broken one is an error."""
_WITH_ORIENTATION = (b"XML:com.adobe.xmp", b"Raw profile type exif")
_SRGB_GAMMA = 45455
"""1 / 2.2, as gAMA has it."""


@dataclass
class Pixels:
    """A PNG file as its decoder should see it."""

    file: BinaryIO
    profile: bytes | None = None
    """ICC profile, unpacked."""
    problems: list[str] = field(default_factory=list)
    """What is not obeyed of what the file says about its colours."""


def size(head: bytes) -> tuple[int, int] | None:
    """Return width and height by the first 24 bytes of a PNG file; None where they are of no such file."""
    if not head.startswith(MAGIC) or head[12:16] != b"IHDR" or len(head) < 24:
        return None
    return struct.unpack(">II", head[16:24])


def keep_pixels(file: BinaryIO) -> Pixels:
    """Leave out of a PNG file what decides neither its pixels nor its orientation.

    Viewers ignore comments, times and texts, whatever their size, and also broken ones; so do we.

    Args:
        file: At its start. It is read again through the result.

    Raises:
        RefusedError: It has very many chunks.
    """
    size = file.seek(0, os.SEEK_END)
    found, spans, at = Pixels(file), [[0, len(MAGIC)]], len(MAGIC)
    said: dict[bytes, bytes] = {}
    for _ in range(MAX_CHUNKS):
        file.seek(at)
        head = file.read(8)
        if len(head) < 8:
            break
        length, kind = struct.unpack(">I4s", head)
        end = min(size, at + 12 + length)
        if _is_kept(file, kind, length):
            if spans[-1][1] == at:
                spans[-1][1] = end
            else:
                spans.append([at, end])
        elif kind in (b"iCCP", b"gAMA", b"sRGB", b"cICP"):
            said.setdefault(kind, _sound_body(file, kind, length, MAX_PROFILE))
        at = end
        if kind == b"IEND":
            break
    else:
        raise RefusedError(f"has more than {MAX_CHUNKS} chunks; save it again as PNG")
    _read_colors(found, said)
    file.seek(0)
    if spans != [[0, size]]:
        found.file = io.BufferedReader(_Spans(file, spans), 2**16)
    return found


def _is_kept(file: BinaryIO, kind: bytes, length: int) -> bool:
    if kind[:1].isupper() or kind in _PIXELS:
        return True
    if kind == b"eXIf":
        return bool(_sound_body(file, kind, length, MAX_KEPT))
    if kind in (b"tEXt", b"zTXt", b"iTXt"):
        key, _, rest = _sound_body(file, kind, length, MAX_KEPT).partition(b"\0")
        return key in _WITH_ORIENTATION and _is_small(kind, rest)
    return False


def _sound_body(file: BinaryIO, kind: bytes, length: int, limit: int) -> bytes:
    """Read what a chunk holds; nothing where it is too long, or its checksum is wrong."""
    if length > limit:
        return b""
    body = file.read(length)
    return body if file.read(4) == struct.pack(">I", zlib.crc32(kind + body)) else b""


def _is_small(kind: bytes, text: bytes) -> bool:
    """Tell whether a text behind its key is stored as it is, or unpacks to little."""
    if kind == b"tEXt" or (kind == b"iTXt" and text[:1] == b"\0"):
        return True
    packed = text[1:] if kind == b"zTXt" else text[2:].split(b"\0", 2)[-1]
    method = text[:1] if kind == b"zTXt" else text[1:2]
    return method == b"\0" and _unpack(packed, MAX_KEPT) is not None


def _read_colors(found: Pixels, said: dict[bytes, bytes]) -> None:
    """Take the profile, and note what is not obeyed."""
    if b"iCCP" in said:
        _, _, rest = said[b"iCCP"].partition(b"\0")
        found.profile = _unpack(rest[1:], MAX_PROFILE)
        if found.profile is None:
            found.problems.append("its colour profile is broken or too large")
        return
    codes = said.get(b"cICP", b"")
    if len(codes) == 4:
        found.problems += note_on_codes(codes[0], codes[1])
    gamma = said.get(b"gAMA", b"")
    if len(gamma) == 4 and b"sRGB" not in said and not codes:
        value = int.from_bytes(gamma, "big")
        if value and abs(value / _SRGB_GAMMA - 1) > 0.05:
            found.problems.append(f"its gamma, gAMA {value / 1e5:g}, is not obeyed")


def _unpack(data: bytes, limit: int) -> bytes | None:
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(data, limit)
    except zlib.error:
        return None
    return text if unpacking.eof else None


class _Spans(io.RawIOBase):
    """Parts of a file, one behind the other, as a file."""

    def __init__(self, file: BinaryIO, spans: list[list[int]]):
        self._file, self._spans, self._at = file, spans, 0
        lengths = [end - start for start, end in spans]
        self._starts, self._size = [0, *itertools.accumulate(lengths)], sum(lengths)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: memoryview) -> int:
        if self._at >= self._size:
            return 0
        index = bisect.bisect_right(self._starts, self._at) - 1
        start, end = self._spans[index]
        position = start + self._at - self._starts[index]
        self._file.seek(position)
        data = self._file.read(min(len(buffer), end - position))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)
