"""Pictures to files of every format that results are saved in, each with what is recorded and its mark."""

import io
from collections.abc import Callable

import numpy as np
from PIL import Image

from utils.arrays import fits, npy, png16, tiff
from utils.codecs.decoder import to_rgb
from utils.codecs.marks import PNG_KEYWORD, mark_options
from utils.codecs.original import Original
from utils.codecs.pictures import Clip, encode_png
from utils.log import warn_once

_QUALITY = 95
_MOST = {"JPEG": 65500, "WEBP": 16383}
"""Pixels a side that the formats hold."""
_EXIF, _COMMENT = 0x8769, 0x9286
_MAX_COMMENT = 60000
"""Bytes; JPEG holds 64 KiB of EXIF data."""
_PREVIEW = 1024
"""Pixels a side."""


def encode(
    picture: Image.Image | Original | Clip,
    suffix: str,
    parameters: dict[str, str],
    mark: bytes = b"",
    program: str = "",
) -> bytes:
    """Encode a picture, with its profile and opacity as far as the format has them.

    Args:
        picture: Of any numbers that the format holds.
        suffix: Of the file: .png, .jpg, .webp, .tif, .npy or .fits. The last two hold numbers alone.
        parameters: What is recorded: iTXt in PNG, ImageDescription in TIFF, the UserComment of EXIF in JPEG
            and WEBP.
        mark: Of `make_mark`.
        program: What made it, for TIFF.

    Raises:
        ValueError: It is too large for the format, or moves, and this is not PNG.
    """
    if isinstance(picture, Clip):
        check_clip(suffix)
    return _ENCODERS[suffix](picture, parameters, mark, program)


def check_clip(suffix: str) -> None:
    """Refuse to save what moves as another format than PNG.

    Raises:
        ValueError: The suffix is another one.
    """
    if suffix != ".png":
        raise ValueError(f"it moves, which is saved as PNG alone, not as {suffix}; use --format png for it")


def preview(picture: Image.Image | Original) -> bytes:
    """Encode a small PNG of a picture, for a page: of 8 bits, in sRGB, up to 1024 pixels a side."""
    image = _image(picture)
    factor = -(-max(image.size) // _PREVIEW)
    profile, image = image.info.get("icc_profile"), image.reduce(factor) if factor > 1 else image
    image.info["icc_profile"] = profile
    return encode_png(to_rgb(image, []), {})


def _image(picture: Image.Image | Original) -> Image.Image:
    return picture.image() if isinstance(picture, Original) else picture


def _original(picture: Image.Image | Original) -> Original:
    return picture if isinstance(picture, Original) else Original.of(picture)


def _png(picture: Image.Image | Original, parameters: dict[str, str], mark: bytes, program: str) -> bytes:
    if not isinstance(picture, Original) or picture.pixels.dtype == np.uint8:
        return encode_png(picture, parameters, mark)
    marked = {PNG_KEYWORD: mark.decode()} if mark else {}
    return png16.encode(picture.pixels, picture.profile, marked | parameters)


def _tiff(picture: Image.Image | Original, parameters: dict[str, str], mark: bytes, program: str) -> bytes:
    photo = _original(picture)
    return tiff.encode(photo.pixels, photo.profile, "\n".join(parameters.values()), mark, program)


def _npy(picture: Image.Image | Original, parameters: dict[str, str], mark: bytes, program: str) -> bytes:
    return npy.encode(_original(picture).pixels)


def _fits(picture: Image.Image | Original, parameters: dict[str, str], mark: bytes, program: str) -> bytes:
    photo = _original(picture)
    return fits.encode(photo.pixels, photo.cards)


def _lossy(kind: str, **options: object) -> Callable[..., bytes]:
    def encode(
        picture: Image.Image | Original, parameters: dict[str, str], mark: bytes, program: str
    ) -> bytes:
        image, text = _image(picture), "\n".join(parameters.values())
        if max(image.size) > _MOST[kind]:
            raise ValueError(
                f"its result has {image.width}x{image.height} pixels, and {kind} holds {_MOST[kind]} a side; "
                "use --format png"
            )
        said = mark_options(kind, mark) if mark else {}
        if profile := image.info.get("icc_profile"):
            said["icc_profile"] = profile
        if kind == "JPEG" and image.mode in ("LA", "RGBA"):
            image = _on_white(image)
        if len(text) > _MAX_COMMENT:
            warn_once(
                f"what made them is longer than {kind} files hold, so these do not say it; --format png does"
            )
        elif text:
            exif = Image.Exif()
            exif[_EXIF] = {_COMMENT: b"ASCII\0\0\0" + text.encode("ascii", "backslashreplace")}
            said["exif"] = exif
        buffer = io.BytesIO()
        image.save(buffer, kind, quality=_QUALITY, **options, **said)
        return buffer.getvalue()

    return encode


def _on_white(image: Image.Image) -> Image.Image:
    """Lay a picture on white, in its own colours."""
    bare = image.convert(image.mode.removesuffix("A"))
    white = Image.new(bare.mode, image.size, "white")
    return Image.composite(bare, white, image.getchannel("A"))


_ENCODERS = {
    ".png": _png,
    ".jpg": _lossy("JPEG", subsampling=0),
    ".webp": _lossy("WEBP"),
    ".tif": _tiff,
    ".npy": _npy,
    ".fits": _fits,
}
