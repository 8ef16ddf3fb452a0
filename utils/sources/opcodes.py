"""A pickle followed opcode by opcode, as far as all are alike: nothing is built, called or looked up."""

import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from utils.quote import plain

MOST_OPS = 1_000_000
"""Of a pickle: 37 a tensor, of which the largest networks with their optimizer have some thousands."""
_MOST_OPEN = 20_000  # values that are in no container yet; pickle puts them there by the thousand
_STOP = ord(".")
_HARMLESS = ("set", "frozenset", "bytearray", "complex", "Counter", "deque", "defaultdict", "encode")


class Walk:
    """Follows one pickle; what its opcodes do is up to the class that extends it."""

    steps: ClassVar[Mapping[int, Callable[[Any], None]]]
    """What each opcode does that may occur."""
    torn: ClassVar[str]
    """Message for what is no whole pickle."""
    otherwise: ClassVar[str]
    """Message for an opcode that may not occur."""
    protocols: ClassVar[bytes]

    def __init__(self, data: Sequence[int], start: int, stop: int):
        """
        Args:
            data: Bytes, or a mapped file.
            start: Of the pickle in them.
            stop: Place that it must end before.
        """
        self.data, self.at, self._stop = data, start, stop
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self._marks: list[list[Any]] = []

    def run(self) -> None:
        """Follow it to its end; `at` is then the place behind it, and its result lies on the stack.

        Raises:
            ValueError: It is broken or holds what it may not; the message is without the file's name.
        """
        try:
            self._follow()
        except (IndexError, KeyError, struct.error, UnicodeDecodeError, AttributeError, TypeError):
            raise ValueError(self.torn) from None

    def _follow(self) -> None:
        if bytes(self.data[self.at : self.at + 1]) != b"\x80":
            raise ValueError(self.torn)
        steps, data, count = self.steps, self.data, 0
        while True:
            op = data[self.at]
            self.at += 1
            count += 1
            if op == _STOP:
                return
            if count > MOST_OPS or self.at > self._stop or len(self.stack) + len(self._marks) > _MOST_OPEN:
                raise ValueError("describes more than any checkpoint does, so it is not loaded")
            step = steps.get(op)
            if step is None:
                raise ValueError(self.otherwise)
            step(self)

    def take(self, size: int) -> bytes:
        taken = bytes(self.data[self.at : self.at + size])
        if len(taken) < size:
            raise ValueError(self.torn)
        self.at += size
        return taken

    def number(self, form: str) -> int | float:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def whole_number(self) -> int:
        return int.from_bytes(self.take(self.number("<B")), "little", signed=True)

    def line(self) -> str:
        line = bytes(self.data[self.at : self.at + 1000]).partition(b"\n")[0]
        self.at += len(line) + 1
        return line.decode("utf-8")

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def check_protocol(self) -> None:
        if self.take(1) not in {bytes([n]) for n in self.protocols}:
            raise ValueError(self.otherwise)

    def mark(self) -> None:
        self._marks.append(self.stack)
        self.stack = []

    def unmark(self) -> list[Any]:
        items, self.stack = self.stack, self._marks.pop()
        return items

    def last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise ValueError(self.torn)
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def put(self, form: str) -> None:
        self.memo[self.number(form)] = self.stack[-1]

    def append(self) -> None:
        item, held = self.stack.pop(), self.stack[-1]
        self.extend(held, [item])

    def appends(self) -> None:
        items = self.unmark()
        self.extend(self.stack[-1], items)

    def set_item(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.update(self.stack[-1], [key, value])

    def set_items(self) -> None:
        items = self.unmark()
        self.update(self.stack[-1], items)

    def extend(self, held: Any, items: list[Any]) -> None:
        """Put items into a list that was built."""
        raise NotImplementedError

    def update(self, held: Any, items: list[Any]) -> None:
        """Put keys and values, one after the other, into a dict that was built."""
        raise NotImplementedError

    def tuple_of(self, items: list[Any]) -> None:
        raise NotImplementedError


def refusal(path: str) -> str:
    """Say that a name of a pickle is not read, without the file's name."""
    what = "which could run code"
    if path.rpartition(".")[2] in _HARMLESS:
        what = "which is neither a tensor nor a plain container"
    return (
        f"besides tensors it holds {plain(path, 100)}, {what}, so it is not loaded; where you trust its "
        "source, save its state dict as .safetensors in the program that it is from"
    )


def table(steps: Mapping[str, Callable[[Any], None]]) -> dict[int, Callable[[Any], None]]:
    """Return steps by opcode, with those that are alike in all pickles."""
    return {ord(letter): step for letter, step in {**_ALIKE, **steps}.items()}


_ALIKE: dict[str, Callable[[Any], None]] = {
    "\x80": Walk.check_protocol,
    "(": Walk.mark,
    "t": lambda walk: walk.tuple_of(walk.unmark()),
    ")": lambda walk: walk.tuple_of([]),
    "\x85": lambda walk: walk.tuple_of(walk.last(1)),
    "\x86": lambda walk: walk.tuple_of(walk.last(2)),
    "\x87": lambda walk: walk.tuple_of(walk.last(3)),
    "N": lambda walk: walk.push(None),
    "\x88": lambda walk: walk.push(True),
    "\x89": lambda walk: walk.push(False),
    "J": lambda walk: walk.push(walk.number("<i")),
    "K": lambda walk: walk.push(walk.number("<B")),
    "M": lambda walk: walk.push(walk.number("<H")),
    "G": lambda walk: walk.push(walk.number(">d")),
    "\x8a": lambda walk: walk.push(walk.whole_number()),
    "h": lambda walk: walk.push(walk.memo[walk.number("<B")]),
    "j": lambda walk: walk.push(walk.memo[walk.number("<I")]),
    "q": lambda walk: walk.put("<B"),
    "r": lambda walk: walk.put("<I"),
    "a": Walk.append,
    "e": Walk.appends,
    "s": Walk.set_item,
    "u": Walk.set_items,
}
