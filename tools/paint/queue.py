"""The edits of the paint page: done one at a time by a worker thread, in the order in which they came."""

import secrets
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from utils.log import log
from utils.quote import plain

MAX_WAITING = 16
MAX_KEPT = 32
"""Results in memory; the page takes its own at once, so only one that nobody fetched is ever dropped."""
MAX_KEPT_BYTES = 256 * 2**20
"""Of these results together; the newest is kept however large it is."""
MAX_HELD_BYTES = 768 * 2**20
"""Of the pictures of all edits that wait or run, together; a single one may have more."""

Step = Callable[[int, int | None], None]
"""(steps made, of how many: None for as many as were said); raises where the edit is to end."""
Work = Callable[[Step], bytes]
"""(called before each step) -> the PNG file."""


class BusyError(RuntimeError):
    """Too many edits wait."""


class _CancelledError(Exception):
    """The running edit was cancelled."""


@dataclass
class Edit:
    """One edit, from the queue to its result."""

    num_steps: int
    work: Work | None
    """None once it has ended, so that its pictures are set free."""
    num_bytes: int = 0
    """Of these pictures."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    state: str = "waiting"
    """'waiting', 'running', 'done', 'failed' or 'cancelled'."""
    num_done: int = 0
    """Steps so far."""
    message: str = ""
    """Why it failed."""
    result: bytes = b""


class Queue:
    """First come, first served."""

    def __init__(self):
        self._edits: dict[str, Edit] = {}  # in the order in which they came
        self._changed = threading.Condition()
        self._closed = False
        self._worker = threading.Thread(target=self._work, name="edits", daemon=True)
        self._worker.start()

    def submit(self, work: Work, num_steps: int, num_bytes: int = 0) -> Edit:
        """Put an edit at the end of the queue.

        Args:
            work: What to do.
            num_steps: That it takes.
            num_bytes: Of the pictures that it holds until it is done.

        Raises:
            BusyError: MAX_WAITING edits wait, or those that are not done hold MAX_HELD_BYTES.
        """
        with self._changed:
            if sum(edit.state == "waiting" for edit in self._edits.values()) >= MAX_WAITING:
                raise BusyError(f"{MAX_WAITING} edits wait already; try again when some of them are done")
            held = sum(edit.num_bytes for edit in self._edits.values() if edit.work is not None)
            if held and held + num_bytes > MAX_HELD_BYTES:
                raise BusyError(
                    f"the pictures of the edits that wait have {held} bytes, and with these more than "
                    f"{MAX_HELD_BYTES}; try again when some of them are done"
                )
            edit = Edit(num_steps, work, num_bytes)
            self._edits[edit.id] = edit
            self._forget()
            self._changed.notify_all()
        return edit

    def _forget(self) -> None:
        """Drop the oldest results, of too many or too large ones."""
        ended = [edit for edit in self._edits.values() if edit.work is None]
        num_bytes = sum(len(edit.result) for edit in ended)
        while len(ended) > MAX_KEPT or (len(ended) > 1 and num_bytes > MAX_KEPT_BYTES):
            oldest = ended.pop(0)
            num_bytes -= len(oldest.result)
            del self._edits[oldest.id]

    def find(self, key: str) -> Edit | None:
        """Return an edit by its id, None where there is none, or it was dropped."""
        with self._changed:
            return self._edits.get(key)

    def status(self, edit: Edit) -> dict[str, object]:
        """Say how far an edit is, and how many come before it."""
        with self._changed:
            pending = [other for other in self._edits.values() if other.work is not None]
            return {
                "id": edit.id,
                "state": edit.state,
                "ahead": pending.index(edit) if edit in pending else 0,
                "step": edit.num_done,
                "steps": edit.num_steps,
                "message": edit.message,
            }

    def cancel(self, edit: Edit) -> None:
        """End an edit: one that waits at once, one that runs at its next step."""
        with self._changed:
            if edit.state == "waiting":
                edit.work = None
            if edit.state in ("waiting", "running"):
                edit.state = "cancelled"

    def close(self, timeout_s: float) -> bool:
        """End all edits; return whether the worker has ended in time."""
        with self._changed:
            self._closed = True
            for edit in self._edits.values():
                if edit.state in ("waiting", "running"):
                    edit.state = "cancelled"
            self._changed.notify_all()
        self._worker.join(timeout_s)
        return not self._worker.is_alive()

    def _next(self) -> Edit | None:
        """Wait for an edit; None once the queue is closed."""
        with self._changed:
            while not self._closed:
                for edit in self._edits.values():
                    if edit.state == "waiting":
                        edit.state = "running"
                        return edit
                self._changed.wait()
        return None

    def _work(self) -> None:
        while (edit := self._next()) is not None:
            state, message, result = self._do(edit)
            with self._changed:
                if edit.state != "cancelled":
                    edit.state, edit.message, edit.result = state, message, result
                edit.work = None
                self._forget()

    def _do(self, edit: Edit) -> tuple[str, str, bytes]:
        """Return how an edit ends: its state, why it failed, its result."""

        def step(num_done: int, num_steps: int | None = None) -> None:
            if edit.state == "cancelled":
                raise _CancelledError
            edit.num_done, edit.num_steps = num_done, num_steps or edit.num_steps

        try:
            result = edit.work(step)
            edit.num_done = edit.num_steps
            return "done", "", result
        except _CancelledError:
            return "cancelled", "", b""
        except MemoryError:  # OutOfMemoryError of torch is a RuntimeError, see below
            return "failed", "out of memory; close other programs", b""
        except (ValueError, RuntimeError) as error:
            log.error(f"an edit failed: {error}")
            return "failed", plain(error), b""
        except Exception as error:  # the next edit has to be done all the same
            log.exception("an edit failed")
            return "failed", f"a fault of this program, {plain(repr(error))}; its terminal shows more", b""
