"""A photo as it is stored: parts of it are shown to a network, and put back edited, all else untouched."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

import numpy as np
from PIL import Image
from torch import Tensor

from utils.codecs import icc, icc_tables
from utils.codecs.decoder import to_rgb

LUMA = np.float32([0.299, 0.587, 0.114])
"""Of red, green and blue in grey (ITU-R BT.601, as Pillow has it)."""
_BAND = 2**20
"""Pixels that are put back at once: copies of a whole photo may not fit into memory."""
_FINER = 4
"""How much finer than it is shown to a network a large square is kept until the last step."""
_STORED = ("L", "LA", "RGB", "RGBA")


class Box(NamedTuple):
    """A square of a photo, in its pixels; it may reach beyond the edges."""

    left: int
    top: int
    side: int

    @property
    def place(self) -> tuple[slice, slice]:
        """Its rows and columns."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)

    def inside(self, width: int, height: int) -> tuple[slice, slice]:
        """Return the rows and columns of a photo that lie in it."""
        rows = slice(max(0, self.top), min(height, self.top + self.side))
        return rows, slice(max(0, self.left), min(width, self.left + self.side))


@dataclass(frozen=True)
class Original:
    """Pixels as they are stored, upright."""

    pixels: np.ndarray
    """[H, W, C], whole numbers or floating point; C: 1 grey, 2 grey and opacity, 3 colours, 4 colours and
    opacity."""
    profile: bytes | None = None
    """Of its colours (ICC); None for sRGB."""
    ends: tuple[float, float] | None = None
    """Values of black and white; None for 0 and the largest whole number."""
    cards: bytes = b""
    """Of the header of a FITS file, what comes back with the result."""

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """Take an image of Pillow in mode L, LA, RGB or RGBA."""
        pixels = np.array(image).reshape(image.height, image.width, -1)
        return cls(pixels, image.info.get("icc_profile"))

    def image(self) -> Image.Image:
        """Return an image of Pillow, with its profile; what is deeper is rounded to 8 bits."""
        pixels = self._to_8_bits() if self.is_deep else self.pixels
        image = Image.fromarray(pixels.squeeze(2) if self._is_grey else pixels)
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    def _to_8_bits(self) -> np.ndarray:
        found, rows = np.empty(self.pixels.shape, np.uint8), max(1, _BAND // self.pixels.shape[1])
        for top in range(0, len(found), rows):
            band = slice(top, top + rows)
            found[band] = np.rint(255 * self.unit(self.pixels[band]).clip(0, 1))
        return found

    @property
    def is_deep(self) -> bool:
        """Whether 8 bits do not hold it."""
        return self.pixels.dtype != np.uint8 or self.ends is not None

    def unit(self, pixels: np.ndarray) -> np.ndarray:
        """Return values as they are stored on the scale of black, 0, to white, 1, in floating point."""
        low, span = self._scale
        values = pixels.astype(self._exact)
        if low:
            values -= values.dtype.type(low)
        values /= values.dtype.type(span)
        return values

    def from_unit(self, values: np.ndarray) -> np.ndarray:
        """Return values of that scale as they are stored, whole numbers to the nearest that there is."""
        (low, span), dtype = self._scale, self.pixels.dtype
        stored = values * values.dtype.type(span)
        stored = stored + stored.dtype.type(low) if low else stored
        if dtype.kind == "f":
            return stored.astype(dtype)
        most = np.iinfo(dtype)
        return np.rint(np.clip(stored, most.min, most.max)).astype(dtype)

    @property
    def _scale(self) -> tuple[float, float]:
        low, high = self.ends or (0, np.iinfo(self.pixels.dtype).max)
        return low, high - low

    @property
    def _exact(self) -> type:
        """What holds each value."""
        kind, size = self.pixels.dtype.kind, self.pixels.dtype.itemsize
        return np.float64 if size > 4 or (kind != "f" and size > 2) else np.float32

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def has_opacity(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    def show(self, box: Box, size: int) -> Image.Image:
        """Return a square as a network sees it: RGB, in sRGB, on white; beyond the edges a mirror image.

        Of 8 bits: `utils.codecs.deep` shows what is deeper.

        Args:
            box: The square.
            size: Side of the result, in pixels.
        """
        image = replace(self, pixels=cut(self.pixels, box)).image()
        factor = box.side // (_FINER * size)
        if factor > 1:  # the rest works on a fraction of the pixels
            profile = image.info.get("icc_profile")
            image = image.reduce(factor)
            image.info["icc_profile"] = profile
        return to_rgb(image, []).resize((size, size), Image.Resampling.LANCZOS)

    @property
    def _is_grey(self) -> bool:
        return self.pixels.shape[2] == 1

    def put(self, box: Box, edited: Tensor, mask: Image.Image) -> None:
        """Put an edited square in its place; where the mask is black no bit changes.

        Args:
            box: Its place.
            edited: Of any size, [C, S, S] in [-1, 1], C 3 or 1, in sRGB.
            mask: How far each pixel becomes the edited one, mode L, of the box's size.
        """
        rows, columns = box.inside(*self.size)
        height = max(1, _BAND // box.side)
        bands = [Image.fromarray(band) for band in ((edited + 1) / 2).numpy()]
        for top in range(rows.start, rows.stop, height):
            band = slice(top, min(top + height, rows.stop))
            weight = np.asarray(mask.crop(_corner(box, band, columns)), np.float32)[..., None] / 255
            if weight.any():
                shown = [_enlarge(image, box, band, columns) for image in bands]
                self._mix(self.pixels[band, columns], np.stack(shown, axis=2), weight)

    def _mix(self, before: np.ndarray, edited: np.ndarray, weight: np.ndarray) -> None:
        """Mix edited pixels into stored ones, which are a view of the photo: float32 [h, w, C], [h, w, 1]."""
        changed = weight[..., 0] > 0
        weight, old = weight[changed], self.unit(before[changed])
        new = self._stored(edited)[changed]
        if self.has_opacity:
            opacity = old[:, -1:] * (1 - weight) + weight
            colours = old[:, :-1] * old[:, -1:] * (1 - weight) + new * weight
            mixed = np.concatenate([colours / opacity, opacity], axis=1)
        else:
            mixed = old * (1 - weight) + new * weight
        before[changed] = self.from_unit(mixed)

    def _stored(self, edited: np.ndarray) -> np.ndarray:
        """Bring a part from sRGB to colours as they are stored, float32 [h, w, 1 or 3]."""
        from_srgb = icc_tables.from_srgb if self.is_deep else icc.from_srgb
        edited = edited.clip(0, 1) if self.is_deep else edited
        if self.pixels.shape[2] <= 2:
            grey = edited if edited.shape[2] == 1 else (edited @ LUMA)[..., None]
            return from_srgb(grey, self.profile) if self.profile else grey
        colours = np.broadcast_to(edited, (*edited.shape[:2], 3))
        return from_srgb(colours, self.profile) if self.profile else colours

    def upright(self, method: Image.Transpose | None) -> "Original":
        """Return the picture turned as Pillow's `transpose` does it; None for as it is."""
        if method is None:
            return self
        return replace(self, pixels=np.ascontiguousarray(_TURNS[method](self.pixels)))


_TURNS = {
    Image.Transpose.FLIP_LEFT_RIGHT: lambda x: x[:, ::-1],
    Image.Transpose.FLIP_TOP_BOTTOM: lambda x: x[::-1],
    Image.Transpose.ROTATE_90: lambda x: np.rot90(x, 1),
    Image.Transpose.ROTATE_180: lambda x: x[::-1, ::-1],
    Image.Transpose.ROTATE_270: lambda x: np.rot90(x, 3),
    Image.Transpose.TRANSPOSE: lambda x: x.swapaxes(0, 1),
    Image.Transpose.TRANSVERSE: lambda x: x[::-1, ::-1].swapaxes(0, 1),
}


def _enlarge(image: Image.Image, box: Box, rows: slice, columns: slice) -> np.ndarray:
    """Bring what stands for a box to its size, of which only some rows and columns: float32 [h, w]."""
    left, top, right, bottom = _corner(box, rows, columns)
    share = image.width / box.side
    part = (left * share, top * share, right * share, bottom * share)
    return np.asarray(image.resize((right - left, bottom - top), Image.Resampling.LANCZOS, part))


def _corner(box: Box, rows: slice, columns: slice) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of rows and columns of the photo as places in a box."""
    return columns.start - box.left, rows.start - box.top, columns.stop - box.left, rows.stop - box.top


def cut(pixels: np.ndarray, box: Box) -> np.ndarray:
    """Cut a square out of pixels [H, W, ...], with a mirror image of them beyond the edges."""
    height, width = pixels.shape[:2]
    if (inside := box.inside(width, height)) == box.place:
        return pixels[inside]
    rows, columns = _mirrored(box.top, box.side, height), _mirrored(box.left, box.side, width)
    return pixels[rows[:, None], columns]


def _mirrored(start: int, length: int, size: int) -> np.ndarray:
    """Return which of `size` pixels lie at places from `start` on, were there mirrors at both ends."""
    places = np.arange(start, start + length) % max(1, 2 * size - 2)
    return np.minimum(places, 2 * size - 2 - places).clip(min=0)


def as_stored(image: Image.Image, notes: list[str]) -> Image.Image:
    """Leave the pixels of a decoded picture as they are, in a mode that `Original` has."""
    profile = image.info.get("icc_profile")
    if image.mode in ("1", "P", "PA") and (not profile or image.mode == "1"):
        image = image.convert("L" if image.mode == "1" else "RGBA" if image.has_transparency_data else "RGB")
    if image.mode in ("L", "RGB") and image.has_transparency_data:
        image = image.convert(image.mode + "A")
    if image.mode in _STORED and (not profile or icc.can_return(profile, image.mode)):
        return image
    image = to_rgb(image, notes)
    image.info.pop("icc_profile", None)
    return image
