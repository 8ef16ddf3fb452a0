"""What is known of the results of a run: once what all of them share, else by item."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from utils.quote import plain

Facts = tuple[tuple[str, object], ...]
"""(name, value) of each note of a result, in terms of JSON; those of a group are named group.name."""


@dataclass(frozen=True)
class Known:
    """What is known of the results in one folder."""

    shared: dict[str, object]
    """What all have alike."""
    own: dict[str, list[object]]
    """The rest: a value for each item of the run, None where there is none."""

    def of(self, index: int) -> dict[str, object]:
        """Return what the result of an item has of its own."""
        return {name: values[index] for name, values in self.own.items() if values[index] is not None}

    def summary(self) -> dict[str, object]:
        """Return what is shared, and of numbers that differ their mean and their range."""
        numbers = {name: [x for x in values if _is_number(x)] for name, values in self.own.items()}
        return self.shared | {name: _range(values) for name, values in numbers.items() if values}


class Notes:
    """Collects the notes of items, of a long list without keeping twice what is the same."""

    def __init__(self):
        self._rows: dict[str, list[Facts | None]] = {}
        self._num_items = 0
        self._seen: dict[Facts, Facts] = {}

    def add(self, by_folder: object) -> None:
        """Add the next item.

        Args:
            by_folder: Notes of its results by their folder, as a log has them, which may be damaged; None
                where it has no result, or where its log is older than notes.
        """
        for folder, notes in by_folder.items() if isinstance(by_folder, dict) else ():
            rows = self._rows.setdefault(folder, [])
            rows += [None] * (self._num_items - len(rows))
            facts = tuple(_flatten(notes))
            rows.append(self._seen.setdefault(facts, facts))
        self._num_items += 1

    def by_folder(self) -> dict[str, Known]:
        """Return what is known of the results, by their folder."""
        return {
            folder: _part(rows + [None] * (self._num_items - len(rows)))
            for folder, rows in self._rows.items()
        }


def _part(rows: list[Facts | None]) -> Known:
    """Part what all results share from what is each one's own."""
    different = [dict(facts) for facts in dict.fromkeys(rows) if facts is not None]
    names = list(dict.fromkeys(name for facts in different for name in facts))
    first = different[0] if different else {}
    shared = {name: first[name] for name in names if all(_has(facts, name, first) for facts in different)}
    own: dict[str, list[object]] = {name: [] for name in names if name not in shared}
    for facts in rows if own else ():
        found = dict(facts or ())
        for name, values in own.items():
            values.append(found.get(name))
    return Known(shared, own)


def _has(facts: dict[str, object], name: str, first: dict[str, object]) -> bool:
    return name in facts and name in first and facts[name] == first[name]


def _flatten(notes: object) -> Iterator[tuple[str, object]]:
    for name, value in notes.items() if isinstance(notes, dict) else ():
        inner = {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {}
        for key, part in (inner or {name: value}).items():
            if (known := _as_fact(part)) is not None:
                yield key, known


def _as_fact(value: object) -> object:
    """Return a value that JSON has: NaN and infinity as text; nothing of lists and groups in groups."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool | int | float):
        return value
    return plain(value) if isinstance(value, str) else None


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _range(values: list[float]) -> dict[str, float]:
    mean = math.fsum(values) / len(values)
    return {"mean": round(mean, 6), "least": min(values), "most": max(values)}
