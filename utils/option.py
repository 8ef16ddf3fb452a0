"""One option as data: its default, its help, and which values are allowed.

`utils.settings` is made of these; the command line makes a flag of each, and Python a keyword.
"""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args

from utils.quote import plain

T = TypeVar("T")
_WIDTH_HEIGHT, _MOST = re.compile("[1-9][0-9]{0,4}x[1-9][0-9]{0,4}"), 16384


@dataclass(frozen=True)
class OneOf:
    """One of a few names or numbers."""

    names: tuple[str | int, ...]

    def holds(self, value: object) -> bool:
        """Whether a value is allowed."""
        return value in self.names

    def __str__(self) -> str:
        return ", ".join(map(str, self.names))


@dataclass(frozen=True)
class Number:
    """A number within bounds, or one of a few words in its place."""

    low: float
    high: float = math.inf
    above: bool = False
    """The lower bound itself is not allowed."""
    whole: bool = False
    words: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        """Whether a value is allowed."""
        if isinstance(value, str):
            return value in self.words
        kinds = int if self.whole else int | float
        fits = isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value)
        return fits and (self.low < value if self.above else self.low <= value) and value <= self.high

    def __str__(self) -> str:
        kind = "a whole number " if self.whole else ""
        low = f"{'above' if self.above else 'from'} {self.low:g}"
        high = "" if self.high == math.inf else f" to {self.high:g}"
        return "".join([kind, low, high, *(f", or {word}" for word in self.words)])


@dataclass(frozen=True)
class Size:
    """Width and height of a picture, or one of a few words in their place."""

    words: tuple[str, ...] = ()

    def holds(self, value: object) -> bool:
        """Whether a value is allowed."""
        if not isinstance(value, str):
            return False
        pixels = _WIDTH_HEIGHT.fullmatch(value) and width_height(value)
        return value in self.words or (pixels is not None and max(pixels) <= _MOST)

    def __str__(self) -> str:
        return "".join([f"WIDTHxHEIGHT, as 192x128, each 1 to {_MOST}", *(f", or {x}" for x in self.words)])


def width_height(size: str) -> tuple[int, int]:
    """Return the width and height of 'WIDTHxHEIGHT'."""
    width, height = map(int, size.split("x"))
    return width, height


def option(
    default: Any, help: str, allowed: OneOf | Number | Size | None = None, *, changes_result: bool = True
) -> Any:
    """Return a field of a class of settings.

    Args:
        default: A tuple for an option of several values.
        help: What it is for, for `-h`.
        allowed: Its values, None for any of its type.
        changes_result: Another value makes it another run; not so for places, speed and memory.
    """
    return field(
        default=default, metadata={"help": help, "allowed": allowed, "changes_result": changes_result}
    )


class Checked:
    """A frozen dataclass of options that refuses what is not allowed as soon as it is made."""

    def __post_init__(self):
        """
        Raises:
            ValueError: A value that is not allowed, or some that do not go together.
        """
        for one in dataclasses.fields(self):
            value, allowed = getattr(self, one.name), one.metadata["allowed"]
            for part in value if isinstance(value, tuple) else (value,):
                if part is not None and allowed is not None and not allowed.holds(part):
                    raise ValueError(
                        f"--{one.name} {plain(part)}: allowed is {allowed}{_meant(part, allowed)}"
                    )
        self.check()

    def check(self) -> None:
        """Refuse options that do not go together.

        Raises:
            ValueError: Such options.
        """

    def deciding(self) -> dict[str, object]:
        """Return the options that decide what a run writes."""
        return {
            one.name: getattr(self, one.name)
            for one in dataclasses.fields(self)
            if one.metadata["changes_result"]
        }

    def changed(self) -> dict[str, object]:
        """Return the options that have another value than their default."""
        values = {one.name: (getattr(self, one.name), one.default) for one in dataclasses.fields(self)}
        return {name: value for name, (value, default) in values.items() if value != default}


def _meant(value: object, allowed: OneOf | Number | Size) -> str:
    near = (
        difflib.get_close_matches(str(value), map(str, allowed.names), n=1)
        if isinstance(allowed, OneOf)
        else []
    )
    return f"; did you mean {near[0]}?" if near else ""


def names_of(*kinds: type) -> list[str]:
    """Return the names of the options of classes of settings."""
    return [one.name for kind in kinds for one in dataclasses.fields(kind)]


def make(kind: type[T], given: dict[str, Any]) -> T:
    """Make settings of what was given by name, be it text where a path belongs, or one value of several.

    Args:
        kind: A class of settings.
        given: Values by name; those of other classes are left alone.

    Raises:
        ValueError: A value that is not allowed.
    """
    fields = {one.name: one for one in dataclasses.fields(kind)}
    return kind(**{name: _as_field(fields[name], given[name]) for name in fields if name in given})


def _as_field(one: dataclasses.Field, value: Any) -> Any:
    if isinstance(one.default, tuple):
        several = isinstance(value, Iterable) and not isinstance(value, str)
        return () if value is None else tuple(value) if several else (value,)
    is_path = one.type is Path or Path in get_args(one.type)
    return Path(value) if is_path and isinstance(value, str) else value


def refuse_unknown(given: Iterable[str], kinds: Iterable[type]) -> None:
    """Refuse names that no class of settings has.

    Raises:
        ValueError: Such a name, with the nearest.
    """
    known = names_of(*kinds)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"unknown option {plain(name)}" + (f"; did you mean {near[0]}?" if near else ""))
