"""Pictures side by side for people: small ones enlarged, each under its label, and taken apart again."""

import functools

from PIL import Image, ImageDraw, ImageFont

from utils.codecs.decoder import WHITE

_GAP = 2
"""Pixels between two pictures."""
_SMALL = 128
"""Pixels a side below which a picture is enlarged: a screen shows fewer as a stamp."""
_LEAST_FONT, _FONT_SHARE = 13, 20
"""Pixels of the letters at least, and pictures' widths in letters where these are larger."""


def strip(images: list[Image.Image]) -> Image.Image:
    """Put images of one height side by side on white."""
    width = sum(image.width for image in images) + _GAP * (len(images) - 1)
    canvas = Image.new("RGB", (width, images[0].height), WHITE)
    x = 0
    for image in images:
        canvas.paste(image, (x, 0))
        x += image.width + _GAP
    return canvas


def column(images: list[Image.Image]) -> Image.Image:
    """Put images one below the other on white; one alone stays as it is."""
    if len(images) == 1:
        return images[0]
    height = sum(image.height for image in images) + _GAP * (len(images) - 1)
    canvas = Image.new("RGB", (max(image.width for image in images), height), WHITE)
    y = 0
    for image in images:
        canvas.paste(image, (0, y))
        y += image.height + _GAP
    return canvas


def labelled_strip(images: list[Image.Image], labels: list[str]) -> Image.Image:
    """Put images of one size side by side, each under its label.

    Those below 128 pixels a side, the longer, are enlarged by a whole factor, each pixel to a square of its
    colour.

    Args:
        images: What is shown.
        labels: As many; '' for none.
    """
    return strip([_under(_enlarge(x), label) for x, label in zip(images, labels, strict=True)])


def cut_strip(image: Image.Image, width: int, height: int | None = None) -> list[Image.Image]:
    """Take the images out of a labelled strip, as they were before they were enlarged.

    Args:
        image: The strip.
        width: Of each image, in pixels.
        height: Likewise, by default the width.
    """
    size = width, height or width
    factor = _factor(size)
    right, below = (factor * side for side in size)
    top = image.height - below
    columns = range(0, image.width, right + _GAP)
    return [image.crop((x, top, x + right, top + below)).reduce(factor) for x in columns]


def _factor(size: tuple[int, int]) -> int:
    return -(-_SMALL // max(size))


def _enlarge(image: Image.Image) -> Image.Image:
    factor = _factor(image.size)
    size = image.width * factor, image.height * factor
    return image if factor == 1 else image.resize(size, Image.Resampling.NEAREST)


def _under(image: Image.Image, label: str) -> Image.Image:
    head = _draw(label, image.width)
    canvas = Image.new("RGB", (image.width, head.height + image.height), WHITE)
    canvas.paste(head, (0, 0))
    canvas.paste(image, (0, head.height))
    return canvas


@functools.lru_cache(256)
def _draw(label: str, width: int) -> Image.Image:
    """Draw a label in black on white, in the middle of a picture's width; cut off where it is too long."""
    font = ImageFont.load_default(max(_LEAST_FONT, width // _FONT_SHARE))
    ascent, descent = font.getmetrics()
    head = Image.new("L", (width, ascent + descent + _GAP), 255)
    shown = label
    while shown and font.getlength(shown) > width:
        shown = f"{shown.removesuffix('...')[:-1].rstrip()}..." if len(shown) > 3 else ""
    left = (width - font.getlength(shown)) / 2
    ImageDraw.Draw(head).text((left, 0), shown, fill=0, font=font)
    return head
