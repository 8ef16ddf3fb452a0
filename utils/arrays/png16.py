"""PNG files of 16 bits a channel: Pillow unpacks them, but keeps 8 bits of colours and writes grey alone."""

import io
import struct
import sys
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

MAGIC = b"\x89PNG\r\n\x1a\n"
_KINDS = {0: "L", 2: "RGB", 4: "LA", 6: "RGBA"}
"""Colour types of the header."""
_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""Likewise, by the number of channels."""
_HIGH, _LOW = (1, 0) if sys.byteorder == "little" else (0, 1)
_LEVEL = 3
"""How hard pixels are packed."""
_BAND = 2**20
"""Bytes that are filtered at once."""


def kind(head: bytes) -> str | None:
    """Return the channels of a PNG file of 16 bits, as Pillow calls them; None for another file.

    Args:
        head: Its first 32 bytes.
    """
    if not head.startswith(MAGIC) or len(head) < 26 or head[24] != 16:
        return None
    return _KINDS.get(head[25])


def read(reopen: Callable[[], Image.Image], kind: str) -> tuple[np.ndarray, Image.Image]:
    """Read the pixels of a PNG file of 16 bits.

    Pillow's decoder can be told to leave out one half of each number or the other, so colours are unpacked
    twice.

    Args:
        reopen: Opens the file from its start.
        kind: Of `kind`.

    Returns:
        uint16 [H, W, C], where one colour is transparent with opacity; and the image, as it was loaded last.
    """
    image = reopen()
    pixels = np.empty((image.height, image.width, len(kind)), np.uint16)
    halves = pixels.view(np.uint8).reshape(*pixels.shape, 2)
    if kind == "L":
        image.load()
        pixels[..., 0] = np.asarray(image)
    elif kind == "LA":  # two numbers of 16 bits are four of 8
        _load_as(image, "RGBA")
        halves[..., [_HIGH, _LOW]] = np.asarray(image).reshape(*pixels.shape, 2)
    else:
        _load_as(image, f"{kind};16B")
        _copy(image, halves[..., _HIGH])
        image = reopen()
        _load_as(image, f"{kind};16L")
        _copy(image, halves[..., _LOW])
    return _with_opacity(pixels, image.info.get("transparency")), image


def _load_as(image: Image.Image, raw: str) -> None:
    image.tile = [tile._replace(args=raw) for tile in image.tile]
    image.load()


def _copy(image: Image.Image, into: np.ndarray) -> None:
    """Band by band, as Pillow hands out its pixels as a copy."""
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        into[top : top + rows] = image.crop((0, top, image.width, min(top + rows, image.height)))


def _with_opacity(pixels: np.ndarray, transparent: object) -> np.ndarray:
    """Make the one colour transparent that is meant to be."""
    if transparent is None or pixels.shape[2] not in (1, 3):
        return pixels
    opacity = np.where((pixels == np.uint16(transparent)).all(axis=2, keepdims=True), 0, 65535)
    return np.concatenate([pixels, opacity.astype(np.uint16)], axis=2)


def encode(pixels: np.ndarray, profile: bytes | None, texts: dict[str, str]) -> bytes:
    """Write a PNG file of 16 bits.

    Args:
        pixels: uint16 [H, W, C], C from 1 to 4.
        profile: ICC profile, None for sRGB.
        texts: What its iTXt chunks hold, by their keywords.
    """
    height, width, channels = pixels.shape
    file, packing = io.BytesIO(MAGIC), zlib.compressobj(_LEVEL)
    file.seek(len(MAGIC))
    file.write(_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, _TYPES[channels], 0, 0, 0)))
    if profile:
        file.write(_chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(profile)))
    for key, text in texts.items():
        file.write(_chunk(b"iTXt", key.encode("latin-1") + b"\0\0\0\0\0" + text.encode()))
    for rows in _filtered(pixels):
        if packed := packing.compress(rows):
            file.write(_chunk(b"IDAT", packed))
    file.write(_chunk(b"IDAT", packing.flush()) + _chunk(b"IEND", b""))
    return file.getvalue()


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _filtered(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """Yield bands of rows, each by the filter Sub (1) or Up (2) behind whose number it stands.

    Of the two the one whose differences are smaller together, as the PNG specification advises (12.8).
    """
    height, step = pixels.shape[0], 2 * pixels.shape[2]
    length = step * pixels.shape[1]
    band, above = max(1, _BAND // length), np.zeros((1, length), np.uint8)
    for top in range(0, height, band):
        raw = pixels[top : top + band].astype(">u2").view(np.uint8).reshape(-1, length)
        up = raw - np.concatenate([above, raw[:-1]])
        sub = raw.copy()
        sub[:, step:] -= raw[:, :-step]
        sizes = [np.abs(rows.view(np.int8).astype(np.int16)).sum(axis=1) for rows in (sub, up)]
        is_up = (sizes[1] < sizes[0])[:, None]
        yield np.concatenate([1 + is_up.astype(np.uint8), np.where(is_up, up, sub)], axis=1)
        above = raw[-1:]
