"""Image files to tensors and back: find, decode, fit, convert, encode."""

import io
import os
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "TIFF")
MAX_PIXELS = 128 * 1024 * 1024
WHITE = (255, 255, 255)


def find_images(input_dir: Path, save_dir: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """List the image files below a folder.

    Args:
        input_dir: Folder to search, recursively; links to folders are not followed.
        save_dir: Folder of results, left out where it lies inside input_dir.
        suffixes: What the names of the files end in, in lower case.

    Returns:
        Relative POSIX paths, sorted.

    Raises:
        ValueError: There is none.
    """
    found, others, results = [], [], save_dir.resolve()
    for folder, subfolders, files in os.walk(input_dir):
        subfolders[:] = [name for name in subfolders if Path(folder, name).resolve() != results]
        for file in files:
            is_image = file.lower().endswith(suffixes) and not file.startswith(".")
            (found if is_image else others).append(Path(folder, file).relative_to(input_dir).as_posix())
    if not found:
        seen = f"{len(others)} other file(s), such as {min(others)}" if others else "nothing"
        raise ValueError(f"{input_dir}: no images; found {seen}, looked for {' '.join(suffixes)}")
    return sorted(found)


def result_names(names: list[str]) -> dict[str, str]:
    """Name the result of each input: its relative path as .png, two of one stem keep their suffix."""
    stems = [name.rpartition(".")[0] for name in names]
    folded = [stem.casefold() for stem in stems]  # some file systems take A.png and a.png for one
    counts: dict[str, int] = {}
    for stem in folded:
        counts[stem] = counts.get(stem, 0) + 1
    return {
        name: f"{stem if counts[key] == 1 else name}.png"
        for name, stem, key in zip(names, stems, folded, strict=True)
    }


def decode(path: Path) -> Image.Image:
    """Read an image as the viewer shows it: RGB, upright, on white where it is transparent.

    Raises:
        ValueError: The file is no image of a known format, is broken, is animated or is too large.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path, formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise ValueError(f"{image.width}x{image.height} pixels, allowed are {MAX_PIXELS}")
                if getattr(image, "n_frames", 1) > 1:
                    raise ValueError(f"has {image.n_frames} frames; save the one to edit as its own file")
                image.load()
                return _to_rgb(ImageOps.exif_transpose(image))
    except Image.UnidentifiedImageError:
        raise ValueError(f"not an image in one of the formats {', '.join(FORMATS)}") from None
    except Image.DecompressionBombError as error:
        raise ValueError(f"too many pixels: {error}") from None
    except (OSError, SyntaxError) as error:  # Pillow reports broken PNG chunks as SyntaxError
        raise ValueError(f"cannot be read, broken or truncated: {error}") from None


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("holds floating-point pixels, whose range is unknown; save it with 8 or 16 bits")
    if image.mode.startswith("I"):  # 16 bits: convert("RGB") would clip instead of scale
        values = np.asarray(image).astype(np.float64) / 257
        image = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, (*WHITE, 255)), image)
    return image.convert("RGB")


def fit(image: Image.Image, size: int, how: str) -> Image.Image:
    """Bring an image to size x size pixels.

    Args:
        image: RGB image, or a map in shades of grey (mode L), of any size.
        size: Side of the model's images, in pixels.
        how: 'crop' (shorter side, centre), 'pad' (whole image; bars, white or for a map black) or 'stretch'.
    """
    if image.size == (size, size):
        return image
    is_map = image.mode == "L"
    method = Image.Resampling.BOX if is_map else Image.Resampling.LANCZOS  # no overshoot beside an edge
    if how == "crop":
        return ImageOps.fit(image, (size, size), method)
    if how == "pad":
        return ImageOps.pad(image, (size, size), method, color=0 if is_map else WHITE)
    assert how == "stretch", how
    return image.resize((size, size), method)


def to_tensor(image: Image.Image, channels: int) -> Tensor:
    """uint8 image -> float32 in [-1, 1], shape [C, H, W]; one channel is the luma."""
    image = image.convert("RGB" if channels == 3 else "L")
    pixels = torch.from_numpy(np.array(image)).reshape(image.height, image.width, channels)
    return pixels.permute(2, 0, 1).float() / 127.5 - 1


def to_image(x: Tensor) -> Image.Image:
    """Tensor [C, H, W] in [-1, 1] -> uint8 image; rounds, clamps what lies outside."""
    pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(1, 2, 0)
    return Image.fromarray(pixels.squeeze(2).cpu().numpy())


def strip(images: list[Image.Image], gap: int = 2) -> Image.Image:
    """Put images of one height side by side on white."""
    width = sum(image.width for image in images) + gap * (len(images) - 1)
    canvas = Image.new("RGB", (width, images[0].height), WHITE)
    x = 0
    for image in images:
        canvas.paste(image, (x, 0))
        x += image.width + gap
    return canvas


def encode_png(image: Image.Image, parameters: dict[str, str]) -> bytes:
    """Encode as PNG with text entries; the same input gives the same bytes."""
    info = PngInfo()
    for key, value in parameters.items():
        info.add_itxt(key, value)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()
