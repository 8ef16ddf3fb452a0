"""Pictures of more than 8 bits: read as they are stored, shown to a network in float32, made of results."""

import contextlib
import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from utils.arrays import fits, npy, png16, tiff
from utils.codecs import effort, icc, icc_tables, png_chunks
from utils.codecs.decoder import (
    IN_FLIGHT,
    MAX_PIXELS,
    ORIENTATION,
    UPRIGHT,
    Convert,
    allocate_in_large_blocks,
    decode_bytes,
    deep_head,
    explained,
    open_file,
    read_exif,
    reading,
    silence_pillow,
    to_rgb,
)
from utils.codecs.formats import FORMATS, RefusedError
from utils.codecs.original import LUMA, Box, Original, as_stored, cut
from utils.codecs.pictures import fit
from utils.log import warn_once
from utils.quote import plain

Ends = tuple[float, float]
"""Values of black and white."""
WORD = np.dtype(np.uint16)


class Stored(NamedTuple):
    """What the head of a file says of a picture of more than 8 bits."""

    dtype: np.dtype
    """Of its numbers."""
    kind: str
    """PNG, TIFF, NPY or FITS."""
    channels: int
    cards: bytes = b""
    """Of a FITS header, what comes back with the result."""


_GREY = ("1", "L", "LA")
_MODES = ("", "L", "LA", "RGB", "RGBA")
_BAND = 2**18
"""Pixels whose colours are converted at once."""


@contextlib.contextmanager
def reading_stored(
    path: Path, root: Path | None = None, convert: Convert = to_rgb, ends: Ends | None = None
) -> Iterator[Image.Image | Original]:
    """Read a picture as `reading` does or, where it has more than 8 bits or is of numbers, as it is stored.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
        convert: What is wanted of the pixels of a picture of 8 bits.
        ends: Of numbers that do not say themselves what is black and white.

    Raises:
        ValueError: As for `decode`, or such numbers without ends.
    """
    with contextlib.ExitStack() as held:
        with open_file(path, root) as file:
            found = _read(file, ends, held, plain(path))
        if found is None:
            found = held.enter_context(reading(path, root, convert))
        yield found


def read_stored(path: Path, root: Path | None = None, ends: Ends | None = None) -> Original:
    """Read a photo as it is stored; what PNG has no place for (CMYK, palettes, ...) becomes RGB in sRGB.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
        ends: As for `reading_stored`.

    Raises:
        ValueError: As for `reading_stored`.
    """
    with reading_stored(path, root, as_stored, ends) as found:
        return found if isinstance(found, Original) else Original.of(found)


def decode_stored(
    content: bytes, max_pixels: int = MAX_PIXELS, convert: Convert = to_rgb
) -> Image.Image | Original:
    """Read a picture from memory as `decode_bytes` does or, a PNG of 16 bits, as it is stored.

    Args:
        content: Of an image file.
        max_pixels: A limit below MAX_PIXELS.
        convert: What is wanted of the pixels of a picture of 8 bits.

    Raises:
        ValueError: As for `decode_bytes`.
    """
    if not (kind := png16.kind(content[:32])):
        return decode_bytes(content, max_pixels, convert)
    silence_pillow()
    allocate_in_large_blocks()
    file, notes = io.BytesIO(content), list[str]()
    with contextlib.ExitStack() as held, explained(file):
        photo, orientation = _read_png(file, kind, held, notes, max_pixels)
        return _with_profile(photo, notes).upright(UPRIGHT.get(orientation))


def look_deep(path: Path, root: Path | None = None) -> Stored | None:
    """Return what the head of a file says of a picture of more than 8 bits.

    None for other pictures, and for a file that is broken: reading it says why.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
    """
    silence_pillow()
    try:
        with open_file(path, root) as file:
            if kind := png16.kind(file.read(32)):
                return Stored(np.dtype(np.uint16), "PNG", len(kind))
            found = deep_head(file)
            cards = getattr(found, "cards", b"")
            return found and Stored(found.dtype.newbyteorder("="), _name(found), found.channels, cards)
    except Exception:  # what is broken is reported in a dozen kinds
        return None


def is_grey(path: Path, root: Path | None = None) -> bool:
    """Tell whether a picture is stored in grey; not so for one in colours that are all greys.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.
    """
    if found := look_deep(path, root):
        return found.channels <= 2
    try:
        with open_file(path, root) as file, Image.open(file, formats=FORMATS) as image:
            return image.mode in _GREY
    except Exception:  # as above
        return False


def _name(head: tiff.Tiff | npy.Npy | fits.Fits) -> str:
    return type(head).__name__.upper()


def _read(file: BinaryIO, ends: Ends | None, held: contextlib.ExitStack, name: str) -> Original | None:
    """Read a picture of more than 8 bits; None where it is another."""
    silence_pillow()
    allocate_in_large_blocks()
    notes: list[str] = []
    with explained(file):
        head = file.read(32)
        if kind := png16.kind(head):
            photo, orientation = _read_png(file, kind, held, notes)
        elif (found := _deep_head(file)) is None:
            return None
        else:
            effort.check_size(_name(found), found.size)
            _check_bytes(found)
            held.enter_context(IN_FLIGHT.hold(_cost(found.size, found.channels, found.dtype)))
            photo, orientation = _read_numbers(file, found), getattr(found, "orientation", 1)
            photo = _with_ends(photo, None if isinstance(found, tiff.Tiff) and found.is_whole else ends, name)
        photo = _with_profile(photo, notes)
    for note in notes:
        warn_once(f"{name}: {note}; it is read as sRGB")
    return photo.upright(UPRIGHT.get(orientation))


def _deep_head(file: BinaryIO) -> tiff.Tiff | npy.Npy | fits.Fits | None:
    """Return the head of a file; None also where it is a broken one that Pillow may know more of."""
    try:
        return deep_head(file)
    except RefusedError:
        raise
    except ValueError as error:
        raise RefusedError(str(error)) from None
    except Exception:  # a directory of TIFF is read in many ways
        return None


def _check_bytes(head: tiff.Tiff | npy.Npy | fits.Fits) -> None:
    (width, height), each = head.size, head.channels * head.dtype.itemsize
    if width * height * each > effort.MAX_BYTES:
        most = effort.MAX_BYTES // each
        raise RefusedError(f"{width}x{height} pixels of {each} bytes, allowed are {most} of these")


def _cost(size: tuple[int, int], channels: int, dtype: np.dtype) -> int:
    """Return what a picture takes of the pixels in flight, of which one has four bytes."""
    return max(1, size[0] * size[1] * channels * dtype.itemsize // 4)


def _read_png(
    file: BinaryIO, kind: str, held: contextlib.ExitStack, notes: list[str], max_pixels: int = MAX_PIXELS
) -> tuple[Original, int | None]:
    kept = png_chunks.keep_pixels(file)

    def reopen() -> Image.Image:
        kept.file.seek(0)
        return Image.open(kept.file, formats=("PNG",))

    with reopen() as image:
        effort.check_opened(image, file, max_pixels)
        effort.check_single(image)
        held.enter_context(IN_FLIGHT.hold(_cost(image.size, len(kind), np.dtype(np.uint16))))
    pixels, image = png16.read(reopen, kind)
    notes += kept.problems
    return Original(pixels, kept.profile), read_exif(image).get(ORIENTATION)


def _read_numbers(file: BinaryIO, head: tiff.Tiff | npy.Npy | fits.Fits) -> Original:
    if isinstance(head, tiff.Tiff):
        return Original(tiff.read(file, head), head.profile)
    if isinstance(head, npy.Npy):
        return Original(npy.read(file, head))
    return Original(fits.read(file, head), cards=head.cards)


def _with_ends(photo: Original, ends: Ends | None, name: str) -> Original:
    """Say what is black and white in a picture of numbers.

    Raises:
        RefusedError: That is not known, or some are no numbers.
    """
    pixels = photo.pixels
    if ends is None and pixels.dtype in (np.uint8, np.uint16):
        return photo
    low, high = float(pixels.min()), float(pixels.max())
    if not np.isfinite(low + high):
        raise RefusedError("holds NaN or infinity; replace them by numbers")
    if ends is None:
        raise RefusedError(
            f"its values go from {low:g} to {high:g}, and nothing says which are black and white; "
            "give --range LOW HIGH"
        )
    if low < ends[0] or high > ends[1]:
        warn_once(
            f"{name}: its values go from {low:g} to {high:g}; the network sees them cut off at {ends[0]:g} "
            f"and {ends[1]:g}"
        )
    return replace(photo, ends=ends)


def _with_profile(photo: Original, notes: list[str]) -> Original:
    """Leave out a profile that cannot be used both ways; grey with one of colours becomes colours."""
    profile, channels = photo.profile, photo.pixels.shape[2]
    if profile is None or icc.can_return(profile, _MODES[channels]):
        return photo
    if channels <= 2 and icc.can_return(profile, "RGB"):
        if icc.is_srgb(profile):
            return replace(photo, profile=None)
        return replace(photo, pixels=photo.pixels[..., [0, 0, 0, *range(1, channels)]])
    notes.append("its colour profile is broken, or cannot be used with more than 8 bits")
    return replace(photo, profile=None)


def to_unit(photo: Original, size: int | tuple[int, int] | None, how: str) -> np.ndarray:
    """Bring a picture to a size as `fit` does, on white and in sRGB: float32 in [0, 1], [H, W, 1 or 3].

    No number is rounded on the way. Colours of a profile are converted when they have the new size.
    """
    has_opacity, shown = photo.has_opacity, []
    opacity = photo.unit(photo.pixels[..., -1]) if has_opacity else None
    for i in range(photo.pixels.shape[2] - has_opacity):
        channel = photo.unit(photo.pixels[..., i]).astype(np.float32, copy=False)
        if opacity is not None:
            channel = channel * opacity + (1 - opacity)
        shown.append(np.array(fit(Image.fromarray(channel), size, how)))
    found = np.stack(shown, axis=2).clip(0, 1)
    if photo.profile:
        rows = max(1, _BAND // found.shape[1])
        for top in range(0, len(found), rows):
            band = slice(top, top + rows)
            found[band] = icc_tables.to_srgb(found[band], photo.profile).clip(0, 1)
    return found


def to_float(photo: Original, size: int | tuple[int, int] | None, how: str, channels: int) -> Tensor:
    """Bring a picture to what a network takes: float32 [C, H, W] in [-1, 1]; one channel is the luma."""
    found = to_unit(photo, size, how)
    if channels == 1 and found.shape[2] == 3:
        found = (found @ LUMA)[..., None]
    shown = torch.from_numpy(np.ascontiguousarray(found)).permute(2, 0, 1)
    return shown.expand(channels, -1, -1).contiguous() * 2 - 1


def show(photo: Original, box: Box, size: int, channels: int) -> Tensor:
    """Bring a square to what a network takes, as `Original.show` does with a picture of 8 bits."""
    return to_float(replace(photo, pixels=cut(photo.pixels, box)), size, "stretch", channels)


def luma(x: Tensor) -> Tensor:
    """Return the grey of colours: [3, H, W] in [-1, 1] -> [1, H, W]."""
    return torch.tensordot(torch.from_numpy(LUMA).to(x), x, dims=1)[None]


def of_tensor(x: Tensor, dtype: np.dtype, ends: Ends | None = None, cards: bytes = b"") -> Original:
    """Make a picture of a result, [C, H, W] in [-1, 1]; what lies outside is cut off.

    Args:
        x: The result.
        dtype: Of its numbers.
        ends: Of them.
        cards: Of a FITS header.
    """
    unit = ((x.float().clamp(-1, 1) + 1) / 2).permute(1, 2, 0).cpu().numpy()
    empty = Original(np.empty((0, 0, unit.shape[2]), dtype), None, ends, cards)
    return replace(empty, pixels=empty.from_unit(unit))


def convert(photo: Original, dtype: np.dtype, ends: Ends | None = None) -> Original:
    """Bring a picture to other numbers: each value to the nearest that there is.

    Args:
        photo: As it is stored.
        dtype: Of the numbers that are wanted.
        ends: Of them.
    """
    if (photo.pixels.dtype, photo.ends) == (dtype, ends):
        return photo
    empty = Original(photo.pixels[:0].astype(dtype), photo.profile, ends, photo.cards)
    pixels = np.empty(photo.pixels.shape, dtype)
    rows = max(1, _BAND // photo.pixels.shape[1])
    for top in range(0, len(pixels), rows):
        band = slice(top, top + rows)
        unit = photo.unit(photo.pixels[band])
        pixels[band] = empty.from_unit(unit if dtype.kind == "f" and ends else unit.clip(0, 1))
    return replace(empty, pixels=pixels)
