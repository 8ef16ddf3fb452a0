"""How results are saved: in which format, with how many bits, for which numbers black and white stand."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from utils import codecs
from utils.codecs import Ends, Original, Stored

PNG, AUTO = ".png", "auto"
_SUFFIXES = {"png": PNG, "jpg": ".jpg", "webp": ".webp", "tiff": ".tif", "npy": ".npy"}
_OWN = {"TIFF": ".tif", "NPY": ".npy", "FITS": ".fits"}
"""Suffix of the result of an input of more than 8 bits, by its format; PNG for another."""
_UNKNOWN_HEADS = (".tif", ".tiff")
"""Suffixes of files whose heads tell what is in them."""
RESULTS = (PNG, ".jpg", ".webp", ".tif", ".npy", ".fits")
"""Suffixes of results."""
_BYTE, _WORD = np.dtype(np.uint8), codecs.WORD


@dataclass(frozen=True)
class Saving:
    """What is wanted of the results."""

    format: str = AUTO
    """png, jpg, webp, tiff, npy, or auto for that of each input."""
    bits: int | None = None
    """8 or 16; None for those of each input, as far as the format has them."""
    ends: Ends | None = None
    """Values of black and white in files of numbers."""
    grey: bool = False
    """Results of grey inputs become grey."""

    def suffix(self, folder: Path, name: str) -> str:
        """Return the suffix of an input's result: of most inputs by its name alone.

        Args:
            folder: Of the inputs.
            name: Relative path of the input.
        """
        if self.format != AUTO:
            return _SUFFIXES[self.format]
        lower = name.lower()
        if lower.endswith(codecs.NUMBERS):
            return ".npy" if lower.endswith(".npy") else ".fits"
        if not lower.endswith(_UNKNOWN_HEADS):
            return PNG
        found = codecs.look_deep(folder / name, folder)
        return _OWN.get(found.kind, PNG) if found else PNG

    def check_clip(self) -> None:
        """Refuse an animation where results are no PNG, before its frames are edited.

        Raises:
            ValueError: Another format is wanted.
        """
        codecs.check_clip(_SUFFIXES.get(self.format, PNG))

    def numbers(self, suffix: str, stored: Stored | None) -> tuple[np.dtype, Ends | None]:
        """Return of which numbers a result consists, and which of them are black and white.

        Args:
            suffix: Of its file.
            stored: What `look_deep` says of the input.
        """
        dtype, kind = (stored.dtype, stored.kind) if stored else (_BYTE, "")
        is_float = dtype.kind == "f"
        if suffix in (".jpg", ".webp"):
            return _BYTE, None
        if self.bits:
            return (_BYTE if self.bits == 8 else _WORD), None
        if suffix == PNG:
            return (_BYTE if dtype == _BYTE else _WORD), None
        if suffix == ".tif":
            own = dtype if is_float or dtype in (_BYTE, _WORD) else np.dtype(np.float32)
            return own, self.ends if own.kind == "f" else None
        if self.ends is None:
            return dtype, None
        return dtype if is_float or kind in ("NPY", "FITS") else np.dtype(np.float32), self.ends

    def finish(self, folder: Path, name: str, x: Tensor, suffix: str) -> Image.Image | Original:
        """Return the result of a whole input, [C, H, W] in [-1, 1], as it is saved."""
        stored = codecs.look_deep(folder / name, folder)
        if self.grey and len(x) == 3 and codecs.is_grey(folder / name, folder):
            x = codecs.luma(x)
        dtype, ends = self.numbers(suffix, stored)
        if dtype == _BYTE and ends is None:
            return codecs.to_image(x)
        return codecs.of_tensor(x, dtype, ends, stored.cards if stored else b"")

    def convert(self, folder: Path, name: str, photo: Original, suffix: str) -> Original:
        """Return a photo with the numbers that its result is saved with."""
        return codecs.convert(photo, *self.numbers(suffix, codecs.look_deep(folder / name, folder)))
