"""Pickles of NVlabs/edm and edm2: networks as Python objects, with the source text that unpickling would run.

The pickle is followed opcode by opcode. What it names is compared with a table and never looked up; objects
become records of what they held, their source text is passed over unread, and a tensor is its place in the
file. So neither Python's pickle nor torch ever sees such a file.
"""

import mmap
import os
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

from utils.quote import plain
from utils.sources.opcodes import Walk, refusal, table
from utils.sources.pickle_check import STORAGES, check_pickle, check_view

_STARTS = (b"\x80\3", b"\x80\4", b"\x80\5")  # torch.save writes protocol 2
_VERSION = 6  # of torch_utils.persistence, in all of edm and edm2
_LARGEST_HEAD = 512  # bytes before the numbers of a storage; they are 244
_MOST_STORAGES = 4_000  # the largest network has 541
_LONGEST_TEXT = 1_000  # bytes of one that is read; source texts take some ten thousand
_MOST_TEXT = 2**24  # bytes of all that are read; names and settings take some thousand
_STORAGE_START = b"\x80\2\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\2M\xe9\3."  # torch's magic number and version

_TORN = "a damaged or truncated pickle; fetch it again"
_OTHERWISE = (
    "a pickle with what those of NVlabs/edm and edm2 do not hold, or a damaged one; fetch it again, or save "
    "the network's state dict as .safetensors in the program that it is from"
)
_NONE = (
    "a pickle without a network of NVlabs/edm or edm2, and no other is read; save the network's state dict "
    "as .safetensors in the program that it is from"
)
_TOO_MANY = "holds more tensors than any network; no checkpoint does"
_TYPES = {"Double": "F64", "Float": "F32", "Half": "F16", "BFloat16": "BF16"}
_NUMBERS = {
    **{"f2": "e", "f4": "f", "f8": "d", "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q"},
    **{"u1": "B", "u2": "H", "u4": "I", "u8": "Q"},
}
"""Numpy's types of numbers, as struct calls them."""


@dataclass(frozen=True, slots=True)
class Placed:
    """A tensor, by its place in the file."""

    dtype: str
    """As safetensors calls it; or torch's name of a storage of something else."""
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    start: int
    """Of its first number, in bytes."""


@dataclass(eq=False, slots=True)
class Record:
    """An object of the file: the name of its class and what it held, nothing of which was run."""

    class_name: str
    state: dict[str, Any] | None = None

    @property
    def is_module(self) -> bool:
        """Whether it is a network, or a part of one."""
        return self.state is not None and {"_parameters", "_buffers", "_modules"} <= self.state.keys()


@dataclass(frozen=True, slots=True)
class _Name:
    module: str
    name: str


@dataclass(frozen=True, slots=True)
class _Bytes:
    start: int
    size: int


@dataclass(frozen=True, slots=True)
class _Storage:
    dtype: str
    item_size: int
    num_items: int
    start: int


@dataclass(eq=False, slots=True)
class _NumpyType:
    code: str
    order: Any = None


class _Unread:
    """Stands for an array or a long text."""


_UNREAD = _Unread()


def has_objects(head: bytes) -> bool:
    """Whether a file begins as pickles of objects do, which torch.save did not write."""
    return head.startswith(_STARTS)


def read_objects(file: BinaryIO) -> dict[str, Record]:
    """Return the objects that a pickle of NVlabs/edm or edm2 holds, by name; the network is "ema".

    Raises:
        ValueError: It is broken, names anything that such files do not, or holds no network; the message is
            without the file's name.
    """
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        raise ValueError(_TORN)
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        walk = _Walk(data, 0, size)
        walk.run()
        end, content = walk.at, walk.stack[-1] if walk.stack else None
    objects = content.items() if type(content) is dict else ()
    found = {name: value for name, value in objects if isinstance(value, Record)}
    if not any(record.is_module for record in found.values()):
        raise ValueError(_NONE)
    if end != size:
        raise ValueError(
            f"{size - end} bytes follow the end of its pickle, the file is damaged; fetch it again"
        )
    return found


class _Walk(Walk):
    """Follows one pickle of objects."""

    torn, otherwise, protocols = _TORN, _OTHERWISE, b"\3\4\5"

    def __init__(self, data: Sequence[int], start: int, stop: int):
        super().__init__(data, start, stop)
        self._storages: dict[int, _Storage] = {}
        self._num_letters = 0

    def line_name(self) -> None:
        self._name(self.line(), self.line())

    def stack_name(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self._name(module, name)

    def _name(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            raise ValueError(_TORN)
        if (module, name) not in _CALLS and (module, name) not in _MADE and (module, name) not in _NAMED:
            raise ValueError(refusal(f"{module}.{name}"))
        self.push(_Name(module, name))

    def call(self) -> None:
        self._apply(_CALLS)

    def make(self) -> None:
        self._apply(_MADE)

    def _apply(self, allowed: "dict[tuple[str, str], _Step]") -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        step, count = allowed.get((name.module, name.name), (None, 0))
        if step is None:
            raise ValueError(refusal(f"{name.module}.{name.name}"))
        if type(arguments) is not tuple or len(arguments) != count:
            raise ValueError(_TORN)
        self.push(step(self, *arguments))

    def build(self) -> None:
        state, built = self.stack.pop(), self.stack[-1]
        if isinstance(built, Record) and built.state is None and type(state) is dict:
            built.state = state
        elif isinstance(built, _NumpyType) and type(state) is tuple:
            built.order = state[1]
        elif built is not _UNREAD:
            raise ValueError(_OTHERWISE)

    def extend(self, held: Any, items: list[Any]) -> None:
        if type(held) is not list:
            raise ValueError(_TORN)
        held.extend(items)

    def update(self, held: Any, items: list[Any]) -> None:
        if type(held) is not dict or len(items) % 2:
            raise ValueError(_TORN)
        if not all(type(key) is str for key in items[::2]):
            raise ValueError("holds a dict whose keys are no plain texts, so it is not loaded")
        held.update(zip(items[::2], items[1::2], strict=True))

    def tuple_of(self, items: list[Any]) -> None:
        self.push(tuple(items))

    def text(self, form: str) -> None:
        size = self.number(form)
        if size > _LONGEST_TEXT:
            self._pass(size)
            self.push(_UNREAD)
            return
        self._num_letters += size
        if self._num_letters > _MOST_TEXT:
            raise ValueError("holds more text than any checkpoint does, so it is not loaded")
        self.push(str(self.take(size), "utf-8", "surrogatepass"))

    def bytes_of(self, form: str) -> None:
        size = self.number(form)
        self.push(_Bytes(self.at, size))
        self._pass(size)

    def _pass(self, size: int) -> None:
        if size > len(self.data) - self.at:
            raise ValueError(_TORN)
        self.at += size

    def memoize(self) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def storage(self, place: _Bytes) -> _Storage:
        """Return the storage of numbers that torch.save wrote into some bytes, looked at once."""
        if place.start not in self._storages:
            if len(self._storages) >= _MOST_STORAGES:
                raise ValueError(_TOO_MANY)
            self._storages[place.start] = _read_storage(self.data, place)
        return self._storages[place.start]


def _read_storage(data: Sequence[int], place: _Bytes) -> _Storage:
    """Check a file within the file: five pickles, of which the fourth is the storage; a count; numbers."""
    head = bytes(data[place.start : place.start + min(place.size, _LARGEST_HEAD)])
    if not head.startswith(_STORAGE_START):
        raise ValueError(_TORN)
    system = check_pickle(head, len(_STORAGE_START), _LARGEST_HEAD)
    content = check_pickle(head, system.end, _LARGEST_HEAD)
    end = check_pickle(head, content.end, _LARGEST_HEAD).end
    if content.alone is None:
        raise ValueError(_TORN)
    kind, count = content.alone
    held, size = struct.unpack("<q", head[end : end + 8])[0], STORAGES[kind]
    if (
        held != count
        or [*content.storages.values()] != [count * size]
        or end + 8 + count * size != place.size
    ):
        raise ValueError("a tensor in it is not all there, the file is broken or truncated; fetch it again")
    name = kind.removeprefix("torch.").removesuffix("Storage")
    return _Storage(_TYPES.get(name, name), size, count, place.start + end + 8)


def _persistent(walk: _Walk, meta: dict) -> Record:
    """Return an object of torch_utils.persistence, without its source text."""
    name, state, version = meta["class_name"], meta["state"], meta["version"]
    if meta["type"] != "class" or type(name) is not str or type(version) is not int:
        raise ValueError(_TORN)
    if version != _VERSION:
        raise ValueError(
            f"its objects are of version {plain(version, 40)} of torch_utils.persistence, and {_VERSION} is "
            "read; save its state dict as .safetensors in the program that it is from"
        )
    if type(state) not in (dict, type(None)):
        raise ValueError(_TORN)
    return Record(name, state or {})


def _parameter(walk: _Walk, tensor: Any, requires_grad: Any, hooks: Any) -> Placed:
    if not isinstance(tensor, Placed) or hooks != {}:
        raise ValueError(_TORN)
    return tensor


def _tensor(
    walk: _Walk, storage: Any, offset: Any, shape: Any, strides: Any, requires_grad: Any, hooks: Any
) -> Placed:
    are_numbers = type(shape) is type(strides) is tuple and all(
        type(n) is int for n in (offset, *shape, *strides)
    )
    if not isinstance(storage, _Storage) or not are_numbers or len(shape) != len(strides) or hooks != {}:
        raise ValueError(_TORN)
    check_view(storage.num_items, offset, shape, strides)
    return Placed(storage.dtype, shape, strides, storage.start + offset * storage.item_size)


def _storage(walk: _Walk, place: Any) -> _Storage:
    if not isinstance(place, _Bytes):
        raise ValueError(_TORN)
    return walk.storage(place)


def _set_of(walk: _Walk, items: Any) -> list:
    """Return a set, of which only a list of its items is made."""
    if type(items) is not list:
        raise ValueError(_TORN)
    return items


def _numpy_type(walk: _Walk, code: Any, is_aligned: Any, is_copied: Any) -> _NumpyType:
    if type(code) is not str:
        raise ValueError(_TORN)
    if code not in _NUMBERS:
        raise ValueError(
            f"holds values of numpy's type {plain(code, 20)}, which are no plain numbers, so it is not loaded"
        )
    return _NumpyType(code)


def _numpy_number(walk: _Walk, kind: Any, place: Any) -> int | float | bool:
    if not isinstance(kind, _NumpyType) or kind.order not in ("<", "|") or not isinstance(place, _Bytes):
        raise ValueError(_TORN)
    data = bytes(walk.data[place.start : place.start + min(place.size, 9)])
    return struct.unpack(f"<{_NUMBERS[kind.code]}", data)[0]


_Step = tuple[Callable[..., Any], int]
_NUMPY = ("numpy.core.multiarray", "numpy._core.multiarray")  # before numpy 2, and since
_CALLS: dict[tuple[str, str], _Step] = {
    ("torch_utils.persistence", "_reconstruct_persistent_obj"): (_persistent, 1),
    ("collections", "OrderedDict"): (lambda walk: {}, 0),
    ("builtins", "set"): (_set_of, 1),
    ("torch._utils", "_rebuild_parameter"): (_parameter, 3),
    ("torch._utils", "_rebuild_tensor_v2"): (_tensor, 6),
    ("torch.storage", "_load_from_bytes"): (_storage, 1),
    ("numpy", "dtype"): (_numpy_type, 3),
    **{(module, "scalar"): (_numpy_number, 2) for module in _NUMPY},
    **{(module, "_reconstruct"): (lambda walk, kind, shape, code: _UNREAD, 3) for module in _NUMPY},
}
"""What may be called, with what stands for its result and how many arguments it takes.

Each pair is compared as a whole.
"""
_MADE: dict[tuple[str, str], _Step] = {
    ("torch.nn.modules.container", "ModuleDict"): (lambda walk: Record("ModuleDict"), 0),
    ("dnnlib.util", "EasyDict"): (lambda walk: {}, 0),
}
"""Classes of which objects may be made."""
_NAMED = {("numpy", "ndarray")}
"""What may be named beside them: the kind of an array, which is passed over."""

_Walk.steps = table(
    {
        "c": _Walk.line_name,
        "\x93": _Walk.stack_name,
        "R": _Walk.call,
        "\x81": _Walk.make,
        "b": _Walk.build,
        "\x90": _Walk.appends,
        "]": lambda walk: walk.push([]),
        "\x8f": lambda walk: walk.push([]),
        "}": lambda walk: walk.push({}),
        "X": lambda walk: walk.text("<I"),
        "\x8c": lambda walk: walk.text("<B"),
        "B": lambda walk: walk.bytes_of("<I"),
        "C": lambda walk: walk.bytes_of("<B"),
        "\x8e": lambda walk: walk.bytes_of("<Q"),
        "\x94": _Walk.memoize,
        "\x95": lambda walk: walk.take(8),  # of a frame its length, which says nothing else
    }
)
"""The opcodes that pickle writes, from protocol 3 on, for what such files hold."""
