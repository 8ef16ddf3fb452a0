"""The markers of a JPEG file: how often the decoder goes over its pixels, and how many bits they have."""

import os
import re
from typing import BinaryIO

from utils.codecs.formats import RefusedError

MAX_MARKERS = 2**16
_SOS, _EOI = 0xDA, 0xD9
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a header of a picture: not those of tables and of what is reserved."""
_WITHOUT_LENGTH = (0x01, 0xD8)
_MARKER = re.compile(rb"\xff([\x01-\xcf\xd8-\xfe])", re.DOTALL)
"""Not the marks of a restart, which lie among the coded pixels, nor a coded 255, which 0 follows."""


def count_scans(file: BinaryIO, enough: int) -> int:
    """Count the scans of the first picture of a file, and not of what a phone puts behind it.

    Args:
        file: A JPEG file; its position is kept.
        enough: Where to stop counting.

    Raises:
        RefusedError: It has very many markers.
    """
    before, count = file.tell(), 0
    file.seek(0)
    try:
        for _ in range(MAX_MARKERS):
            marker = _next_marker(file)
            if marker in (None, _EOI) or count > enough:
                return count
            if marker in _WITHOUT_LENGTH:
                continue
            count += marker == _SOS
            length = int.from_bytes(file.read(2), "big")
            if length < 2:  # broken, which the decoder tells
                return count
            file.seek(length - 2, os.SEEK_CUR)
    finally:
        file.seek(before)
    raise RefusedError(f"has more than {MAX_MARKERS} markers; save it as PNG")


def find_bits(file: BinaryIO) -> int | None:
    """Return how many bits a channel of a JPEG file has; None where it does not say. Moves its position."""
    file.seek(0)
    for _ in range(MAX_MARKERS):
        marker = _next_marker(file)
        if marker in (None, _EOI, _SOS):
            return None
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2), "big")
        if marker in _FRAMES:
            return int.from_bytes(file.read(1), "big") or None
        file.seek(max(length - 2, 0), os.SEEK_CUR)
    return None


def _next_marker(file: BinaryIO) -> int | None:
    """Go behind the next marker."""
    size = 2**8
    while True:
        start = file.tell()
        block = file.read(size)
        if found := _MARKER.search(block):
            file.seek(start + found.end())
            return found[1][0]
        if len(block) < size:
            return None
        if block.endswith(b"\xff"):
            file.seek(-1, os.SEEK_CUR)
        size = min(2 * size, 2**20)
