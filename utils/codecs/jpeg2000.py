"""The headers of a JPEG 2000 file, which decide what its decoder takes, as far as it goes before pixels."""

import os
import struct
from typing import BinaryIO

from utils.codecs.formats import RefusedError

MAX_PARTS = 2**20
"""Of layers, components, tiles, precincts and blocks, multiplied: each takes memory beside the pixels."""
_SIZ, _COD, _COC, _SOT, _SOD, _EOC = 0xFF51, 0xFF52, 0xFF53, 0xFF90, 0xFF93, 0xFFD9
_CODESTREAM = b"\xff\x4f\xff\x51"


def check(file: BinaryIO, size: tuple[int, int]) -> None:
    """Refuse a file whose headers ask for much memory, or say another size than its codestream.

    Args:
        file: Its position is kept.
        size: As Pillow has read it.

    Raises:
        RefusedError: Such a file, or one whose tiles change what the header says.
    """
    before = file.tell()
    try:
        file.seek(_find_codestream(file) + 2)
        _check_main_header(file, size)
    except struct.error:
        raise RefusedError("its JPEG 2000 header is broken") from None
    finally:
        file.seek(before)


def _find_codestream(file: BinaryIO) -> int:
    """Walk the boxes of a file to its codestream."""
    file.seek(0)
    if file.read(4) == _CODESTREAM:
        return 0
    at = 0
    for _ in range(1000):
        file.seek(at)
        length, kind = struct.unpack(">I4s", file.read(8))
        inside = at + 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            inside += 8
        if kind == b"jp2c":
            return inside
        if length < inside - at:
            break
        at += length
    raise RefusedError("holds no JPEG 2000 codestream")


def _check_main_header(file: BinaryIO, size: tuple[int, int]) -> None:
    marker, body = _segment(file)
    if marker != _SIZ:
        raise RefusedError("its JPEG 2000 header does not begin with the size")
    width, height, left, top, tile_width, tile_height, tile_left, tile_top, num = struct.unpack_from(
        ">8IH", body, 2
    )
    if (width - left, height - top) != size or not 1 <= num <= 4 or not tile_width or not tile_height:
        raise RefusedError("the sizes or components in its JPEG 2000 headers disagree")
    num_tiles = -(-(width - tile_left) // tile_width) * -(-(height - tile_top) // tile_height)
    area = min(tile_width, width) * min(tile_height, height) * num_tiles
    while True:
        marker, body = _segment(file)
        if marker == _SOT:
            return _check_tiles(file, body)
        if marker in (_COD, _COC):
            parts = _count_parts(marker, body, num, area, num_tiles)
            if parts > MAX_PARTS:
                raise RefusedError(f"is cut into {parts} parts, allowed are {MAX_PARTS}; save it as PNG")


def _count_parts(marker: int, body: bytes, num_components: int, area: int, num_tiles: int) -> int:
    """Count the blocks and precincts of all tiles, roughly and rather too many."""
    skip = 5 if marker == _COD else 2
    num_layers = struct.unpack_from(">H", body, 2)[0] if marker == _COD else 1
    levels, wide, high = struct.unpack_from(">BBB", body, skip)
    smallest = min(2 ** (wide + high + 4), 2**12)
    if body[0] & 1:
        widths = struct.unpack_from(f">{levels + 1}B", body, skip + 5)
        smallest = min(smallest, *(2 ** max(0, (w & 15) + (w >> 4) - 2) for w in widths[1:] or widths))
    blocks = area // smallest + num_tiles * (3 * levels + 1)
    return blocks * num_components * max(1, num_layers // 64)


def _check_tiles(file: BinaryIO, body: bytes) -> None:
    """Refuse tiles with settings of their own, which would have to be counted as those of the header."""
    for _ in range(MAX_PARTS // 8):
        start = file.tell() - len(body) - 4
        length = struct.unpack_from(">I", body, 2)[0]
        while (marker := struct.unpack(">H", file.read(2))[0]) != _SOD:
            if marker in (_COD, _COC):
                raise RefusedError("its tiles have settings of their own; save it as PNG")
            (skip,) = struct.unpack(">H", file.read(2))
            file.seek(max(0, skip - 2), os.SEEK_CUR)
        if length < 12:  # up to the end
            return
        file.seek(start + length)
        head = file.read(2)
        if len(head) < 2 or struct.unpack(">H", head)[0] != _SOT:
            return
        file.seek(-2, os.SEEK_CUR)
        _, body = _segment(file)
    raise RefusedError("has very many tiles; save it as PNG")


def _segment(file: BinaryIO) -> tuple[int, bytes]:
    marker, length = struct.unpack(">HH", file.read(4))
    if length < 2:
        raise RefusedError("its JPEG 2000 header is broken")
    return marker, file.read(length - 2)
