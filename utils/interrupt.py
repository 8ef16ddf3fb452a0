"""SIGINT and SIGTERM: a run ends at its next step, with what is finished on disk. Knows no torch."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class RunInterruptedError(Exception):
    """The run was asked to end."""


class Interruption:
    """Remembers that the process was asked to end, until the run comes to a place where it may."""

    def __init__(self):
        self._requested = False

    def check(self) -> None:
        """Raise RunInterruptedError where the process was asked to end."""
        if self._requested:
            raise RunInterruptedError

    def request(self, number: int = 0, frame: FrameType | None = None) -> None:
        """Ask the run to end; a second signal ends the process at once."""
        self._requested = True
        if number:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def deferred() -> Iterator[Interruption]:
    """Let signals only be remembered, so that nothing is cut off."""
    interruption = Interruption()
    with _handled_by(interruption.request):
        yield interruption


def outlive_terminal() -> None:
    """Go on where the terminal goes away: what is said then is dropped, see `utils.log`."""
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "SIGHUP"):
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextmanager
def raised() -> Iterator[None]:
    """Let both signals raise KeyboardInterrupt, where there is nothing to finish."""
    with _handled_by(signal.default_int_handler):
        yield


@contextmanager
def _handled_by(handler) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():  # Python lets no other thread do this
        yield
        return
    before = [(number, signal.signal(number, handler)) for number in _SIGNALS]
    try:
        yield
    finally:
        for number, previous in before:
            signal.signal(number, previous)
