"""TIFF files of 16 bits or of floating point, which Pillow does not read or reads to 8 bits, and back."""

import io
import itertools
import math
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.arrays.refused import RefusedError

_MAGIC = {b"II*\0": "<I", b"MM\0*": ">I", b"II+\0": "<Q"}
"""With the order and width of offsets; the last begins a BigTIFF file."""
MAX_TILES = 2**17
_MAX_TAGS, _MAX_VALUES = 2**12, 2**25
"""Of a directory, and bytes of a tag."""
_WIDTH, _HEIGHT, _BITS, _PACKING, _COLOURS, _ORDER = 256, 257, 258, 259, 262, 266
_TEXT, _OFFSETS, _ORIENTATION, _SAMPLES, _ROWS, _COUNTS = 270, 273, 274, 277, 278, 279
_PLANES, _MADE_BY, _PREDICTOR, _TILE_WIDTH, _TILE_HEIGHT = 284, 305, 317, 322, 323
_TILE_OFFSETS, _TILE_COUNTS, _EXTRA, _NUMBERS, _XMP, _PROFILE = 324, 325, 338, 339, 700, 34675
"""Tags (TIFF 6.0)."""
_NONE, _LZW, _DEFLATE, _OLD_DEFLATE, _PACKBITS, _ZSTD = 1, 5, 8, 32946, 32773, 50000
_BY_PILLOW = {_LZW: "LZW", _PACKBITS: "PackBits", _ZSTD: "Zstandard"}
"""Packed bytes, whatever they mean, that its libtiff unpacks."""
_WHOLE, _FLOAT = 1, 3
_TYPES = {(_WHOLE, 16): "u2", (_FLOAT, 16): "f2", (_FLOAT, 32): "f4", (_FLOAT, 64): "f8"}
_LEVEL, _STRIP = 3, 2**20
_SHORT, _LONG = (3, "H"), (4, "I")


@dataclass(frozen=True)
class Tiff:
    """What the directory of a TIFF file says of its pixels."""

    size: tuple[int, int]
    """Width and height."""
    channels: int
    dtype: np.dtype
    """As stored, with its order of bytes."""
    tags: ImageFileDirectory_v2

    @property
    def profile(self) -> bytes | None:
        found = self.tags.get(_PROFILE)
        return found if isinstance(found, bytes) else None

    @property
    def is_whole(self) -> bool:
        """Whether its numbers are whole ones, of which 0 is black."""
        return self.dtype.kind == "u"

    @property
    def orientation(self) -> int:
        return self.tags.get(_ORIENTATION, 1)


def read_head(file: BinaryIO) -> Tiff | None:
    """Read the directory of a file; None where it is no TIFF file, or one that Pillow reads without loss.

    Args:
        file: It is read from its start.

    Raises:
        Exception: Of several kinds, where the file is broken.
    """
    file.seek(0)
    head = file.read(16)
    if head[:4] not in _MAGIC:
        return None
    order, width = _MAGIC[head[:4]]
    is_big = width == "Q"
    head = head if is_big else head[:8]
    (start,) = struct.unpack(order + width, head[8:] if is_big else head[4:])
    file.seek(start)
    (num_tags,) = struct.unpack(order + ("Q" if is_big else "H"), file.read(8 if is_big else 2))
    if num_tags > _MAX_TAGS:
        raise RefusedError(f"has {num_tags} tags, allowed are {_MAX_TAGS}")
    entries = file.read((20 if is_big else 12) * num_tags)
    for _, kind, count in struct.iter_unpack(f"{order}HH{width}{struct.calcsize(width)}x", entries):
        if count * (8 if kind in (5, 10, 12) else 4) > _MAX_VALUES:  # a few kinds are as wide
            raise RefusedError(f"has a tag of {count} values")
    file.seek(start)
    tags = ImageFileDirectory_v2(head)
    tags.load(file)
    bits, numbers = tags.get(_BITS, (1,)), tags.get(_NUMBERS, (_WHOLE,))
    code = _TYPES.get((numbers[0], bits[0]))
    if code is None or len({*bits}) > 1 or len({*numbers}) > 1 or tags.get(_COLOURS) not in (0, 1, 2):
        return None
    return Tiff((tags[_WIDTH], tags[_HEIGHT]), tags.get(_SAMPLES, 1), np.dtype(order + code), tags)


def read(file: BinaryIO, head: Tiff) -> np.ndarray:
    """Read the pixels of a file: [H, W, C], as they are stored, in the machine's order of bytes.

    Black is 0 also where the file says that white is, as far as it is of whole numbers.

    Args:
        file: At any place.
        head: Its directory, of a size that is allowed.

    Raises:
        RefusedError: Truncated, of several pages, or packed in a way that is not known.
    """
    tags, channels = head.tags, head.channels
    if tags.next:
        raise RefusedError("has several pages; save the one to edit as its own file")
    if min(head.size) < 1 or not 1 <= channels <= 4 or (channels > 2) != (tags[_COLOURS] == 2):
        raise RefusedError(f"has {channels} channels; save it in grey or RGB, with or without opacity")
    if channels in (2, 4) and head.dtype.kind == "f":
        raise RefusedError("has opacity beside floating-point numbers; save it without")
    pixels = np.empty((head.size[1], head.size[0], channels), head.dtype.newbyteorder("="))
    for place, part in _segments(file, head):
        pixels[place] = part
    if tags[_COLOURS] == 0 and head.dtype.kind == "u":
        pixels[..., :1] = 65535 - pixels[..., :1]
    if tags.get(_EXTRA) == (1,):  # colours are weighed by their opacity
        opacity = pixels[..., -1:].astype(np.float32)
        colours = pixels[..., :-1] * (65535 / np.maximum(opacity, 1))
        pixels[..., :-1] = np.rint(colours.clip(0, 65535))
    return pixels


def _segments(file: BinaryIO, head: Tiff) -> Iterator[tuple[tuple[slice, ...], np.ndarray]]:
    """Yield the parts in which pixels lie in a file, strips or tiles, each with its place."""
    tags, (width, height) = head.tags, head.size
    tiled = _TILE_OFFSETS in tags
    wide = tags[_TILE_WIDTH] if tiled else width
    high = tags[_TILE_HEIGHT] if tiled else min(tags.get(_ROWS, height), height)
    offsets, counts = (tags[_TILE_OFFSETS], tags[_TILE_COUNTS]) if tiled else (tags[_OFFSETS], tags[_COUNTS])
    if not 0 < wide <= width + 2**12 or not 0 < high <= height + 2**12:
        raise RefusedError(f"has tiles of {wide}x{high} pixels")
    apart = tags.get(_PLANES, 1) == 2
    planes = [slice(i, i + 1) for i in range(head.channels)] if apart else [slice(None)]
    places = (
        [
            (slice(top, min(top + high, height)), slice(left, min(left + wide, width)), plane)
            for plane in planes
            for top in range(0, height, high)
            for left in range(0, width, wide)
        ]
        if len(planes) * math.ceil(height / high) * math.ceil(width / wide) <= MAX_TILES
        else []
    )
    if not places:
        raise RefusedError(f"has more than {MAX_TILES} tiles or strips; save it as PNG")
    if len(offsets) < len(places) or len(counts) < len(places):
        raise RefusedError(f"truncated: has {len(offsets)} of {len(places)} tiles or strips")
    for place, offset, count in zip(places, offsets, counts, strict=False):
        rows = high if tiled else place[0].stop - place[0].start
        shape = rows, wide, 1 if apart else head.channels
        file.seek(offset)
        part = _unpack(file.read(min(count, 2 * math.prod(shape) * 8 + 2**16)), head, shape)
        yield place, part[: place[0].stop - place[0].start, : place[1].stop - place[1].start]


def _unpack(data: bytes, head: Tiff, shape: tuple[int, int, int]) -> np.ndarray:
    """Return the numbers of a part of a file, [h, w, C]."""
    size, how = math.prod(shape) * head.dtype.itemsize, head.tags.get(_PACKING, _NONE)
    if how in (_DEFLATE, _OLD_DEFLATE):
        data = zlib.decompressobj().decompress(data, size)
    elif how in _BY_PILLOW:
        data = _unpack_by_pillow(data, how, shape[0], size, head.tags.get(_ORDER, 1))
    elif how != _NONE:
        known = ", ".join(["nothing", "deflate", *_BY_PILLOW.values()])
        raise RefusedError(
            f"is packed by method {how}, which is not read with so many bits; read are {known}"
        )
    if len(data) < size:
        raise RefusedError("truncated: some of its pixels are missing")
    return _undo(np.frombuffer(data[:size], np.uint8), head, shape)


def _unpack_by_pillow(data: bytes, how: int, num_rows: int, size: int, order: int) -> bytes:
    """Unpack bytes as the pixels of a grey picture of 8 bits, of which libtiff makes nothing else."""
    buffer = io.BytesIO()
    tags = {_WIDTH: size // num_rows, _HEIGHT: num_rows, _BITS: 8, _PACKING: how, _COLOURS: 1, _SAMPLES: 1}
    tags |= {_ORDER: order, _ROWS: num_rows, _OFFSETS: 8, _COUNTS: len(data)}
    buffer.write(b"II*\0" + struct.pack("<I", 8 + len(data) + len(data) % 2) + data + bytes(len(data) % 2))
    buffer.write(_directory({tag: (_LONG, [value]) for tag, value in tags.items()}, buffer.tell()))
    buffer.seek(0)
    with Image.open(buffer, formats=("TIFF",)) as image:
        return image.tobytes()


def _undo(data: np.ndarray, head: Tiff, shape: tuple[int, int, int]) -> np.ndarray:
    """Undo a predictor (TIFF 6.0, section 14; Adobe's TIFF technical note 3)."""
    predictor, native = head.tags.get(_PREDICTOR, 1), head.dtype.newbyteorder("=")
    if predictor == 1:
        return data.view(head.dtype).reshape(shape)
    if predictor == 2 and head.dtype.kind == "u":
        return np.cumsum(data.view(head.dtype).reshape(shape), axis=1, dtype=native)
    if predictor == 3 and head.dtype.kind == "f":
        bytes_ = data.reshape(shape[0], -1, shape[2])  # differences over all bytes of a row
        bytes_ = np.cumsum(bytes_, axis=1, dtype=np.uint8).reshape(shape[0], head.dtype.itemsize, -1)
        return np.ascontiguousarray(bytes_.transpose(0, 2, 1)).view(native.newbyteorder(">")).reshape(shape)
    raise RefusedError(f"has predictor {predictor}, which is not read; save it without one")


def encode(pixels: np.ndarray, profile: bytes | None, description: str, mark: bytes, program: str) -> bytes:
    """Write a TIFF file, packed by deflate, whole numbers as differences.

    Args:
        pixels: [H, W, C], of whole numbers or floating point, C from 1 to 4.
        profile: ICC profile, None for sRGB.
        description: ImageDescription; '' for none.
        mark: XMP, empty for none.
        program: Software; '' for none.
    """
    height, width, channels = pixels.shape
    whole, num_bits = pixels.dtype.kind == "u", 8 * pixels.dtype.itemsize
    rows = max(1, _STRIP // (width * channels * pixels.dtype.itemsize))
    strips = [_pack(pixels[top : top + rows], whole) for top in range(0, height, rows)]
    counts = [len(strip) for strip in strips]
    *offsets, end = itertools.accumulate(counts, initial=8)
    strips.append(bytes(end % 2))
    end += end % 2
    tags = {
        _WIDTH: (_LONG, [width]),
        _HEIGHT: (_LONG, [height]),
        _BITS: (_SHORT, [num_bits] * channels),
        _PACKING: (_SHORT, [_DEFLATE]),
        _COLOURS: (_SHORT, [2 if channels > 2 else 1]),
        _OFFSETS: (_LONG, offsets),
        _SAMPLES: (_SHORT, [channels]),
        _ROWS: (_LONG, [rows]),
        _COUNTS: (_LONG, counts),
        _PLANES: (_SHORT, [1]),
        _PREDICTOR: (_SHORT, [2 if whole else 1]),
        _NUMBERS: (_SHORT, [_WHOLE if whole else _FLOAT] * channels),
    }
    tags |= {_EXTRA: (_SHORT, [2])} if channels in (2, 4) else {}
    texts = {_TEXT: description, _MADE_BY: program}
    tags |= {tag: ((2, "B"), text.encode() + b"\0") for tag, text in texts.items() if text}
    tags |= {_XMP: ((1, "B"), mark)} if mark else {}
    tags |= {_PROFILE: ((7, "B"), profile)} if profile else {}
    return b"".join([b"II*\0", struct.pack("<I", end), *strips, _directory(tags, end)])


def _pack(pixels: np.ndarray, whole: bool) -> bytes:
    if whole:
        pixels = np.diff(pixels, axis=1, prepend=pixels.dtype.type(0))
    return zlib.compress(np.ascontiguousarray(pixels, pixels.dtype.newbyteorder("<")), _LEVEL)


def _directory(tags: dict[int, tuple[tuple[int, str], list[int] | bytes]], start: int) -> bytes:
    """Write a directory that begins at a place of its file, with what does not fit into it behind."""
    entries, behind = [], b""
    at = start + 2 + 12 * len(tags) + 4
    for tag, ((kind, code), values) in sorted(tags.items()):
        data = struct.pack(f"<{len(values)}{code}", *values)
        entry = struct.pack("<HHI", tag, kind, len(values))
        if len(data) > 4:
            entry += struct.pack("<I", at + len(behind))
            behind += data + bytes(len(data) % 2)
        else:
            entry += data.ljust(4, b"\0")
        entries.append(entry)
    return b"".join([struct.pack("<H", len(entries)), *entries, bytes(4), behind])
