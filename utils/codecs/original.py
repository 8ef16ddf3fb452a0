"""A photo as it is stored: parts of it are shown to a network, and put back edited, all else untouched."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
from PIL import Image
from torch import Tensor

from utils.codecs import icc
from utils.codecs.decoder import reading, to_rgb

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
    """[H, W, C], uint8; C: 1 grey, 2 grey and opacity, 3 colours, 4 colours and opacity."""
    profile: bytes | None = None
    """Of its colours (ICC); None for sRGB."""

    @classmethod
    def read(cls, path: Path, root: Path | None = None) -> Self:
        """Read a photo.

        What PNG has no place for (CMYK, palettes, ...) becomes RGB in sRGB.

        Args:
            path: The file.
            root: Folder that no link may lead out of; None to follow links anywhere.

        Raises:
            ValueError: As for `decode`.
        """
        with reading(path, root, as_stored) as image:
            return cls.of(image)

    @classmethod
    def of(cls, image: Image.Image) -> Self:
        """Take an image of Pillow in mode L, LA, RGB or RGBA."""
        pixels = np.array(image).reshape(image.height, image.width, -1)
        return cls(pixels, image.info.get("icc_profile"))

    def image(self) -> Image.Image:
        """Return an image of Pillow, with its profile."""
        image = Image.fromarray(self.pixels.squeeze(2) if self._is_grey else self.pixels)
        if self.profile:
            image.info["icc_profile"] = self.profile
        return image

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def has_opacity(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    def show(self, box: Box, size: int) -> Image.Image:
        """Return a square as a network sees it: RGB, in sRGB, on white; beyond the edges a mirror image.

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
        weight, old = weight[changed], before[changed].astype(np.float32) / self._white
        new = self._stored(edited)[changed]
        if self.has_opacity:
            opacity = old[:, -1:] * (1 - weight) + weight
            colours = old[:, :-1] * old[:, -1:] * (1 - weight) + new * weight
            mixed = np.concatenate([colours / opacity, opacity], axis=1)
        else:
            mixed = old * (1 - weight) + new * weight
        before[changed] = np.rint(np.clip(mixed, 0, 1) * self._white).astype(before.dtype)

    @property
    def _white(self) -> int:
        return np.iinfo(self.pixels.dtype).max

    def _stored(self, edited: np.ndarray) -> np.ndarray:
        """Bring a part from sRGB to colours as they are stored, float32 [h, w, 1 or 3]."""
        if self.pixels.shape[2] <= 2:
            grey = edited if edited.shape[2] == 1 else (edited @ LUMA)[..., None]
            return icc.from_srgb(grey, self.profile) if self.profile else grey
        colours = np.broadcast_to(edited, (*edited.shape[:2], 3))
        return icc.from_srgb(colours, self.profile) if self.profile else colours


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
