"""Files of tensors: nothing in them is run, and no tensor is read before it is wanted."""

import json
import mmap
import pickle
import re
import warnings
import zipfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from utils.quote import plain

_FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
_LARGEST_INDEX = 64 * 2**20  # bytes of a pickle; that of a thousand tensors takes 0.2 MB
_MAPPED_FROM = 2**20  # bytes; less is copied, for each mapping holds a file open: 186 of the largest network
_ALLOWED = "weights are float16, bfloat16, float32 or float64: save them as one of these"
_AGAIN = "not a checkpoint of torch.save, or a truncated one; fetch it again"

_OTHER_FORMATS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run `git lfs pull` beside it"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow; convert it to .safetensors in the program it is from"),
    (b"GGUF", "a GGUF file of quantized weights; give the weights that it was made from"),
    (b"\x93NUMPY", "a NumPy array; save the network's state dict as .safetensors"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and give the file inside"),
    (b"Rar!", "a RAR archive; unpack it and give the file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and give the file inside"),
    (b"\x89PNG", "a picture; give a checkpoint"),
    (b"\xff\xd8\xff", "a picture; give a checkpoint"),
    (b"{", "a JSON text instead of weights; where it is a config.json, give the folder that it lies in"),
)
_KINDS_NOT_READ = {
    b"torch._utils\n_rebuild_sparse_tensor\n": "sparse tensors",
    b"torch._utils\n_rebuild_sparse_csr_tensor\n": "sparse tensors",
    b"torch._utils\n_rebuild_qtensor\n": "quantized tensors",
    b"torch._utils\n_rebuild_nested_tensor\n": "nested tensors",
    b"torch._utils\n_rebuild_meta_tensor_no_storage\n": "tensors of the meta device, which have no values",
    b"torch._utils\n_rebuild_wrapper_subclass\n": "tensors of a class of their own",
    b"torch._tensor\n_rebuild_from_type_v2\n": "tensors of a class of their own",
}


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


@dataclass(frozen=True)
class _Described:
    """A tensor of a safetensors file, as its header describes it."""

    dtype: str
    shape: torch.Size
    start: int
    """Of its bytes in the file."""


def is_tensor(value: Any) -> bool:
    """Whether a value of a content stands for a tensor."""
    return isinstance(value, Tensor | _Described)


def open_tensors(path: Path) -> TensorFile:
    """Open a checkpoint of safetensors or torch.save, told by what is in it, whatever its name.

    A pickle is read by torch's restricted loader only, which builds tensors and plain containers.

    Args:
        path: The file.

    Raises:
        ValueError: It is empty, broken, of another format, or holds more than tensors and plain values.
        OSError: It cannot be opened.
    """
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path}: the file is empty; download it again")
    if _is_safetensors(head) or path.suffix == ".safetensors":
        _refuse_other_formats(path, b"" if _is_safetensors(head) else head)
        return _open_safetensors(path)
    _refuse_other_formats(path, head)
    if head.startswith(b"PK\x03\x04"):
        return _open_zip(path)
    if head[257:262] == b"ustar":
        raise ValueError(f"{path}: a tar archive; unpack it and give the file inside")
    return TensorFile(_load(path, map_location="cpu"), partial(_store_loaded, path))


def _is_safetensors(head: bytes) -> bool:
    return head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def _refuse_other_formats(path: Path, head: bytes) -> None:
    if head.lstrip()[:1] == b"<":
        raise ValueError(f"{path}: a web page instead of weights, the download failed; fetch it again")
    for magic, what in _OTHER_FORMATS:
        if head.startswith(magic):
            raise ValueError(f"{path}: {what}")


def _open_safetensors(path: Path) -> TensorFile:
    try:
        with safe_open(path, framework="pt"):  # it checks the header: sizes, overlaps, the file's length
            pass
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
    except (SafetensorError, ValueError, RecursionError) as error:
        raise ValueError(f"{path}: broken or truncated safetensors file ({plain(error)})") from None
    header.pop("__metadata__", None)
    content = {
        name: _Described(facts["dtype"], torch.Size(facts["shape"]), 8 + length + facts["data_offsets"][0])
        for name, facts in header.items()
    }
    return TensorFile(content, partial(_store_described, path))


def _store_described(path: Path, name: str, tensor: _Described) -> Stored:
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"{path}: {name} is of type {tensor.dtype}; {_ALLOWED}")
    strides = torch.empty(tensor.shape, device="meta").stride()
    dtype, shape = _FLOATS[tensor.dtype], tensor.shape
    return Stored(shape, partial(_read, path, tensor.start, dtype, shape, strides))


def _open_zip(path: Path) -> TensorFile:
    records = _check_zip(path)
    # On the meta device a tensor is its shape and, since torch 2.11, its place in the file.
    return TensorFile(_load(path, map_location="meta"), partial(_store_placed, path, records))


def _check_zip(path: Path) -> dict[int, int]:
    """Return the size of every record by its place in the file, both in bytes."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            names = [entry.filename for entry in entries]
            indices = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
            _check_entries(path, entries, names, indices)
            index = archive.read(indices[0])
            records = {_start(path, entry): entry.file_size for entry in entries}
            order = [archive.read(name) for name in names if name.split("/")[1:] == ["byteorder"]]
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, UnicodeDecodeError):
        raise ValueError(f"{path}: {_AGAIN}") from None
    if order and order[0] != b"little":
        raise ValueError(f"{path}: written on a big-endian machine; save it as .safetensors there")
    for function, kind in _KINDS_NOT_READ.items():
        if function in index:
            raise ValueError(f"{path}: holds {kind}; save the network's plain, dense tensors")
    return records


def _start(path: Path, entry: zipfile.ZipInfo) -> int:
    """Return where the content of an entry begins: after its own header, name and padding."""
    with path.open("rb") as file:
        file.seek(entry.header_offset + 26)
        lengths = file.read(4)
    return (
        entry.header_offset
        + 30
        + int.from_bytes(lengths[:2], "little")
        + int.from_bytes(lengths[2:], "little")
    )


def _check_entries(path: Path, entries: list[zipfile.ZipInfo], names: list[str], indices: list) -> None:
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise ValueError(f"{path}: a TorchScript program, which could run code; give its state dict")
    if any(name.endswith(".npy") for name in names):
        raise ValueError(f"{path}: an archive of NumPy arrays; save the state dict as .safetensors")
    if len(indices) != 1:
        raise ValueError(
            f"{path}: a zip archive, but not of torch.save; where it holds a checkpoint, unpack it"
        )
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError(
            f"{path}: a checkpoint that was zipped a second time; give it as torch.save wrote it"
        )
    if len(set(names)) < len(names):
        raise ValueError(f"{path}: holds two entries of one name, so it was tampered with; fetch it again")
    if indices[0].file_size > _LARGEST_INDEX:
        raise ValueError(f"{path}: describes its tensors in {indices[0].file_size} bytes; no checkpoint does")


def _load(path: Path, map_location: str) -> Any:
    # The texts of torch's own errors and warnings advise an unsafe load, so none of them is passed on.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)|type ([\w.]+) that", str(error))
        if not blocked and "Unsupported operand" in str(error):
            raise ValueError(
                f"{path}: damaged, or pickled otherwise than torch.save does by default; fetch it again, or "
                "save it as .safetensors"
            ) from None
        if not blocked:
            raise ValueError(f"{path}: {_AGAIN}") from None
        raise ValueError(
            f"{path}: besides tensors it holds {blocked[1] or blocked[2]}, which could run code, so it is "
            "not loaded; where you trust its source, save its state dict as .safetensors in the program that "
            "it is from"
        ) from None
    except Exception:  # a broken pickle can raise anything
        raise ValueError(f"{path}: {_AGAIN}") from None


def _store_placed(path: Path, records: dict[int, int], name: str, tensor: Tensor) -> Stored:
    _check_kind(path, name, tensor)
    start = getattr(tensor.untyped_storage(), "_checkpoint_offset", None)
    if start is None:
        raise ValueError(f"{path}: {name} has no values in this file; save it from the device that it was on")
    item, held = tensor.element_size(), tensor.untyped_storage().nbytes()
    first, strides = tensor.storage_offset(), tensor.stride()
    end = first + _span(tensor)
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
    if _span(tensor) < tensor.numel():
        raise ValueError(
            f"{path}: {name} claims {tensor.numel()} numbers and stores {_span(tensor)}, repeated by a "
            "stride of 0; save it after .contiguous()"
        )


def _span(tensor: Tensor) -> int:
    """Return how many numbers lie from the first to the last of a tensor, both included."""
    if tensor.numel() == 0:
        return 0
    pairs = zip(tensor.shape, tensor.stride(), strict=True)
    return 1 + sum((size - 1) * stride for size, stride in pairs)


def _read(path: Path, start: int, dtype: torch.dtype, shape: torch.Size, strides: tuple[int, ...]) -> Tensor:
    count = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
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
