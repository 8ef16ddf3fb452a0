"""Picture files to pictures: opened with care, decoded under limits, upright, in sRGB, on white."""

import contextlib
import ctypes
import functools
import io
import logging
import os
import stat
import struct
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from PIL import Image, ImageSequence

from utils.arrays import fits, npy, tiff
from utils.codecs import effort, icc, png_chunks, unread
from utils.codecs.budget import Budget
from utils.codecs.depth import is_deep, to_8_bits
from utils.codecs.formats import FORMATS, RefusedError
from utils.log import warn_once
from utils.quote import plain

MAX_PIXELS = effort.MAX_PIXELS
WHITE = (255, 255, 255)
_TOLD_BY_HEAD = ("JPEG", "BMP", "TIFF", "GIF", "JPEG2000")
"""Formats that Pillow opens without their pixels; PNG and WEBP have their size at a fixed place."""
_BAND = 2**22
"""Pixels that are laid on white at once: copies of a whole picture may not fit into memory."""
_BLOCK = 2**27
"""Bytes, above what an arena of glibc holds."""
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns an image upright, by the orientation in its EXIF data."""
ORIENTATION, _INTEROPERABILITY = 0x0112, 0xA005
"""Tags of EXIF."""
_HEAD = 2**16
"""Bytes of an AVIF picture in which its colours are told."""
IN_FLIGHT = Budget(MAX_PIXELS)
"""Pixels of all threads: large pictures wait for one another."""
_MOST_FRAMES = 1000
_USUAL_MS = 100
"""Of a frame that does not say how long it is shown, as browsers have it."""
Convert = Callable[[Image.Image, list[str]], Image.Image]
"""(decoded, notes to add to) -> what is wanted of it."""


class Timing(NamedTuple):
    """How the frames of an animation follow one another."""

    durations_ms: list[int]
    """How long each is shown."""
    loop: int
    """How often it is shown, 0 for without end."""


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
        if status.st_size > effort.MAX_BYTES:
            raise ValueError(f"has {status.st_size} bytes, allowed are {effort.MAX_BYTES}")
    except BaseException:
        file.close()
        raise
    return file


def _check_kind(mode: int) -> None:
    if not stat.S_ISREG(mode):
        kind = "folder" if stat.S_ISDIR(mode) else "pipe, socket or device"
        raise ValueError(f"is not a file but a {kind}")


def to_rgb(image: Image.Image, notes: list[str]) -> Image.Image:
    """Bring a decoded picture to RGB: colours of its profile to sRGB, transparency onto white."""
    if is_deep(image):  # convert("RGB") would clip instead of scale
        profile = image.info.get("icc_profile")
        image = to_8_bits(image)
        image.info["icc_profile"] = profile
    has_alpha = image.has_transparency_data
    profile = image.info.get("icc_profile")
    if (profile and image.mode in ("P", "PA", "YCbCr")) or (has_alpha and image.mode not in ("LA", "RGBA")):
        image = image.convert("RGBA" if has_alpha else "RGB")
    if profile and image.mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        try:
            image = icc.to_srgb(image, profile)
        except ValueError as error:
            notes.append(str(error))
    if has_alpha:
        return _lay_on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _lay_on_white(image: Image.Image) -> Image.Image:
    """Band by band, so that a huge picture is not copied thrice."""
    result = Image.new("RGB", image.size)
    height = max(1, _BAND // image.width)
    for top in range(0, image.height, height):
        band = image.crop((0, top, image.width, min(top + height, image.height)))
        band = band if band.mode == "RGBA" else band.convert("RGBA")
        white = Image.new("RGBA", band.size, (*WHITE, 255))
        result.paste(Image.alpha_composite(white, band).convert("RGB"), (0, top))
    return result


@contextlib.contextmanager
def reading(path: Path, root: Path | None = None, convert: Convert = to_rgb) -> Iterator[Image.Image]:
    """Read a picture and hold its part of the memory for pictures until it has been shrunk.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
        convert: What is wanted of the decoded pixels.

    Raises:
        ValueError: As for `decode`.
    """
    with contextlib.ExitStack() as held:
        with open_file(path, root) as file:
            picture, notes = _decode(file, MAX_PIXELS, convert, held)
        for note in notes:
            warn_once(f"{plain(path)}: {note}; it is read as sRGB")
        yield picture


def look(path: Path, root: Path | None = None) -> tuple[int, int] | None:
    """Return width and height of a picture as it is stored, by the head of its file.

    None where only a decoder can tell (AVIF), or the file is broken: reading it says why.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
    """
    silence_pillow()
    try:
        with open_file(path, root) as file:
            head = file.read(32)
            if size := effort.webp_size(head) or png_chunks.size(head):
                return size
            if found := deep_head(file):
                return found.size
            file.seek(0)
            with Image.open(file, formats=_TOLD_BY_HEAD) as image:
                return image.size
    except Exception:  # Pillow reports what is broken in a dozen kinds
        return None


def deep_head(file: BinaryIO) -> tiff.Tiff | npy.Npy | fits.Fits | None:
    """Return the head of a file whose numbers Pillow does not read, or only to 8 bits; None for another.

    Raises:
        Exception: Of several kinds, where the file is broken.
    """
    return npy.read_head(file) or fits.read_head(file) or tiff.read_head(file)


def decode(path: Path, root: Path | None = None) -> Image.Image:
    """Read an image as the viewer shows it: RGB, upright, in sRGB, on white where it is transparent.

    Of a file of a phone with several pictures (MPO) it is the first, which is the photograph.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.

    Raises:
        ValueError: The file is no image of a known format, is broken, is animated or is too large, is not
            a regular file or cannot be opened.
    """
    with reading(path, root) as picture:
        return picture


def decode_bytes(content: bytes, max_pixels: int = MAX_PIXELS, convert: Convert = to_rgb) -> Image.Image:
    """Read an image from memory, as `decode` does from a file.

    Args:
        content: Of an image file.
        max_pixels: A limit below MAX_PIXELS.
        convert: What is wanted of the decoded pixels.

    Raises:
        ValueError: As for `decode`.
    """
    with contextlib.ExitStack() as held:
        return _decode(io.BytesIO(content), max_pixels, convert, held)[0]


def _decode(
    file: BinaryIO, max_pixels: int, convert: Convert, held: contextlib.ExitStack
) -> tuple[Image.Image, list[str]]:
    """Return the picture, and what was not obeyed in it; its part of the budget is in `held`."""
    with explained(file):
        with _opened(file, max_pixels, held) as (image, notes):
            effort.check_single(image)
            image.load()
            method = UPRIGHT.get(read_exif(image).get(ORIENTATION))
            picture = convert(image, notes)
        del image  # with what its decoder holds
        return picture if method is None else picture.transpose(method), notes


def frames(path: Path, root: Path | None = None) -> Iterator[Image.Image]:
    """Read the frames of a GIF, PNG or WEBP that moves, each as `decode` reads a picture, one at a time.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.

    Raises:
        ValueError: As for `decode`, or its frames have more pixels together than a picture may have.
    """
    with contextlib.ExitStack() as held, open_file(path, root) as file, explained(file):
        with _opened(file, MAX_PIXELS, held) as (image, notes):
            profile = image.info.get("icc_profile")
            for frame in _each(image):
                frame.info["icc_profile"] = profile
                yield to_rgb(frame, notes)
        for note in notes:
            warn_once(f"{plain(path)}: {note}; it is read as sRGB")


def read_timing(path: Path, root: Path | None = None) -> Timing:
    """Return how the frames of such a file follow one another.

    Raises:
        ValueError: As for `frames`.
    """
    with contextlib.ExitStack() as held, open_file(path, root) as file, explained(file):
        image, _ = held.enter_context(_opened(file, MAX_PIXELS, held))
        durations = [round(frame.info.get("duration") or _USUAL_MS) for frame in _each(image)]
        return Timing(durations, image.info.get("loop", 1 if image.format == "GIF" else 0))


def _each(image: Image.Image) -> Iterator[Image.Image]:
    """Yield a copy of each frame of an animation."""
    most = min(_MOST_FRAMES, MAX_PIXELS // (image.width * image.height))
    for number, frame in enumerate(ImageSequence.Iterator(image)):
        if number >= most:
            raise RefusedError(
                f"has more than {most} frames, which is what is allowed of {image.width}x{image.height} "
                "pixels; part it"
            )
        yield frame.copy()


@contextlib.contextmanager
def _opened(
    file: BinaryIO, max_pixels: int, held: contextlib.ExitStack
) -> Iterator[tuple[Image.Image, list[str]]]:
    """Open a picture under its limits: yield it, not decoded, and what is not obeyed in it."""
    silence_pillow()
    allocate_in_large_blocks()
    head = file.read(32)
    effort.check_bytes(file, head)
    pixels = png_chunks.keep_pixels(file) if head.startswith(png_chunks.MAGIC) else None
    size = effort.webp_size(head)
    if size:
        effort.check_size("WEBP", size, max_pixels)
        held.enter_context(IN_FLIGHT.hold(effort.cost("WEBP", size)))
    with Image.open(pixels.file if pixels else file, formats=FORMATS) as image:
        effort.check_opened(image, file, max_pixels)
        if not size:
            held.enter_context(IN_FLIGHT.hold(effort.cost(image.format, image.size)))
        if pixels and pixels.profile:
            image.info["icc_profile"] = pixels.profile
        yield image, list(pixels.problems) if pixels else _note_colors(image, file)


@contextlib.contextmanager
def explained(file: BinaryIO) -> Iterator[None]:
    """Turn all that decoders raise into a ValueError that says what is wrong with a file."""
    try:
        yield
    except RefusedError:
        raise
    except Image.UnidentifiedImageError:
        raise ValueError(unread.describe(file)) from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels: {error}") from None
    except MemoryError:
        raise ValueError("not enough memory for it") from None
    except Exception as error:  # Pillow reports what is broken in a dozen kinds, SyntaxError among them
        telling = isinstance(error, OSError | SyntaxError | ValueError) and str(error)
        reason = plain(error if telling else repr(error))
        raise ValueError(f"cannot be read, broken or truncated: {reason}") from None


def silence_pillow() -> None:
    """Keep what Pillow says about broken files from the terminal: the reason of a failed item says enough.

    The filter stays, because `warnings.catch_warnings` would mix up those of threads that read at one time.
    """
    warnings.filterwarnings("ignore", module=r"PIL\.")
    logging.getLogger("PIL").setLevel(logging.CRITICAL)
    _silence_libtiff()


@functools.cache
def allocate_in_large_blocks() -> None:
    """Let glibc return or share the memory of a large picture.

    Blocks of Pillow's 16 MiB come from the arena of one thread, which keeps them from all others.
    """
    Image.core.set_block_size(_BLOCK)


@functools.cache
def _silence_libtiff() -> None:
    """Take from libtiff its error handler, which prints to stderr; Pillow raises the error as well."""
    # a Pillow that holds libtiff within itself, or has none, keeps its own
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(Image.core.__file__).TIFFSetErrorHandler(None)


def read_exif(image: Image.Image) -> Mapping[int, Any]:
    """Return the EXIF data of an image; none where they are broken, which no viewer minds."""
    # ImageOps.exif_transpose also writes the EXIF data anew, which fails for some that can be read
    try:
        return image.getexif()
    except Exception:  # Pillow reports what is broken in a dozen kinds
        return {}


def _note_colors(image: Image.Image, file: BinaryIO) -> list[str]:
    """Say which colours, told otherwise than by a profile, are not obeyed."""
    if image.info.get("icc_profile"):
        return []
    if image.format == "AVIF":
        file.seek(0)
        _, found, codes = file.read(_HEAD).partition(b"colrnclx")
        return icc.note_on_codes(*struct.unpack(">HH", codes[:4])) if found and len(codes) >= 4 else []
    if image.format in ("JPEG", "MPO"):
        with contextlib.suppress(Exception):  # as above
            if image.getexif().get_ifd(_INTEROPERABILITY).get(1, "").startswith("R03"):
                return ["its EXIF data say Adobe RGB, but it has no profile"]
    return []
