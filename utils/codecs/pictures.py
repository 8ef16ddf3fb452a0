"""Pictures to tensors and back: fit, convert, encode; they are read by utils/codecs/decoder.py."""

import io
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from utils.codecs.decoder import MAX_PIXELS, WHITE, Timing, decode, decode_bytes, look, open_file, reading
from utils.codecs.marks import mark_options
from utils.codecs.original import Original

__all__ = [
    "MAX_PIXELS",
    "WHITE",
    "decode",
    "decode_bytes",
    "encode_apng",
    "encode_png",
    "fit",
    "look",
    "open_file",
    "reading",
    "to_image",
    "to_tensor",
]

_PHOTO_LEVEL = 3
"""How hard a photo is packed: 3 takes a third of the seconds of 6, for the same size."""


def fit(image: Image.Image, size: int | tuple[int, int] | None, how: str) -> Image.Image:
    """Bring an image to a size.

    Args:
        image: RGB image, a map in shades of grey (mode L), or one channel of a picture, black 0 and white 1
            (mode F), of any size.
        size: Width and height in pixels, one number for both, or None to leave it as it is.
        how: 'crop' (as much as has this shape, of the centre), 'pad' (whole image; bars, white or for a map
            black) or 'stretch'.
    """
    size = (size, size) if isinstance(size, int) else size or image.size
    if image.size == size:
        return image
    is_map = image.mode == "L"
    method = Image.Resampling.BOX if is_map else Image.Resampling.LANCZOS  # no overshoot beside an edge
    if how == "crop":
        return ImageOps.fit(image, size, method)
    if how == "pad":
        if 2 * size[0] * image.height <= image.width:  # too narrow: it would shrink to no pixel at all
            image = image.resize((size[0], 1), method)
        elif 2 * size[1] * image.width <= image.height:
            image = image.resize((1, size[1]), method)
        return ImageOps.pad(image, size, method, color={"L": 0, "F": 1.0}.get(image.mode, WHITE))
    assert how == "stretch", how
    return image.resize(size, method)


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """uint8 image -> float32 in [-1, 1], shape [C, H, W]; one channel is the luma."""
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def to_image(x: Tensor) -> Image.Image:
    """Tensor [C, H, W] in [-1, 1] -> uint8 image; rounds, clamps what lies outside."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.squeeze(2).cpu().numpy())


class Clip(NamedTuple):
    """Pictures in a row."""

    frames: list[Image.Image]
    timing: Timing


def encode_png(image: Image.Image | Original | Clip, parameters: dict[str, str], mark: bytes = b"") -> bytes:
    """Encode as PNG with text entries, a mark of `make_mark`, and the profile of a photo.

    The same input gives the same bytes.
    """
    if isinstance(image, Clip):
        return encode_apng(*image, parameters, mark)
    buffer, options = io.BytesIO(), {"pnginfo": _entries(parameters, mark)}
    if isinstance(image, Original):
        image, options["compress_level"] = image.image(), _PHOTO_LEVEL
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def encode_apng(
    frames: list[Image.Image], timing: Timing, parameters: dict[str, str], mark: bytes = b""
) -> bytes:
    """Encode frames of one size as a PNG that shows them in turn, with text entries and a mark.

    Frames that equal the one before are not stored: that one is shown as much longer.
    """
    buffer = io.BytesIO()
    options = {"append_images": frames[1:], "duration": timing.durations_ms, "loop": timing.loop}
    frames[0].save(buffer, "PNG", save_all=True, pnginfo=_entries(parameters, mark), **options)
    return buffer.getvalue()


def _entries(parameters: dict[str, str], mark: bytes) -> PngInfo:
    info = mark_options("PNG", mark)["pnginfo"] if mark else PngInfo()
    for key, value in parameters.items():
        info.add_itxt(key, value)
    return info
