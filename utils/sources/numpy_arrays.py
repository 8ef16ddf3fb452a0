"""Files of NumPy arrays one after another, as equinox saves a network: described, and none of them read."""

import math
import os
import re
from dataclasses import dataclass
from typing import BinaryIO

from utils.quote import plain

_MAGIC = b"\x93NUMPY"
_LENGTH_SIZES = {b"\1\0": 2, b"\2\0": 4}  # bytes that tell a header's length, by version
_LONGEST_HEADER, _MOST_ARRAYS = 10_000, 4_000
_MOST_NUMBERS, _MOST_DIMENSIONS = 2**48, 64  # of an array
_TYPES = {"<f2": "F16", "<f4": "F32", "<f8": "F64"}
_HEADER = re.compile(
    r"\{'descr': '([^'\\]{1,20})', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d{1,15}, ?)*(?:\d{1,15})?)\), ?\} *\n"
)
"""What NumPy writes; of records and their like the type is a list, which this does not match."""
_BROKEN = "a broken or truncated file of NumPy arrays; fetch it again"


@dataclass(frozen=True)
class Array:
    """One array of a file."""

    dtype: str
    """F16, F32 or F64, as safetensors call them."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    """In numbers, not in bytes."""
    start: int
    """Of its bytes in the file."""


def has_arrays(head: bytes) -> bool:
    """Whether a file begins as an array of NumPy does."""
    return head.startswith(_MAGIC)


def read_arrays(file: BinaryIO) -> list[Array]:
    """Read what a file says of its arrays, all of which must be there and nothing else.

    Raises:
        ValueError: It is broken or cut off, holds a single array, or some of another type than little-endian
            floats; the message says which, without the file's name.
    """
    size, end, arrays = os.fstat(file.fileno()).st_size, 0, []
    while end < size or not arrays:
        if len(arrays) == _MOST_ARRAYS:
            raise ValueError(f"holds more than {_MOST_ARRAYS} NumPy arrays; no network has so many")
        file.seek(end)
        array = _read_array(file, len(arrays))
        end = array.start + math.prod(array.shape) * int(array.dtype[1:]) // 8
        if end > size:
            raise ValueError(_BROKEN)
        arrays.append(array)
    if len(arrays) == 1:
        raise ValueError("a NumPy array; save the network's state dict as .safetensors")
    return arrays


def _read_array(file: BinaryIO, index: int) -> Array:
    """Read the header of an array, which the file stands before."""
    magic, version = file.read(len(_MAGIC)), file.read(2)
    if magic != _MAGIC:
        raise ValueError(_BROKEN)
    if version not in _LENGTH_SIZES:
        raise ValueError(f"array {index} is of version {list(version)} of NumPy's format; 1 and 2 are read")
    length = int.from_bytes(file.read(_LENGTH_SIZES[version]), "little")
    text = file.read(min(length, _LONGEST_HEADER)).decode("latin-1")
    found = _HEADER.fullmatch(text)
    if len(text) < length or not found:
        raise ValueError(f"array {index} is described wrongly: {_BROKEN}")
    kind, is_fortran, dims = found.groups()
    if kind not in _TYPES:
        what = "Python objects, which could run code" if "O" in kind else f"of type {plain(kind)}"
        raise ValueError(f"array {index} is {what}; weights are little-endian floats (<f2, <f4, <f8)")
    shape = tuple(int(number) for number in re.findall(r"\d+", dims))
    if len(shape) > _MOST_DIMENSIONS or math.prod(max(n, 1) for n in shape) > _MOST_NUMBERS:
        raise ValueError(f"array {index} is described wrongly: {_BROKEN}")
    return Array(_TYPES[kind], shape, _strides(shape, is_fortran == "True"), file.tell())


def _strides(shape: tuple[int, ...], is_fortran: bool) -> tuple[int, ...]:
    if is_fortran:
        return _strides(shape[::-1], False)[::-1]
    return tuple(math.prod(max(n, 1) for n in shape[i + 1 :]) for i in range(len(shape)))
