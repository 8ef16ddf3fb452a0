"""FITS files of one picture (FITS standard 4.0): the numbers, and the header that comes back with them."""

import math
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from utils.arrays.refused import RefusedError

MAGIC = b"SIMPLE  ="
_BLOCK, _CARD = 2880, 80
_OFF = 2**15
_MAX_BLOCKS, _MAX_UNITS = 2**12, 2**8
_TYPES = {8: "u1", 16: ">i2", 32: ">i4", 64: ">i8", -32: ">f4", -64: ">f8"}
_OURS = ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "NAXIS1", "NAXIS2", "NAXIS3", "BSCALE", "BZERO", "BLANK")
_OURS += ("EXTEND", "PCOUNT", "GCOUNT", "CHECKSUM", "DATASUM", "EXTNAME", "END")
"""Keywords that are written anew, or say what is not true of the result."""


@dataclass(frozen=True)
class Fits:
    """What the header of a picture says."""

    shape: tuple[int, ...]
    """[H, W] or [C, H, W]."""
    raw: np.dtype
    """Of the numbers as stored."""
    scale: float
    zero: float
    cards: bytes
    """Of the header, those that are kept."""

    @property
    def dtype(self) -> np.dtype:
        """Of what they stand for: float32 where that holds each of them, else float64."""
        most = 2 if self.raw.kind == "i" else 4
        return np.dtype(np.float64 if self.raw.itemsize > most else np.float32)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.shape[-1], self.shape[-2]

    @property
    def channels(self) -> int:
        return self.shape[0] if len(self.shape) == 3 else 1


def read_head(file: BinaryIO) -> Fits | None:
    """Read the header of the first picture of a file, and leave it at its numbers; None where it is no FITS.

    Raises:
        RefusedError: It holds no picture, or one that is packed.
        ValueError: It is broken.
    """
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        return None
    file.seek(0)
    for _ in range(_MAX_UNITS):
        cards = _read_cards(file)
        said = {card[:8].decode("ascii", "replace").rstrip(): card[9:] for card in cards if card[8:9] == b"="}
        try:
            bits, num_axes = _whole(said, "BITPIX"), _whole(said, "NAXIS")
            if not 0 <= num_axes <= 999 or bits not in _TYPES:
                raise ValueError("no such numbers")
            axes = [_whole(said, f"NAXIS{i + 1}") for i in range(num_axes)]
            scale, zero = _number(said, "BSCALE", 1.0), _number(said, "BZERO", 0.0)
            behind = _whole(said, "PCOUNT", 0)
        except ValueError:
            raise ValueError("cannot be read, broken or truncated: its FITS header") from None
        if "ZIMAGE" in said:
            raise RefusedError("its picture is packed; unpack it first, as with funpack")
        if num_axes and b"TABLE" not in said.get("XTENSION", b"") and min(axes) > 0:
            return _picture(axes, np.dtype(_TYPES[bits]), scale, zero, cards)
        size = abs(bits) // 8 * (math.prod(axes) + behind) if num_axes else 0
        if size < 0 or size > 2**40:
            raise ValueError("cannot be read, broken or truncated: its FITS header")
        file.seek(-(-size // _BLOCK) * _BLOCK, 1)
    raise RefusedError("holds no picture in its first 256 units")


def _picture(axes: list[int], dtype: np.dtype, scale: float, zero: float, cards: list[bytes]) -> Fits:
    while len(axes) > 2 and axes[-1] == 1:
        axes = axes[:-1]
    shape = tuple(axes[::-1])
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[0] != 3):
        raise RefusedError(
            f"holds an array of shape {list(shape[:8])}; give [H, W], or [3, H, W] for colours"
        )
    kept = b"".join(card for card in cards if card[:8].decode("ascii", "replace").rstrip() not in _OURS)
    return Fits(shape, dtype, scale, zero, kept)


def _read_cards(file: BinaryIO) -> list[bytes]:
    cards: list[bytes] = []
    for _ in range(_MAX_BLOCKS):
        block = file.read(_BLOCK)
        if len(block) < _BLOCK:
            break
        for at in range(0, _BLOCK, _CARD):
            card = block[at : at + _CARD]
            if card[:8] == b"END     ":
                return cards
            cards.append(card)
    raise ValueError("cannot be read, broken or truncated: its FITS header has no end")


def _whole(said: dict[str, bytes], key: str, default: int | None = None) -> int:
    if key not in said and default is not None:
        return default
    return int(said.get(key, b"").partition(b"/")[0].strip())


def _number(said: dict[str, bytes], key: str, default: float) -> float:
    if key not in said:
        return default
    value = float(said[key].partition(b"/")[0].strip().upper().replace(b"D", b"E"))
    if not math.isfinite(value):
        raise ValueError("no such numbers")
    return value


def read(file: BinaryIO, head: Fits) -> np.ndarray:
    """Read the numbers behind a header: [H, W, C] from the top, as the first row of a file is the lowest.

    Whole numbers become the floating-point ones that they stand for, each exactly where BSCALE is 1.

    Raises:
        RefusedError: Truncated.
    """
    data = np.empty(head.shape, head.raw)
    flat = data.reshape(-1).view(np.uint8)
    if (found := file.readinto(memoryview(flat))) < flat.nbytes:
        raise RefusedError(f"truncated: has {found} of {flat.nbytes} bytes of numbers")
    data = data.astype(head.dtype)
    if (head.scale, head.zero) != (1, 0):
        data *= head.scale
        data += head.zero
    data = data[None] if data.ndim == 2 else data
    return np.ascontiguousarray(data.transpose(1, 2, 0)[::-1])


def encode(pixels: np.ndarray, cards: bytes = b"") -> bytes:
    """Write a FITS file.

    Args:
        pixels: [H, W, C], C 1 or 3, from the top.
        cards: Of the header of the input, what `Fits` keeps.
    """
    data = pixels[::-1].transpose(2, 0, 1)
    data = data[0] if len(data) == 1 else data
    is_word = data.dtype == np.uint16  # which FITS has only as signed ones and what they are off by
    data = (data ^ np.uint16(_OFF)).astype(">u2") if is_word else data
    kind = data.dtype.kind + str(data.dtype.itemsize)
    data = data.astype({"u1": "u1", "u2": ">u2", "f8": ">f8"}.get(kind, ">f4"))
    bits = 8 * data.dtype.itemsize * (-1 if data.dtype.kind == "f" else 1)
    said = {"BITPIX": bits, "NAXIS": data.ndim}
    said |= {f"NAXIS{i + 1}": size for i, size in enumerate(data.shape[::-1])}
    said |= {"BZERO": _OFF, "BSCALE": 1} if is_word else {}
    head = f"SIMPLE  = {'T':>20}".ljust(_CARD)
    head += "".join(f"{key:<8}= {value:>20}".ljust(_CARD) for key, value in said.items())
    return b"".join(
        [_filled(head.encode() + cards + b"END".ljust(_CARD), b" "), _filled(data.tobytes(), b"\0")]
    )


def _filled(data: bytes, by: bytes) -> bytes:
    return data + by * (-len(data) % _BLOCK)
