"""Arrays of numbers in .npy files, as pictures and back."""

import io
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from utils.arrays.refused import RefusedError

MAGIC = b"\x93NUMPY"
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_KINDS = ("u1", "u2", "u4", "i1", "i2", "i4", "f2", "f4", "f8")


@dataclass(frozen=True)
class Npy:
    """What the header of a file says of its numbers."""

    shape: tuple[int, ...]
    fortran: bool
    """Columns first."""
    dtype: np.dtype
    """As stored."""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.shape[1], self.shape[0]

    @property
    def channels(self) -> int:
        return self.shape[2] if len(self.shape) == 3 else 1


def read_head(file: BinaryIO) -> Npy | None:
    """Read the header of a file, and leave it at its numbers; None where it is no .npy file.

    Raises:
        RefusedError: It holds no picture.
    """
    file.seek(0)
    if file.read(len(MAGIC)) != MAGIC:
        return None
    file.seek(0)
    try:
        version = np.lib.format.read_magic(file)
        if version not in _HEADERS:
            raise RefusedError(f"is a .npy file of version {version[0]}.{version[1]}; save it again as 1.0")
        found = Npy(*_HEADERS[version](file))
    except RefusedError:
        raise
    except Exception as error:  # numpy reports what is broken in several kinds
        raise ValueError("cannot be read, broken or truncated: its header is no header of numpy's") from error
    if found.dtype.kind + str(found.dtype.itemsize) not in _KINDS:
        raise RefusedError(
            f"holds values of type {found.dtype}; save whole numbers of up to 32 bits, or float16, 32 or 64"
        )
    if len(found.shape) not in (2, 3) or (len(found.shape) == 3 and found.shape[2] not in (1, 3)):
        raise RefusedError(
            f"holds an array of shape {list(found.shape[:8])}; give [H, W], [H, W, 1] or [H, W, 3]"
        )
    if min(found.shape) < 1:
        raise RefusedError(f"holds an array of shape {list(found.shape)}, without a pixel")
    return found


def read(file: BinaryIO, head: Npy) -> np.ndarray:
    """Read the numbers behind a header: [H, W, C], in the machine's order of bytes.

    Raises:
        RefusedError: Truncated.
    """
    data = np.empty(head.shape, head.dtype, "F" if head.fortran else "C")
    flat = data.reshape(-1, order="A").view(np.uint8)
    if (found := file.readinto(memoryview(flat))) < flat.nbytes:
        raise RefusedError(f"truncated: has {found} of {flat.nbytes} bytes of numbers")
    native = head.dtype.newbyteorder("=")
    return np.ascontiguousarray(data, native).reshape(*head.shape[:2], head.channels)


def encode(pixels: np.ndarray) -> bytes:
    """Write an array: [H, W, C] as it is, that of one channel as [H, W]."""
    buffer = io.BytesIO()
    np.save(buffer, pixels[..., 0] if pixels.shape[2] == 1 else pixels, allow_pickle=False)
    return buffer.getvalue()
