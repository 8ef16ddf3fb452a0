"""Image files to tensors and back: decode, fit, convert, encode."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import stat
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from utils.quote import plain

FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 128 * 1024 * 1024
MAX_SIDE = 2**16
"""Of an image, in pixels: to shrink one of 37x3,000,000 takes longer than all else."""
MAX_BYTES = 9 * MAX_PIXELS
"""Of a file: four channels of 16 bits without compression, and what else a file holds."""
MAX_SCANNED = 16 * MAX_PIXELS
"""Pixels times scans of a JPEG: each scan of a progressive one goes over all pixels again."""
MAX_RLE_PIXELS = MAX_PIXELS // 32
"""Of a run-length encoded BMP, which Pillow decodes in Python, byte by byte."""
MAX_TILES = 2**17
WHITE = (255, 255, 255)
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the orientation in its EXIF data."""


class _RefusedError(ValueError):
    """An image that we refuse ourselves: its reason is shown as it is."""


def open_file(path: Path, root: Path | None = None) -> BinaryIO:
    """Open a regular file to read: never a FIFO, which would wait for ever, nor what lies outside.

    Args:
        path: The file.
        root: Folder below which the file itself has to lie, whatever links lead to it; None for anywhere.

    Raises:
        ValueError: Missing, not allowed, not a regular file, outside of root or too large.
    """
    try:
        real = os.path.realpath(path, strict=True)
        if root is not None and not real.startswith(os.path.join(os.path.realpath(root), "")):
            raise ValueError(
                f"is a link that leads out of the input folder {plain(root)}; put a copy of the file there"
            )
        _check_kind(os.stat(real).st_mode)  # some devices do something when they are opened
        flags = ("O_NONBLOCK", "O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")  # each where the system has it
        handle = os.open(real, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in flags))
    except OSError as error:
        dangling = isinstance(error, FileNotFoundError) and os.path.islink(path)
        reason = "is a link that leads to nothing" if dangling else f"cannot be opened: {error.strerror}"
        raise ValueError(reason) from None
    file = os.fdopen(handle, "rb")
    try:
        status = os.fstat(handle)
        _check_kind(status.st_mode)  # another file may have come in its place
        if status.st_size > MAX_BYTES:
            raise ValueError(f"has {status.st_size} bytes, allowed are {MAX_BYTES}")
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise ValueError(f"is not a file but a {kind}")


def decode(path: Path, root: Path | None = None) -> Image.Image:
    """Read an image as the viewer shows it: RGB, upright, on white where it is transparent.

    Of a file of a phone with several pictures (MPO) it is the first, which is the photograph.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.

    Raises:
        ValueError: The file is no image of a known format, is broken, is animated or is too large, is not
            a regular file or cannot be opened.
    """
    with open_file(path, root) as file:
        return _decode(file, MAX_PIXELS)


def decode_bytes(content: bytes, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Read an image from memory, as `decode` does from a file.

    Args:
        content: Of an image file.
        max_pixels: A limit below MAX_PIXELS.

    Raises:
        ValueError: As for `decode`.
    """
    return _decode(io.BytesIO(content), max_pixels)


def _decode(file: BinaryIO, max_pixels: int) -> Image.Image:
    _silence_pillow()
    try:
        with Image.open(file, formats=FORMATS) as image:
            _check_effort(image, file, max_pixels)
            image.load()
            return _to_rgb(_turn_upright(image))
    except _RefusedError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels: {error}") from None
    except MemoryError:
        raise ValueError("not enough memory for it") from None
    except Exception as error:  # Pillow reports what is broken in a dozen kinds, SyntaxError among them
        telling = isinstance(error, OSError | SyntaxError | ValueError) and str(error)
        reason = plain(error if telling else repr(error))
        raise ValueError(f"cannot be read, broken or truncated: {reason}") from None


def _silence_pillow() -> None:
    """Keep what Pillow says about broken files from the terminal: the reason of a failed item says enough.

    The filter stays, because `warnings.catch_warnings` would mix up those of threads that read at one time.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    _silence_libtiff()


@functools.cache
def _silence_libtiff() -> None:
    """Take from libtiff its error handler, which prints to stderr; Pillow raises the error as well."""
    # a Pillow that holds libtiff within itself, or has none, keeps its own
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def _check_effort(image: Image.Image, file: BinaryIO, max_pixels: int) -> None:
    """Refuse an opened image that is several, or whose pixels would take very much memory or time."""
    num_pixels = image.width * image.height
    if num_pixels > max_pixels:
        raise _RefusedError(f"{image.width}x{image.height} pixels, allowed are {max_pixels}")
    if max(image.size) > MAX_SIDE:
        raise _RefusedError(f"{image.width}x{image.height} pixels, allowed are {MAX_SIDE} a side")
    if image.format == "BMP" and image.info.get("compression") in (1, 2) and num_pixels > MAX_RLE_PIXELS:
        raise _RefusedError(f"{num_pixels} run-length encoded pixels, allowed are {MAX_RLE_PIXELS}")
    if image.format == "TIFF":
        _check_tiff(image)
    elif image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _RefusedError(f"has {image.n_frames} frames; save the one to edit as its own file")
    if image.format in ("JPEG", "MPO"):
        num_scans = _count_scans(file)
        if num_scans * num_pixels > MAX_SCANNED:
            raise _RefusedError(f"{num_scans} scans of {num_pixels} pixels; save it as PNG")


def _check_tiff(image: Image.Image) -> None:
    if image.is_animated:  # to count the pages would be to read them all
        raise _RefusedError("has several pages; save the one to edit as its own file")
    if len(image.tile) > MAX_TILES:
        raise _RefusedError(f"has {len(image.tile)} tiles or strips, allowed are {MAX_TILES}; save it as PNG")
    covered = sum((right - left) * (lower - upper) for _, (left, upper, right, lower), *_ in image.tile)
    if covered < image.width * image.height:  # Pillow would leave the rest black
        raise _RefusedError(f"truncated: has {covered} of {image.width}x{image.height} pixels")


def _count_scans(file: BinaryIO) -> int:
    """Count the marks of a scan, which coded pixels cannot hold; a thumbnail adds one or two."""
    position = file.tell()
    file.seek(0)
    count = file.read().count(b"\xff\xda")
    file.seek(position)
    return count


def _turn_upright(image: Image.Image) -> Image.Image:
    # ImageOps.exif_transpose also writes the EXIF data anew, which fails for some that can be read
    method = _UPRIGHT.get(image.getexif().get(0x0112))
    return image if method is None else image.transpose(method)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise _RefusedError("holds floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # convert("RGB") would clip instead of scale
        image = _scale_16_bits(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image)
    return image.convert("RGB")


def _scale_16_bits(image: Image.Image) -> Image.Image:
    values = np.array(image)
    low, high = values.min(), values.max()
    if low < 0 or high > 65535:
        raise _RefusedError(
            f"holds pixels from {low} to {high}, whose range is unknown; save it with 8 or 16 bits"
        )
    if "transparency" in image.info:  # one grey value, as in 8 bits
        values[values == image.info["transparency"]] = 65535
    table = (np.arange(65536) + 128) // 257  # to the nearest of 256 levels
    return Image.fromarray(table.astype(np.uint8)[values])


def fit(image: Image.Image, size: int, how: str) -> Image.Image:
    """Bring an image to size x size pixels.

    Args:
        image: RGB image, or a map in shades of grey (mode L), of any size.
        size: Side of the model's images, in pixels.
        how: 'crop' (shorter side, centre), 'pad' (whole image; bars, white or for a map black) or 'stretch'.
    """
    if image.size == (size, size):
        return image
    is_map = image.mode == "L"
    method = Image.Resampling.BOX if is_map else Image.Resampling.LANCZOS  # no overshoot beside an edge
    if how == "crop":
        return ImageOps.fit(image, (size, size), method)
    if how == "pad":
        if 2 * size * min(image.size) <= max(image.size):  # too narrow: it would shrink to no pixel at all
            image = image.resize([size if side == max(image.size) else 1 for side in image.size], method)
        return ImageOps.pad(image, (size, size), method, color=0 if is_map else WHITE)
    assert how == "stretch", how
    return image.resize((size, size), method)


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """uint8 image -> float32 in [-1, 1], shape [C, H, W]; one channel is the luma."""
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def to_image(x: Tensor) -> Image.Image:
    """Tensor [C, H, W] in [-1, 1] -> uint8 image; rounds, clamps what lies outside."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.squeeze(2).cpu().numpy())


def strip(images: list[Image.Image], gap: int = 2) -> Image.Image:
    """Put images of one height side by side on white."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, images[0].height), WHITE)
    x = 0
    for image in images:
        canvas.paste(image, (x, 0))
        x += image.width + gap
    return canvas


def encode_png(image: Image.Image, parameters: dict[str, str]) -> bytes:
    """Encode as PNG with text entries; the same input gives the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=_entries(parameters))
    return buffer.getvalue()


def encode_apng(frames: list[Image.Image], durations_ms: list[int], parameters: dict[str, str]) -> bytes:
    """Encode frames of one size as a PNG that shows them in turn, for ever, with text entries.

    Frames that equal the one before are not stored: that one is shown as much longer.
    """
    buffer = io.BytesIO()
    options = {"append_images": frames[1:], "duration": durations_ms, "loop": 0}
    frames[0].save(buffer, "PNG", save_all=True, pnginfo=_entries(parameters), **options)
    return buffer.getvalue()


def _entries(parameters: dict[str, str]) -> PngInfo:
    info = PngInfo()
    for key, value in parameters.items():
        info.add_itxt(key, value)
    return info
