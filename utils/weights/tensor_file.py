"""Files of tensors: nothing in them is run, and no tensor is read before it is wanted."""

import mmap
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils import sources
from utils.quote import plain
from utils.weights import edm_networks, equinox

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_MAPPED_FROM = 2**20  # bytes; less is copied, for each mapping holds a file open: 186 of the largest network
_ALLOWED = "weights are float16, bfloat16, float32 or float64: save them as one of these"
_LOADING = threading.Lock()
"""Held where warnings are switched off, which threads cannot do at one time."""


@dataclass(frozen=True)
class Stored:
    """A tensor in a file."""

    shape: torch.Size
    read: Callable[[], Tensor]
    """Returns it on the CPU in float32; large ones share the memory of the file until they are changed."""


@dataclass(frozen=True)
class TensorFile:
    """A file that was opened."""

    content: Any
    """What was saved: dicts, lists and numbers as they are; tensors as whatever `store` takes."""
    store: Callable[[str, Any], Stored]
    """Describes one tensor of the content, named for messages.

    Raises ValueError where it is of a kind that is not read, or is not all there.
    """
    made_by: str | None = None
    """Class of the network in a pickle of NVlabs, whose tensors do not tell what surrounds it."""


@dataclass(frozen=True)
class _Described:
    """A tensor of safetensors or of a pickle of objects, as the file describes it."""

    dtype: str
    """As safetensors calls it."""
    shape: torch.Size
    strides: tuple[int, ...]
    start: int
    """Of its bytes in the file."""


def is_tensor(value: Any) -> bool:
    """Whether a value of a content stands for a tensor."""
    return isinstance(value, Tensor | _Described | Stored)


def open_tensors(path: Path) -> TensorFile:
    """Open a checkpoint of safetensors, torch.save, equinox or NVlabs/edm, told by what is in it.

    Args:
        path: The file.

    Raises:
        ValueError: It is empty, broken, of another format, or holds more than tensors and plain values.
        OSError: It cannot be opened.
    """
    sources.check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            sources.refuse_start(head, path.suffix == ".safetensors")
            if sources.has_header(head) or path.suffix == ".safetensors":
                return TensorFile(_read_header(path, file), partial(_store_described, path))
            if sources.has_arrays(head):
                return TensorFile(_read_arrays(path, file), lambda name, stored: stored)
            if sources.has_objects(head):
                objects = sources.read_objects(file)
                made_by = objects["ema"].class_name if "ema" in objects else None
                return TensorFile(_networks_of(objects), partial(_store_described, path), made_by)
            is_archive = head.startswith(b"PK")
            # On the meta device a tensor is its shape and, since torch 2.11, its place in the file.
            content, records = _load(file, "meta" if is_archive else "cpu")
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return TensorFile(
        content, partial(_store_placed, path, records) if is_archive else partial(_store_loaded, path)
    )


def load_tensors(file: BinaryIO) -> Any:
    """Return what torch.save wrote, read at once: tensors and plain containers, or nothing.

    Raises:
        ValueError: It is broken or holds anything else; the message says what, without the file's name.
    """
    return _load(file, "cpu")[0]


def _read_header(path: Path, file: BinaryIO) -> dict[str, _Described]:
    header = sources.read_header(file)
    try:
        with safe_open(path, framework="pt"):  # it checks the header once more: overlaps, types
            pass
    except (SafetensorError, ValueError, OverflowError) as error:
        raise ValueError(f"broken or truncated safetensors file ({plain(error)})") from None
    return {
        name: _Described(dtype, torch.Size(shape), torch.empty(shape, device="meta").stride(), start)
        for name, (dtype, shape, start) in header.items()
    }


def _networks_of(objects: dict[str, sources.Record]) -> dict[str, dict[str, _Described]]:
    states = edm_networks.states_of(objects)
    return {
        where: {
            key: _Described(placed.dtype, torch.Size(placed.shape), placed.strides, placed.start)
            for key, placed in state.items()
        }
        for where, state in states.items()
    }


def _read_arrays(path: Path, file: BinaryIO) -> dict[str, Stored]:
    def read(array: sources.Array) -> Tensor:
        return _read(path, array.start, _FLOATS[array.dtype], torch.Size(array.shape), array.strides)

    published = equinox.to_published(sources.read_arrays(file), read)
    return {key: Stored(*described) for key, described in published.items()}


def _load(file: BinaryIO, device: str) -> tuple[Any, dict[int, int]]:
    """Load what was checked; return also the sizes of an archive's records by their places."""
    records = sources.check_saved(file)
    file.seek(0)
    try:
        with _LOADING, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(file, map_location=device, weights_only=True), records
    except Exception:  # torch raises many kinds for a broken file, whose texts advise an unsafe load
        raise ValueError("not a checkpoint of torch.save, or a truncated one; fetch it again") from None


def _store_described(path: Path, name: str, tensor: _Described) -> Stored:
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"{path}: {name} is of type {tensor.dtype}; {_ALLOWED}")
    _check_span(path, name, tensor.shape, tensor.strides)
    dtype, shape = _FLOATS[tensor.dtype], tensor.shape
    return Stored(shape, partial(_read, path, tensor.start, dtype, shape, tensor.strides))


def _store_placed(path: Path, records: dict[int, int], name: str, tensor: Tensor) -> Stored:
    _check_kind(path, name, tensor)
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None:
        raise ValueError(f"{path}: {name} has no values in this file; save it from the device that it was on")
    item, held = tensor.element_size(), tensor.untyped_storage().nbytes()
    first, strides = tensor.storage_offset(), tensor.stride()
    end = first + _span(tensor.shape, strides)
    inside = end * item <= held <= records.get(start, -1) and start + held <= path.stat().st_size
    if min(first, *strides, 0) < 0 or not inside:
        raise ValueError(f"{path}: {name} is not all there, the file is broken or truncated; fetch it again")
    return Stored(
        tensor.shape, partial(_read, path, start + first * item, tensor.dtype, tensor.shape, strides)
    )


def _store_loaded(path: Path, name: str, tensor: Tensor) -> Stored:
    _check_kind(path, name, tensor)
    if tensor.is_meta:
        raise ValueError(f"{path}: {name} has no values in this file; save it from the device that it was on")
    return Stored(tensor.shape, lambda: tensor.detach().float())


def _check_kind(path: Path, name: str, tensor: Tensor) -> None:
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested:
        raise ValueError(f"{path}: {name} is sparse, nested or quantized; save the network's plain tensors")
    if tensor.is_neg() or tensor.is_conj():
        raise ValueError(f"{path}: {name} is stored as its negative; save it after .resolve_neg()")
    if tensor.dtype not in _FLOATS.values():
        raise ValueError(f"{path}: {name} is of type {str(tensor.dtype)[6:]}; {_ALLOWED}")
    _check_span(path, name, tensor.shape, tensor.stride())


def _check_span(path: Path, name: str, shape: torch.Size, strides: tuple[int, ...]) -> None:
    stored = _span(shape, strides)
    if stored < shape.numel():
        raise ValueError(
            f"{path}: {name} claims {shape.numel()} numbers and stores {stored}, repeated by a stride of 0; "
            "save it after .contiguous()"
        )


def _span(shape: torch.Size, strides: tuple[int, ...]) -> int:
    """Return how many numbers lie from the first to the last of a tensor, both included."""
    if 0 in shape:
        return 0
    return 1 + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))


def _read(path: Path, start: int, dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    count = _span(shape, strides)
    if count == 0:
        return torch.empty(shape)
    data, skip = _bytes(path, start, count * dtype.itemsize, start % dtype.itemsize == 0)
    return torch.frombuffer(data, dtype=dtype, count=count, offset=skip).as_strided(shape, strides).float()


def _bytes(path: Path, start: int, size: int, is_aligned: bool) -> tuple[mmap.mmap | bytearray, int]:
    """Return bytes of a file, and where in them those that were asked for begin."""
    with path.open("rb") as file:
        if size >= _MAPPED_FROM and is_aligned:
            skip = start % mmap.ALLOCATIONGRANULARITY
            with suppress(OSError):  # of too many open files, of which each mapping is one
                # one for each tensor, so that its memory is free as soon as a network has copied it
                length, offset = size + skip, start - skip
                return mmap.mmap(file.fileno(), length, offset=offset, access=mmap.ACCESS_COPY), skip
        file.seek(start)
        return bytearray(file.read(size)), 0
