"""What a picture means as a mask or as strengths, however a program has saved it."""

import numpy as np
from PIL import Image, ImageChops

from utils.codecs import RefusedError, is_deep, to_8_bits

_SEEN = 64
"""Alpha from which on a colour counts: below it programs round it to anything."""
_ALIKE = 8
"""Levels by which colours may differ that are meant as one."""
_OFF_LINE = 40
"""Levels by which a colour may lie beside the line between two, as JPEG has it at an edge."""
_PHOTO = 32
"""A picture has more levels than this in each channel, and a drawing fewer."""
_HOW = "save it in black and white, without transparency"


def read_mask(image: Image.Image, notes: list[str]) -> Image.Image:
    """Bring a decoded mask to mode L: white may change, black is kept, grey is between.

    - With transparency and strokes of one colour, what is painted may change, whatever the colour; of a
      photo with an erased hole, the hole.
    - Two values or colours are black and white; the brighter is white.
    - Otherwise grey as it is; 16 bits that hold no more than 255 as 8; two colours and what lies between
      them as black to white.

    Args:
        image: As it was decoded, in any mode.
        notes: None are added.

    Raises:
        RefusedError: It may mean several things.
    """
    return _read(image, two_are_extremes=True)


def read_strengths(image: Image.Image, notes: list[str]) -> Image.Image:
    """Bring a decoded picture of strengths to mode L, as `read_mask` does, but two greys stay as they are.

    Raises:
        RefusedError: It may mean several things.
    """
    return _read(image, two_are_extremes=False)


def _read(image: Image.Image, two_are_extremes: bool) -> Image.Image:
    if is_deep(image):
        return _from_numbers(image, two_are_extremes)
    if image.mode == "1":
        return image.convert("L")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        low, high = image.getextrema()[3]
        if low != high:
            return _from_alpha(image)
        if high == 0:
            raise RefusedError(f"is wholly transparent; {_HOW}")
    if image.mode not in ("L", "LA"):
        image = image.convert("RGB")
        red, green, blue = image.split()
        if max(_differ(red, green), _differ(red, blue)) > _ALIKE:
            return _from_colors(image)
        image = red if _differ(red, green) == _differ(red, blue) == 0 else image
    return _from_grey(image.convert("L"), two_are_extremes)


def _differ(one: Image.Image, other: Image.Image) -> int:
    return ImageChops.difference(one, other).getextrema()[1]


def _from_grey(image: Image.Image, two_are_extremes: bool) -> Image.Image:
    counts = image.histogram()
    values = [value for value in range(256) if counts[value]]
    if values[-1] == 1 or (two_are_extremes and len(values) == 2):  # 1 of 0 and 1 is meant as white
        return image.point([255 if value == values[-1] else 0 for value in range(256)])
    return image


def _from_numbers(image: Image.Image, two_are_extremes: bool) -> Image.Image:
    values = np.array(image)
    if not np.isfinite(values).all():
        raise RefusedError("holds NaN or infinity")
    low, high = values.min(), values.max()
    two = np.logical_or(values == low, values == high).all() and low != high
    tags = getattr(image, "tag_v2", {})
    if tags.get(262) == 0 or low < 0:
        return to_8_bits(image)
    if (two and two_are_extremes) or (high == 1 and np.isin(values, (0, 1)).all()):
        return Image.fromarray(((values == high) * 255).astype(np.uint8))
    if image.mode == "F" and high <= 1:
        return Image.fromarray((values * 255).round().astype(np.uint8))
    if high <= 255:
        return Image.fromarray(values.round().astype(np.uint8))
    return to_8_bits(image)


def _from_alpha(image: Image.Image) -> Image.Image:
    """Return what is painted of strokes in one colour, or the hole in a photo."""
    alpha = image.getchannel("A")
    seen = alpha.point([255 if value >= _SEEN else 0 for value in range(256)])
    levels = [_levels(image.getchannel(band), seen) for band in "RGB"]
    if not levels[0] or all(found[-1] - found[0] <= _ALIKE for found in levels):
        return alpha
    red, green, blue, _ = image.split()
    coloured = max(
        max(_levels(ImageChops.difference(red, other), seen), default=0) for other in (green, blue)
    )
    if coloured > _ALIKE and min(map(len, levels)) > _PHOTO:
        return ImageChops.invert(alpha)
    raise RefusedError(f"has transparency and several colours, so what may change is not clear; {_HOW}")


def _levels(band: Image.Image, within: Image.Image) -> list[int]:
    return [value for value, count in enumerate(band.histogram(within)) if count]


def _from_colors(image: Image.Image) -> Image.Image:
    """Return where each colour lies on the way from the darkest to the brightest, where all lie on it."""
    found = image.getcolors(2**16)
    if found is None:
        raise RefusedError(f"is a picture in colours, not a mask or strengths; {_HOW}")
    colors = np.array([color for _, color in found], dtype=np.float64)
    luma = colors @ (0.299, 0.587, 0.114)
    dark, way = colors[luma.argmin()], colors[luma.argmax()] - colors[luma.argmin()]
    if len(colors) == 1 or np.ptp(luma) < 1:
        raise RefusedError(f"has no darker and brighter colour; {_HOW}")
    along = way / (way @ way)
    beside = (colors - dark) - np.outer((colors - dark) @ along, way)
    if np.abs(beside).max() > _OFF_LINE:
        raise RefusedError(f"has several colours, of which none is known to be black or white; {_HOW}")
    return image.convert("L", (*(255 * along), float(-255 * dark @ along), *[0.0] * 0))
