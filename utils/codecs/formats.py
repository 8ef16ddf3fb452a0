"""The formats of pictures that are read, the suffixes of their files, and the refusal of a picture."""

from PIL import features

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


class RefusedError(ValueError):
    """A picture that we refuse ourselves: its reason is shown as it is."""


class AnimatedError(RefusedError):
    """A picture that moves, where one that stands is wanted."""
