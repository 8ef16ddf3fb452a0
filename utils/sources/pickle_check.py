"""What the pickle in a file of torch.save holds, gone through before anything is built from it.

The pickle is followed opcode by opcode, with placeholders for what it would build. It may name only what
tensors and plain containers are made of, and every size in it is bounded.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from utils.sources.opcodes import Walk, refusal, table

_MOST_COPIED = 5_000_000  # items put into containers
_DEEPEST = 100  # containers within one another
_MOST_NUMBERS, _MOST_DIMENSIONS = 2**48, 64  # of a tensor

_ITEM_SIZES = {
    **{"Double": 8, "Float": 4, "Half": 2, "BFloat16": 2, "ComplexDouble": 16, "ComplexFloat": 8},
    **{"Long": 8, "Int": 4, "Short": 2, "Char": 1, "Byte": 1, "Bool": 1},
    **{"QInt8": 1, "QUInt8": 1, "QInt32": 4, "QUInt4x2": 1, "QUInt2x4": 1},
}
STORAGES = {f"torch.{name}Storage": size for name, size in _ITEM_SIZES.items()}
STORAGES["torch.storage.UntypedStorage"] = 1
"""Bytes of a number, by the type of its storage."""
_FLOATS = ("float16", "float32", "float64", "bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz")
_OTHERS = ("uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64", "bool")
_DTYPES = {f"torch.{name}" for name in (*_FLOATS, "float8_e5m2fnuz", *_OTHERS, "complex64", "complex128")}
_NOT_READ = {
    "torch._utils._rebuild_sparse_tensor": "sparse tensors",
    "torch._utils._rebuild_sparse_csr_tensor": "sparse tensors",
    "torch._utils._rebuild_qtensor": "quantized tensors",
    "torch._utils._rebuild_nested_tensor": "nested tensors",
    "torch._utils._rebuild_meta_tensor_no_storage": "tensors of the meta device, which have no values",
    "torch._utils._rebuild_wrapper_subclass": "tensors of a class of their own",
    "torch._tensor._rebuild_from_type_v2": "tensors of a class of their own",
}
_PYTHON_2 = {"__builtin__": "builtins", "copy_reg": "copyreg"}

_TORN = "not a checkpoint of torch.save, or a truncated one; fetch it again"
_OTHERWISE = (
    "damaged, or pickled otherwise than torch.save does by default; fetch it again, or "
    "save it as .safetensors"
)
_BEYOND = "a tensor in it is not all there, the file is broken or truncated; fetch it again"


@dataclass(frozen=True)
class _Name:
    """A global that is named."""

    path: str


@dataclass(eq=False)
class _Box:
    """Stands for what would be built."""

    kind: str
    """list, dict, OrderedDict, tuple, storage, tensor or value."""
    items: tuple = ()
    """Of a tuple; of a storage its type."""
    size: int = 0
    depth: int = 0


@dataclass(frozen=True)
class Checked:
    """What a pickle holds that was found harmless."""

    end: int
    """Place behind its last byte."""
    storages: dict[str, int]
    """Bytes of each storage that it refers to, by key."""
    alone: tuple[str, int] | None
    """Type and count of numbers of the storage, where it is one and nothing else."""


def check_pickle(data: Sequence[int], start: int = 0, largest: int = 2**26) -> Checked:
    """Go through a pickle.

    Args:
        data: Bytes, or a mapped file.
        start: Of the pickle in them.
        largest: Bytes that it may have.

    Raises:
        ValueError: It is broken, names what is neither a tensor nor a plain container, or would grow out
            of all proportion; the message says which, without the file's name.
    """
    walk = _Walk(data, start, start + largest)
    walk.run()
    return walk.result()


class _Walk(Walk):
    """Follows one pickle of torch.save."""

    torn, otherwise, protocols = _TORN, _OTHERWISE, b"\2"

    def __init__(self, data: Sequence[int], start: int, stop: int):
        super().__init__(data, start, stop)
        self._copied = 0
        self._storages: dict[str, int] = {}

    def result(self) -> Checked:
        top = self.stack[-1] if self.stack else None
        is_storage = isinstance(top, _Box) and top.kind == "storage"
        return Checked(self.at, self._storages, (top.items[0], top.size) if is_storage else None)

    def _count(self, number: int) -> None:
        self._copied += number
        if self._copied > _MOST_COPIED:
            raise ValueError("its containers grow out of all proportion, so it is not loaded")

    def _fill(self, box: _Box, items: Sequence[Any]) -> None:
        self._count(len(items))
        box.size += len(items)
        box.depth = max([box.depth, *(1 + item.depth for item in items if isinstance(item, _Box))])
        if box.depth > _DEEPEST:
            raise ValueError(f"nests more than {_DEEPEST} containers, so it is not loaded")

    def name(self) -> None:
        module, name = self.line(), self.line()
        path = f"{_PYTHON_2.get(module, module)}.{name}"
        if path in _NOT_READ:
            raise ValueError(f"holds {_NOT_READ[path]}; save the network's plain, dense tensors")
        if path not in _CALLS and path not in STORAGES and path not in _DTYPES:
            raise ValueError(refusal(path))
        self.push(_Name(path))

    def call(self) -> None:
        arguments, name = self.stack.pop(), self.stack.pop()
        if not isinstance(name, _Name) or name.path not in _CALLS or arguments.kind != "tuple":
            raise ValueError(refusal(name.path) if isinstance(name, _Name) else _TORN)
        self.push(_CALLS[name.path](arguments.items))

    def build(self) -> None:
        state, box = self.stack.pop(), self.stack[-1]
        if box.kind != "OrderedDict" or state.kind != "dict":
            raise ValueError(_OTHERWISE)
        self._count(state.size)
        self._fill(box, [state])

    def storage(self) -> None:
        items = self.stack.pop().items
        if len(items) < 5:
            raise ValueError(_TORN)
        kind, name, key, place, numel, *view = items
        key, word = (part.decode() if isinstance(part, bytes) else part for part in (key, kind))
        size = STORAGES.get(name.path)
        if (
            word != "storage"
            or size is None
            or not isinstance(key, str)
            or not isinstance(place, str | bytes)
        ):
            raise ValueError(_TORN)
        if type(numel) is not int or not 0 <= numel <= _MOST_NUMBERS or any(view):
            raise ValueError(_BEYOND)
        held = self._storages
        held[key] = max(held.get(key, 0), numel * size)
        self.push(_Box("storage", (name.path,), numel))

    def extend(self, box: _Box, items: list[Any]) -> None:
        if box.kind != "list":
            raise ValueError(_TORN)
        self._fill(box, items)

    def update(self, box: _Box, items: list[Any]) -> None:
        if box.kind not in ("dict", "OrderedDict") or len(items) % 2:
            raise ValueError(_TORN)
        if not all(_is_key(key) for key in items[::2]):
            raise ValueError("holds a dict whose keys are no plain texts or numbers, so it is not loaded")
        self._fill(box, items[1::2])

    def tuple_of(self, items: list[Any]) -> None:
        box = _Box("tuple", tuple(items))
        self._fill(box, items)
        self.push(box)

    def text(self) -> None:
        self.push(str(self.take(self.number("<I")), "utf-8", "surrogatepass"))


def _is_key(key: Any, inside: bool = False) -> bool:
    """Whether a key is compared and hashed at once, whoever made it."""
    if isinstance(key, _Box):
        return (
            not inside and key.kind == "tuple" and key.size < 16 and all(_is_key(k, True) for k in key.items)
        )
    return not isinstance(key, _Name) and not (isinstance(key, int) and key.bit_length() > 64)


def _rebuilt(items: tuple) -> _Box:
    """Check the parts of a tensor: storage, offset, shape, strides."""
    storage, offset, shape, strides = items[0], items[1], _numbers(items[2]), _numbers(items[3])
    if storage.kind != "storage" or type(offset) is not int or len(shape) != len(strides):
        raise ValueError(_TORN)
    check_view(storage.size, offset, shape, strides)
    return _Box("tensor")


def check_view(held: int, offset: int, shape: Sequence[int], strides: Sequence[int]) -> None:
    """Refuse a tensor that leaves its storage, whose numbers are counted by `held`.

    Raises:
        ValueError: It does, or has more dimensions or numbers than any tensor.
    """
    if len(shape) > _MOST_DIMENSIONS or min(offset, *shape, *strides, 0) < 0:
        raise ValueError(_BEYOND)
    # of a dimension of 1 any stride stays inside, but torch takes none beyond 64 bits
    if max(math.prod(max(n, 1) for n in shape), *strides, 0) > _MOST_NUMBERS:
        raise ValueError(_BEYOND)
    end = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if offset + end > held:
        raise ValueError(_BEYOND)


def _numbers(box: Any) -> tuple[int, ...]:
    if box.kind != "tuple" or not all(type(n) is int for n in box.items):
        raise ValueError(_TORN)
    return box.items


def _parameter(items: tuple) -> _Box:
    if items[0].kind != "tensor":
        raise ValueError(_TORN)
    return _Box("tensor")


def _ordered(items: tuple) -> _Box:
    if items:
        raise ValueError(_OTHERWISE)
    return _Box("OrderedDict")


def _size(items: tuple) -> _Box:
    numbers = _numbers(items[0])
    if len(items) > 1 or len(numbers) > _MOST_DIMENSIONS:
        raise ValueError(_TORN)
    return _Box("tuple", numbers, len(numbers))


_CALLS: dict[str, Callable[[tuple], _Box]] = {
    "torch._utils._rebuild_tensor": _rebuilt,
    "torch._utils._rebuild_tensor_v2": _rebuilt,
    "torch._utils._rebuild_tensor_v3": _rebuilt,
    "torch._utils._rebuild_parameter": _parameter,
    "collections.OrderedDict": _ordered,
    "torch.Size": _size,
    "torch.device": lambda items: _Box("value"),
}
"""What may be called, with what it would return."""

_Walk.steps = table(
    {
        "c": _Walk.name,
        "R": _Walk.call,
        "b": _Walk.build,
        "Q": _Walk.storage,
        "]": lambda walk: walk.push(_Box("list")),
        "}": lambda walk: walk.push(_Box("dict")),
        "X": _Walk.text,
        "U": lambda walk: walk.push(walk.take(walk.number("<B"))),
    }
)
"""The opcodes that torch.save writes."""
