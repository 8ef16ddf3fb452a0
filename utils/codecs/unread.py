"""What a file is that is no picture for us, in words."""

from typing import BinaryIO

from PIL.TiffImagePlugin import ImageFileDirectory_v2

from utils.codecs import jpeg_markers
from utils.codecs.formats import FORMATS

_TIFF, _JPEG = (b"II*\0", b"MM\0*"), b"\xff\xd8\xff"
_BITS, _SAMPLES, _SAMPLE_FORMAT = 258, 277, 339
_KINDS = {1: "whole numbers", 2: "signed whole numbers", 3: "floating-point numbers"}
_OURS = ((0, b"\x89PNG", "PNG"), (0, _JPEG, "JPEG"), (0, b"GIF8", "GIF"), (8, b"WEBP", "WEBP"))
_OTHERS = (
    (0, b"%PDF", "a PDF file"),
    (0, b"8BPS", "a Photoshop file"),
    (0, b"version https://git-lfs", "a pointer of Git LFS; fetch the file itself with git lfs pull"),
    (4, b"ftyphei", "a HEIC picture"),
    (4, b"ftyphev", "a HEIC picture"),
    (4, b"ftypmif", "a HEIF picture"),
    (4, b"ftypavif", "an AVIF picture"),
    (4, b"ftyp", "a film or another file of its kind"),
    (0, b"<", "text, as of a web page"),
    (0, b"\xff\x0a", "a JPEG XL picture"),
    (0, b"\0\0\0\x0cJXL ", "a JPEG XL picture"),
)


def describe(file: BinaryIO) -> str:
    """Say what a file is that Pillow does not take for a picture."""
    file.seek(0)
    head = file.read(64)
    if head.startswith(_TIFF) and (kind := _describe_tiff(file)):
        return f"a TIFF picture of {kind}, which is not read; save it with 8 or 16 bits"
    if head.startswith(_JPEG) and (bits := jpeg_markers.find_bits(file) or 8) != 8:
        return f"a JPEG picture of {bits} bits, of which only those of 8 are read; save it as PNG or TIFF"
    for at, mark, name in _OURS:
        if head[at:].startswith(mark):
            return f"cannot be read, broken or truncated: the beginning of a {name} picture"
    for at, mark, name in _OTHERS:
        if head[at:].startswith(mark):
            return f"not an image in one of the formats {', '.join(FORMATS)}, but {name}"
    return f"not an image in one of the formats {', '.join(FORMATS)}"


def _describe_tiff(file: BinaryIO) -> str | None:
    """Say what pixels a TIFF file holds; None where it is broken."""
    try:
        file.seek(0)
        tags = ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        bits, kinds = tags[_BITS], tags.get(_SAMPLE_FORMAT, (1,))
        words = _KINDS.get(kinds[0], "numbers of an unknown kind")
        num = int(tags.get(_SAMPLES, len(bits)))
        return f"{num} channels of {'/'.join(map(str, sorted({int(b) for b in bits[:16]})))} bits, {words}"
    except Exception:  # Pillow reports what is broken in many kinds
        return None
