"""Pixels of more than 8 bits to pixels of 8."""

import numpy as np
from PIL import Image

from utils.codecs.formats import RefusedError

_SIGNED = 2
_BITS, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF file."""
_TABLE = ((np.arange(65536) + 128) // 257).astype(np.uint8)
"""To the nearest of 256 levels."""


def is_deep(image: Image.Image) -> bool:
    """Tell whether a picture is grey with more than 8 bits a pixel."""
    return image.mode == "F" or image.mode.startswith("I")


def to_8_bits(image: Image.Image) -> Image.Image:
    """Scale a grey picture of up to 16 bits, whatever it is stored in, to mode L.

    Whole numbers of 32 bits have no range of their own. Up to 255 they are taken for 8 bits and from 4096
    on for 16: as 16 bits the first would be a black picture; what lies between may be either.

    Raises:
        RefusedError: What is white cannot be known.
    """
    if image.mode == "F":
        raise RefusedError("holds floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    values = np.array(image)
    if not image.mode.startswith("I;16"):
        return _from_32_bits(image, values)
    tags = getattr(image, "tag_v2", {})
    if tags.get(_BITS) == (12,):
        values = (values.astype(np.uint32) * 4369 // 273).astype(np.uint16)
    if tags.get(_PHOTOMETRIC) == 0:  # white is zero, which Pillow minds up to 8 bits
        values = 65535 - values
    if "transparency" in image.info:  # one grey value, as in 8 bits
        values[values == image.info["transparency"]] = 65535
    return Image.fromarray(_TABLE[values])


def _from_32_bits(image: Image.Image, values: np.ndarray) -> Image.Image:
    low, high = int(values.min()), int(values.max())
    tags = getattr(image, "tag_v2", {})
    signed_16 = tags.get(_BITS) == (16,) and tags.get(_SAMPLE_FORMAT) == (_SIGNED,)
    if low >= 0 and high <= 255 and tags.get(_PHOTOMETRIC) != 0:
        return Image.fromarray(values.astype(np.uint8))
    if low < 0 or not 4096 <= high <= 65535 or tags.get(_PHOTOMETRIC) == 0 or signed_16:
        raise RefusedError(
            f"holds pixels from {low} to {high}, whose range is unknown; save it with 8 or 16 bits"
        )
    return Image.fromarray(_TABLE[values])
