"""The formats of pictures that are read, the suffixes of their files."""

from PIL import features

from utils.arrays import RefusedError

__all__ = ["FORMATS", "NUMBERS", "SUFFIXES", "AnimatedError", "RefusedError"]

_KNOWN = {
    "PNG": (".png",),
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "WEBP": (".webp",),
    "BMP": (".bmp",),
    "TIFF": (".tif", ".tiff"),
    "GIF": (".gif",),
    "JPEG2000": (".jp2", ".j2k"),
    "AVIF": (".avif",),
}
_DECODERS = {"JPEG": "jpg", "WEBP": "webp", "JPEG2000": "jpg_2000", "AVIF": "avif"}
"""Those that a build of Pillow may lack, by Pillow's name for them."""

FORMATS = tuple(name for name in _KNOWN if name not in _DECODERS or features.check(_DECODERS[name]))
SUFFIXES = tuple(suffix for name in FORMATS for suffix in _KNOWN[name])
NUMBERS = (".npy", ".fits", ".fit", ".fts")
"""Suffixes of files of numbers, of which no viewer knows what is black and what white."""


class AnimatedError(RefusedError):
    """A picture that moves, where one that stands is wanted."""
