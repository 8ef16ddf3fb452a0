"""The limits of a picture, checked before its pixels are decoded: what a small file may make us do."""

import os
from typing import BinaryIO

from PIL import Image

from utils.arrays import tiff
from utils.codecs import jpeg2000
from utils.codecs.formats import AnimatedError, RefusedError
from utils.codecs.jpeg_markers import count_scans

MAX_PIXELS = 128 * 1024 * 1024
MAX_SIDE = 2**16
"""Of an image, in pixels: to shrink one of 37x3,000,000 takes longer than all else."""
MAX_BYTES = 9 * MAX_PIXELS
"""Of a file: four channels of 16 bits without compression, and what else a file holds."""
MAX_SCANNED = 16 * MAX_PIXELS
"""Pixels times scans of a JPEG: each scan of a progressive one goes over all pixels again."""
MAX_RLE_PIXELS = MAX_PIXELS // 32
"""Of a run-length encoded BMP, which Pillow decodes in Python, byte by byte."""
MAX_TILES = tiff.MAX_TILES
_COSTLY = {"WEBP": 4 / 3, "AVIF": 2, "JPEG2000": 4}
"""Formats whose decoders take that many times the memory, or the time, of the others for a pixel."""


def cost(kind: str | None, size: tuple[int, int]) -> int:
    """Return what a picture takes of the pixels in flight."""
    return int(_COSTLY.get(kind or "", 1) * size[0] * size[1])


def check_size(kind: str | None, size: tuple[int, int], max_pixels: int = MAX_PIXELS) -> None:
    """Refuse too many pixels.

    Raises:
        RefusedError: As it says.
    """
    most = int(MAX_PIXELS / _COSTLY.get(kind or "", 1))
    if size[0] * size[1] > min(most, max_pixels):
        which = f" in {kind}" if kind in _COSTLY and most <= max_pixels else ""
        raise RefusedError(f"{size[0]}x{size[1]} pixels, allowed are {min(most, max_pixels)}{which}")
    if max(size) > MAX_SIDE:
        raise RefusedError(f"{size[0]}x{size[1]} pixels, allowed are {MAX_SIDE} a side")


def webp_size(head: bytes) -> tuple[int, int] | None:
    """Return the size of a WEBP picture, whose decoder takes its memory as soon as it is opened."""
    kind = head[12:16]
    if head[:4] != b"RIFF" or head[8:12] != b"WEBP" or len(head) < 30:
        return None
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    return int.from_bytes(head[26:28], "little") & 0x3FFF, int.from_bytes(head[28:30], "little") & 0x3FFF


def check_opened(image: Image.Image, file: BinaryIO, max_pixels: int) -> None:
    """Refuse an opened image whose pixels would take very much memory or time.

    Raises:
        RefusedError: As it says.
    """
    check_size(image.format, image.size, max_pixels)
    num_pixels = image.width * image.height
    if image.format == "BMP" and image.info.get("compression") in (1, 2) and num_pixels > MAX_RLE_PIXELS:
        raise RefusedError(f"{num_pixels} run-length encoded pixels, allowed are {MAX_RLE_PIXELS}")
    if image.format == "TIFF":
        _check_tiff(image)
    if image.format in ("JPEG", "MPO"):
        num_scans = count_scans(file, MAX_SCANNED // num_pixels)
        if num_scans * num_pixels > MAX_SCANNED:
            raise RefusedError(f"{num_scans} scans of {num_pixels} pixels; save it as PNG")
    if image.format == "JPEG2000":
        jpeg2000.check(file, image.size)


def check_single(image: Image.Image) -> None:
    """Refuse an opened image that is several: of a phone's (MPO) the first counts.

    Raises:
        AnimatedError: As it says.
    """
    if image.format == "GIF" and image.is_animated:  # to count the frames would be to read them all
        raise AnimatedError("has several frames; save the one to edit as its own file")
    if image.format not in ("MPO", "GIF", "TIFF") and getattr(image, "n_frames", 1) > 1:
        raise AnimatedError(f"has {image.n_frames} frames; save the one to edit as its own file")


def check_bytes(file: BinaryIO, head: bytes) -> None:
    """Refuse a large file of a format that is read into memory whole.

    Raises:
        RefusedError: As it says.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if (head[8:12] == b"WEBP" or head[4:8] == b"ftyp") and size > 2 * MAX_PIXELS:
        raise RefusedError(f"has {size} bytes, allowed are {2 * MAX_PIXELS} in WEBP and AVIF")


def _check_tiff(image: Image.Image) -> None:
    if image.is_animated:  # to count the pages would be to read them all
        raise RefusedError("has several pages; save the one to edit as its own file")
    if len(image.tile) > MAX_TILES:
        raise RefusedError(f"has {len(image.tile)} tiles or strips, allowed are {MAX_TILES}; save it as PNG")
    covered = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in image.tile)
    if covered < image.width * image.height:  # Pillow would leave the rest black
        raise RefusedError(f"truncated: has {covered} of {image.width}x{image.height} pixels")
