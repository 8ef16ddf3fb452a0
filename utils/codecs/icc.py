"""Colour profiles: pictures come out in sRGB, whatever the space of colours that they are saved in."""

import functools
import io

import numpy as np
from PIL import Image, ImageCms

MAX_PROFILE = 16 * 2**20
"""Of a profile, in bytes: those of printers have some 3 MB."""
_SPACES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}
_SLOW = b"mpet"
"""Elements in floating point, of which a small profile may hold a million."""
_SRGB_CODES = ((1, 13), (1, 1), (1, 6), (2, 2), (2, 13), (1, 2))
"""Primaries and transfer (ITU-T H.273) of pictures in sRGB, or in what is told apart from it by no one."""
_NEAR = 1
"""A profile that moves no colour by more levels than this is sRGB's own, in one of its many wordings."""


def to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """Bring a picture from the colours of its profile to those of sRGB.

    By relative colorimetry with black point compensation: white stays white, black black, what sRGB has
    comes out exactly, and what it has not as the nearest that it has.

    Args:
        image: In mode L, LA, RGB, RGBA or CMYK. It may be changed in place.
        profile: An ICC profile.

    Returns:
        A picture in mode RGB or RGBA, or the same where the profile is sRGB's.

    Raises:
        ValueError: The profile is broken, too large, or of another kind of picture.
    """
    space, is_srgb = _open(profile)[1:]
    if space == "RGB" and image.mode in ("L", "LA"):  # grey saved with a profile of colours
        if is_srgb:
            return image
        image = image.convert("RGB" if image.mode == "L" else "RGBA")
    if is_srgb and image.mode in ("RGB", "RGBA"):
        return image
    if image.mode.removesuffix("A") != space:
        raise ValueError(f"its colour profile is one of {space} pictures")
    if image.mode == "LA":
        grey, alpha = image.split()
        image = _apply(profile, grey)
        image.putalpha(alpha)
        return image
    return _apply(profile, image)


def can_return(profile: bytes, mode: str) -> bool:
    """Tell whether a profile is one of pictures of a mode, and can also be used to bring sRGB to it."""
    try:
        space = _open(profile)[1]
        if space != mode.removesuffix("A"):
            return False
        from_srgb(np.zeros((1, 1, len(space)), np.float32), profile)
    except ValueError:
        return False
    return True


def from_srgb(colours: np.ndarray, profile: bytes) -> np.ndarray:
    """Bring colours from sRGB to those of a profile, the way back of `to_srgb`.

    Args:
        colours: float32 in [0, 1], [H, W, 3], or [H, W, 1] for a profile of grey.
        profile: An ICC profile for which `can_return` says so.

    Returns:
        The same shape and type, in steps of 1/255.

    Raises:
        ValueError: The profile is broken, or leads one way only.
    """
    if _open(profile)[2]:
        return colours
    if colours.shape[2] == 1:
        return np.interp(colours, greys(profile), np.linspace(0, 1, 256)).astype(np.float32)
    image = Image.fromarray(np.rint(colours.clip(0, 1) * 255).astype(np.uint8))
    return np.asarray(apply(image, profile, back=True), np.float32) / 255


def apply(image: Image.Image, profile: bytes, back: bool = False) -> Image.Image:
    """Bring colours of 8 bits from those of a profile to sRGB, or back.

    Args:
        image: In mode RGB. It may be changed in place.
        profile: An ICC profile for which `can_return` says so.
        back: From sRGB to the profile.

    Raises:
        ValueError: The profile is broken, or leads one way only.
    """
    if not back:
        return _apply(profile, image)
    try:
        return _back(profile).apply(image)
    except Exception as error:
        raise _broken() from error


def is_srgb(profile: bytes) -> bool:
    """Tell whether a profile is that of sRGB.

    Raises:
        ValueError: It is broken.
    """
    return _open(profile)[2]


@functools.lru_cache(maxsize=8)
def greys(profile: bytes) -> np.ndarray:
    """Return the grey in sRGB of each of the 256 greys of a profile, in [0, 1], none below the one before."""
    ramp = Image.fromarray(np.arange(256, dtype=np.uint8)[None])
    return np.maximum.accumulate(np.asarray(_apply(profile, ramp))[0, :, 0] / 255)


@functools.lru_cache(maxsize=8)
def _back(profile: bytes) -> ImageCms.ImageCmsTransform:
    srgb, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    opened, flags = _open(profile)[0], ImageCms.Flags.BLACKPOINTCOMPENSATION
    return ImageCms.buildTransform(srgb, opened, "RGB", "RGB", intent, flags)


def note_on_codes(primaries: int, transfer: int) -> list[str]:
    """Say that colours are not obeyed which are told by the numbers of films, if they are not sRGB's."""
    if (primaries, transfer) in _SRGB_CODES:
        return []
    return [f"its colours are those of code {primaries}, {transfer} (H.273), which is not obeyed"]


def _apply(profile: bytes, image: Image.Image) -> Image.Image:
    out = image.mode if image.mode in ("RGB", "RGBA") else "RGB"
    try:
        transform = _transform(profile, image.mode, out)
        return transform.apply_in_place(image) if image.mode == out else transform.apply(image)
    except Exception as error:
        raise _broken() from error


@functools.lru_cache(maxsize=8)
def _open(profile: bytes) -> tuple[ImageCms.ImageCmsProfile, str, bool]:
    """Return a profile, the mode of its pictures, and whether it is that of sRGB."""
    if len(profile) > MAX_PROFILE or _SLOW in profile:
        raise ValueError("its colour profile is too large or too complex")
    try:
        opened = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        space = _SPACES.get(opened.profile.xcolor_space.strip())
    except Exception as error:  # as the library says it, in several kinds
        raise _broken() from error
    if space is None:
        raise ValueError("its colour profile is of a space of colours that pictures here do not have")
    return opened, space, space == "RGB" and _moves_nothing(opened)


def _moves_nothing(opened: ImageCms.ImageCmsProfile) -> bool:
    levels = range(0, 256, 17)
    colours = bytes(value for r in levels for g in levels for b in levels for value in (r, g, b))
    before = Image.frombytes("RGB", (len(colours) // 3, 1), colours)
    try:
        after = _build(opened, "RGB", "RGB").apply(before).tobytes()
    except Exception as error:
        raise _broken() from error
    return max(abs(x - y) for x, y in zip(colours, after, strict=True)) <= _NEAR


@functools.lru_cache(maxsize=8)
def _transform(profile: bytes, mode: str, out: str) -> ImageCms.ImageCmsTransform:
    return _build(_open(profile)[0], mode, out)


def _build(opened: ImageCms.ImageCmsProfile, mode: str, out: str) -> ImageCms.ImageCmsTransform:
    target, intent = ImageCms.createProfile("sRGB"), ImageCms.Intent.RELATIVE_COLORIMETRIC
    return ImageCms.buildTransform(opened, target, mode, out, intent, ImageCms.Flags.BLACKPOINTCOMPENSATION)


def _broken() -> ValueError:
    return ValueError("its colour profile is broken")
