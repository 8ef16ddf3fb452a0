"""Files of weights told by their content, and checked as far as can be without reading a tensor."""

import json
import math
import mmap
import os
import stat
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

from utils.quote import plain
from utils.sources.edm_pickle import has_objects, read_objects
from utils.sources.numpy_arrays import has_arrays, read_arrays
from utils.sources.pickle_check import check_pickle

_LARGEST_INDEX = 64 * 2**20  # bytes of a pickle; that of a thousand tensors takes 0.2 MB
_LARGEST_HEADER = 32 * 2**20  # bytes of JSON; that of a thousand tensors takes 0.1 MB
_MOST_NUMBERS, _MOST_DIMENSIONS = 2**48, 64  # of a tensor
_OLD_PICKLES = 5  # of the format before 2020: a magic number, a version, a system, the content, the storages
_AGAIN = "not a checkpoint of torch.save, or a truncated one; fetch it again"
_BROKEN_HEADER = "broken or truncated safetensors file"

_OTHER_FORMATS = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the weights; run `git lfs pull` beside it"),
    (b"\x89HDF", "an HDF5 file of Keras or TensorFlow; convert it to .safetensors in the program it is from"),
    (b"GGUF", "a GGUF file of quantized weights; give the weights that it was made from"),
    (b"\x1f\x8b", "a gzip archive; unpack it and give the file inside"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive; unpack it and give the file inside"),
    (b"Rar!", "a RAR archive; unpack it and give the file inside"),
    (b"\xfd7zXZ", "an xz archive; unpack it and give the file inside"),
    (b"\x89PNG", "a picture; give a checkpoint"),
    (b"\xff\xd8\xff", "a picture; give a checkpoint"),
    (b"{", "a JSON text instead of weights; where it is a config.json, give the folder that it lies in"),
)

Header = dict[str, tuple[str, tuple[int, ...], int]]
"""Type, shape and place of each tensor of a safetensors file, by name."""


def check_regular(path: Path) -> None:
    """Refuse what is no file, before it is opened: a pipe would be waited for without end.

    Raises:
        ValueError: It is a pipe, a device, a socket or a folder.
        OSError: It is not there.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise ValueError(f"{path}: a {_kind_of(path)}, not a file; give a file of weights")


def _kind_of(path: Path) -> str:
    kinds = {stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket", stat.S_IFDIR: "folder"}
    return kinds.get(stat.S_IFMT(path.stat().st_mode), "device")


def refuse_start(head: bytes, is_safetensors: bool = False) -> None:
    """Refuse what the first bytes of a file show to be something else than weights.

    Args:
        head: Up to 512 bytes.
        is_safetensors: Whether the file's name says so.

    Raises:
        ValueError: It is of another format; the message says which, without the file's name.
    """
    if not head:
        raise ValueError("the file is empty; download it again")
    if has_header(head) or has_arrays(head):
        return
    if head.lstrip()[:1] == b"<":
        raise ValueError("a web page instead of weights, the download failed; fetch it again")
    for magic, what in _OTHER_FORMATS:
        if head.startswith(magic):
            raise ValueError(what)
    if head[257:262] == b"ustar":
        raise ValueError("a tar archive; unpack it and give the file inside")
    if not is_safetensors and not (head.startswith((b"PK\x03\x04", b"\x80\x02")) or has_objects(head)):
        raise ValueError(_AGAIN)


def has_header(head: bytes) -> bool:
    """Whether a file begins as safetensors do."""
    return head[8:9] == b"{" and head[5:8] == b"\0\0\0"


def check_whole(path: Path) -> None:
    """Refuse a file that is not all of a file of weights, whatever its name.

    Raises:
        ValueError: It is none, or is cut off; the message says what, without the file's name.
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        head = file.read(512)
        refuse_start(head)
        if has_header(head):
            read_header(file)
        elif has_arrays(head):
            read_arrays(file)
        elif has_objects(head):
            read_objects(file)
        else:
            check_saved(file)


def read_header(file: BinaryIO) -> Header:
    """Read what a safetensors file says of its tensors, all of which must be there.

    Raises:
        ValueError: The header is broken, or the file is longer or shorter than it says.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(size - 8, _LARGEST_HEADER):
        raise ValueError(f"{_BROKEN_HEADER} (a header of {length} bytes)")
    try:
        facts = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{_BROKEN_HEADER} ({plain(error)})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{_BROKEN_HEADER} (no list of tensors)")
    facts.pop("__metadata__", None)
    header = {name: _read_tensor(name, told, 8 + length) for name, told in facts.items()}
    ends = [told["data_offsets"][1] for told in facts.values()]
    if max(ends, default=0) != size - 8 - length:
        raise ValueError(f"{_BROKEN_HEADER} ({size} bytes)")
    return header


def _read_tensor(name: str, told: Any, start: int) -> tuple[str, tuple[int, ...], int]:
    try:
        dtype, shape, (first, last) = told["dtype"], told["shape"], told["data_offsets"]
        numbers = [*shape, first, last]
        sound = isinstance(dtype, str) and all(type(n) is int and n >= 0 for n in numbers) and first <= last
        # also beside a 0: whatever the tensor holds, its strides are products of these
        sound = sound and len(shape) <= _MOST_DIMENSIONS
        sound = sound and math.prod(max(n, 1) for n in shape) <= _MOST_NUMBERS
    except (KeyError, TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(f"{_BROKEN_HEADER} ({plain(name, 60)} is described wrongly)")
    return dtype, tuple(shape), start + first


def check_saved(file: BinaryIO) -> dict[int, int]:
    """Check a file of torch.save: that it is whole, and that it holds tensors and plain containers alone.

    Args:
        file: In either of torch's formats.

    Returns:
        Of an archive the size of every record by its place, both in bytes.

    Raises:
        ValueError: It is broken, cut off, or holds what is not read.
    """
    file.seek(0)
    if file.read(4) == b"PK\x03\x04":
        return _check_archive(file)
    _check_old(file)
    return {}


def _check_old(file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ValueError("the file is empty; download it again")
    held, end = {}, 0
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        for _ in range(_OLD_PICKLES):
            checked = check_pickle(data, end, _LARGEST_INDEX)
            held, end = held | checked.storages, checked.end
    if sum(held.values()) + 8 * len(held) > size - end:  # a count stands before the numbers of each
        raise ValueError(_AGAIN)


def _check_archive(file: BinaryIO) -> dict[int, int]:
    size = os.fstat(file.fileno()).st_size
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            _check_entries(entries, size)
            names = {entry.filename.split("/", 1)[-1]: entry for entry in entries}
            index = archive.read(names["data.pkl"])
            order = archive.read(names["byteorder"])[:9] if "byteorder" in names else b"little"
            records = {_start(file, entry): entry.file_size for entry in entries}
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, UnicodeDecodeError):
        raise ValueError(_AGAIN) from None
    if order != b"little":
        raise ValueError("written on a big-endian machine; save it as .safetensors there")
    if sum(check_pickle(index).storages.values()) > size:
        raise ValueError(_AGAIN)
    return records


def _check_entries(entries: Sequence[zipfile.ZipInfo], size: int) -> None:
    names = [entry.filename for entry in entries]
    indices = [entry for entry in entries if entry.filename.split("/")[1:] == ["data.pkl"]]
    if any("/code/" in name or name.endswith("/constants.pkl") for name in names):
        raise ValueError("a TorchScript program, which could run code; give its state dict")
    if any(name.endswith(".npy") for name in names):
        raise ValueError("an archive of NumPy arrays; save the state dict as .safetensors")
    if len(indices) != 1:
        raise ValueError("a zip archive, but not of torch.save; where it holds a checkpoint, unpack it")
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("a checkpoint that was zipped a second time; give it as torch.save wrote it")
    if len(set(names)) < len(names) or sum(entry.file_size for entry in entries) > size:
        raise ValueError("holds two entries of one name or place, so it was tampered with; fetch it again")
    if indices[0].file_size > _LARGEST_INDEX:
        raise ValueError(f"describes its tensors in {indices[0].file_size} bytes; no checkpoint does")


def _start(file: BinaryIO, entry: zipfile.ZipInfo) -> int:
    """Return where the content of an entry begins: after its own header, name and padding."""
    file.seek(entry.header_offset + 26)
    lengths = file.read(4)
    name, more = int.from_bytes(lengths[:2], "little"), int.from_bytes(lengths[2:], "little")
    return entry.header_offset + 30 + name + more
