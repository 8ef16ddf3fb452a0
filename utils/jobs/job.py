"""The work of one process: its share of the items, loaded ahead, computed in batches, saved behind."""

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from math import inf
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from utils.log import log

_THREADS = 4
_WAITING_BYTES = 2**28
"""Of tensors that wait to be computed, or whose results wait to be saved: of more, one item waits."""
_FASTER = 0.95
"""A larger batch is worth its memory where an item takes at most this share of the time."""
_NO_MEMORY = (
    "out of memory with one image; use --precision bf16, --tiles for a large image, a GPU with more, or "
    "close other programs"
)

_SHORT_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "not enough memory", "std::bad_alloc"),
    *("could not create a primitive", "could not create a memory", "could not execute a primitive"),
    *("alloc_cpu", "cublas_status_alloc_failed", "out of memory"),
)
"""How the allocators of a CPU, oneDNN and cuBLAS say that memory is short, in lower case."""


def stack_together(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether tensors of two items have the same shapes, so that they can be of one batch."""
    return all(tensor.shape == other[key].shape for key, tensor in one.items())


def is_short_memory(error: Exception) -> bool:
    """Whether an error says that memory did not suffice."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(part in str(error).lower() for part in _SHORT_MEMORY)


def _weigh(rows: list[dict[str, Tensor]]) -> int:
    """Return how many bytes the tensors of an item take; its parts may share some."""
    tensors = {id(tensor): tensor for row in rows for tensor in row.values()}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


class ItemError(ValueError):
    """An item has no result; the text says why."""


@dataclass(frozen=True, slots=True)
class Item:
    """One piece of the work."""

    name: str
    """Relative path of the input."""
    sample: int
    """Which of several results for this input."""
    target: str
    """Relative path of the result."""
    part: int = 0
    """Which of several regions, or frames, of this input."""


@dataclass(eq=False)
class _Work:
    """An item on its way: what is computed of its parts, and how many are not."""

    item: Item
    left: int
    weight: int
    """What was loaded for it, in bytes."""
    outputs: dict[int, Any] = field(default_factory=dict)
    failed: bool = False


_Row = tuple[_Work, int, dict[str, Tensor]]
"""A part of an item: whose, which, and its tensors."""


class MicroBatch:
    """How many items are computed together: less where memory is short, more where that is faster."""

    def __init__(self, size: int | None):
        """
        Args:
            size: Items at first; None to begin with one, and to double as long as an item gets faster.
        """
        self.size = size or 1
        self._growing, self._best_s = size is None, inf

    def took(self, num_items: int, seconds: float) -> None:
        """Learn how long a batch took, and choose the size of the next."""
        if not self._growing or num_items < self.size:
            return
        if seconds / num_items < _FASTER * self._best_s:
            self._best_s = seconds / num_items
            self.size *= 2
        else:
            self._growing = False
            self.size //= 2

    def did_not_fit(self, num_items: int) -> None:
        """Learn that memory did not suffice for so many."""
        self._growing = False
        self.size = (num_items + 1) // 2


@dataclass
class Outcome:
    """What became of the items of this process."""

    num_done: int = 0
    num_failed: int = 0
    waited_s: float = 0.0
    """Seconds in which nothing was computed, because files were read or written."""


class Job:
    """Loads, computes and saves every item; one that fails is reported and the others are done.

    An item may have several parts, or none. Parts are computed like items; an item is saved when the last is.
    """

    def __init__(
        self,
        micro_batch: MicroBatch,
        load: Callable[[Item], list[dict[str, Tensor]]],
        compute: Callable[[list[Item], dict[str, Tensor]], list[Any]],
        save: Callable[[Item, list[Any]], None],
        fail: Callable[[Item, str], None],
        check: Callable[[], None] = lambda: None,
    ):
        """
        Args:
            micro_batch: How many parts are computed together.
            load: Item to named tensors of each part, in a thread; a ValueError or OSError is that item's
                failure.
            compute: Items, each with the number of its part, and their tensors, stacked, to their outputs.
            save: Item and the outputs of its parts, in a thread; a ValueError is that item's failure.
            fail: Told of each item that has no result, and why.
            check: Called before each item; raises where the job is to end.
        """
        self._load, self._compute, self._save, self._fail = load, compute, save, fail
        self._check, self._micro_batch, self.outcome = check, micro_batch, Outcome()
        self._saving: deque[tuple[_Work, Future]] = deque()
        self._last_weight = _WAITING_BYTES // _THREADS
        """Of the item that was loaded last, in bytes: what the next is taken for."""

    def run(self, items: list[Item]) -> Outcome:
        """Do the items, in order.

        What is computed is saved whatever ends the run: an OSError of save (the disk is full) or an
        exception of compute, which go on to the caller.
        """
        with ThreadPoolExecutor(_THREADS) as readers, ThreadPoolExecutor(_THREADS) as writers:
            try:
                batch: list[_Row] = []
                for row in self._rows(items, readers, writers):
                    if batch and not stack_together(batch[0][2], row[2]):
                        self._do(batch, writers)
                        batch = []
                    batch.append(row)
                    if len(batch) >= self._micro_batch.size:
                        self._do(batch, writers)
                        batch = []
                if batch:
                    self._do(batch, writers)
            finally:
                readers.shutdown(wait=False, cancel_futures=True)
                while self._saving:
                    self._finish_saving()
        return self.outcome

    def _rows(
        self, items: list[Item], readers: ThreadPoolExecutor, writers: ThreadPoolExecutor
    ) -> Iterator[_Row]:
        """Yield the parts of all items; save those that have none."""
        for item, future in self._ahead(items, readers):
            self._check()
            rows = self._loaded(item, future)
            if rows is None:
                continue
            work = _Work(item, len(rows), _weigh(rows))
            self._last_weight = work.weight
            if not rows:
                self._start_saving(work, writers)
            for part, tensors in enumerate(rows):
                yield work, part, tensors

    def _ahead(self, items: list[Item], readers: ThreadPoolExecutor) -> Iterator[tuple[Item, Future]]:
        """Start to load each item two batches before it is needed, or one item where they are large."""
        pending: deque[tuple[Item, Future]] = deque()
        for item in items:
            pending.append((item, readers.submit(self._load, item)))
            while len(pending) > self._most_ahead(pending):
                yield pending.popleft()
        yield from pending

    def _most_ahead(self, pending: deque[tuple[Item, Future]]) -> int:
        """Return how many items may wait, in view of those that do."""
        weight = sum(
            _weigh(future.result()) if future.done() and not future.exception() else self._last_weight
            for _, future in pending
        )
        return 2 * self._micro_batch.size if weight <= _WAITING_BYTES else 1

    def _loaded(self, item: Item, future: Future) -> list[dict[str, Tensor]] | None:
        start = monotonic()
        try:
            return future.result()
        except (ValueError, OSError) as error:
            self._report(item, error)
            return None
        finally:
            self.outcome.waited_s += monotonic() - start

    def _do(self, batch: list[_Row], writers: ThreadPoolExecutor) -> None:
        """Compute a batch, in two halves where memory is short, and start to save what is complete."""
        items = [replace(work.item, part=part) for work, part, _ in batch]
        tensors = {key: torch.stack([row[key] for *_, row in batch]) for key in batch[0][2]}
        start = monotonic()
        outputs = self._try(items, tensors)
        if outputs is None and len(batch) == 1:
            work = batch[0][0]
            if not work.failed:
                self._report(work.item, ItemError(_NO_MEMORY))
            work.failed = True
        elif outputs is None:
            self._micro_batch.did_not_fit(len(batch))
            half = self._micro_batch.size
            log.warning(f"out of memory with {len(batch)} images a network call; going on with {half}")
            self._do(batch[:half], writers)
            self._do(batch[half:], writers)
        else:
            self._micro_batch.took(len(batch), monotonic() - start)
            for (work, part, _), output in zip(batch, outputs, strict=True):
                work.outputs[part] = output
                work.left -= 1
                if not work.left and not work.failed:
                    self._start_saving(work, writers)

    def _start_saving(self, work: _Work, writers: ThreadPoolExecutor) -> None:
        while len(self._saving) > 2 * self._micro_batch.size or self._are_heavy(work):
            self._finish_saving()
        outputs = [work.outputs.pop(part) for part in sorted(work.outputs)]
        self._saving.append((work, writers.submit(self._save, work.item, outputs)))

    def _try(self, items: list[Item], tensors: dict[str, Tensor]) -> list[Any] | None:
        """Compute a batch; None where memory does not suffice, with what it held set free."""
        try:
            return self._compute(items, tensors)
        except (RuntimeError, MemoryError) as error:
            if not is_short_memory(error):
                raise
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        return None

    def _are_heavy(self, work: _Work) -> bool:
        """Whether there are items on their way to files that should be saved before another."""
        others = [other.weight for other, _ in self._saving]
        return bool(others) and work.weight + sum(others) > _WAITING_BYTES

    def _finish_saving(self) -> None:
        """Wait until the first of those that remain is saved."""
        start = monotonic()
        work, future = self._saving.popleft()
        try:
            future.result()
            self.outcome.num_done += 1
        except ValueError as error:
            self._report(work.item, error)
        finally:
            self.outcome.waited_s += monotonic() - start

    def _report(self, item: Item, error: Exception) -> None:
        self.outcome.num_failed += 1
        self._fail(item, " ".join(str(error).split()))
