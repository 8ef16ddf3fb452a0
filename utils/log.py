"""Messages for people: on stderr, with the rank where there are several, above the progress bar."""

import contextlib
import logging
import os
import sys
from typing import TextIO

from utils import launchers

log = logging.getLogger("sample")
_said: set[str] = set()


class _Forgiving:
    """A stream that drops what cannot be written: the terminal is gone, or nobody reads the pipe."""

    def __init__(self, stream: TextIO):
        self._stream = stream

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            self._stream.flush()

    def isatty(self) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return self._stream.isatty()
        return False

    def __getattr__(self, name: str):
        return getattr(self._stream, name)


def make_streams_safe() -> None:
    """Let no message end the run, nor be written into a result where a standard stream was closed."""
    for handle in range(3):  # what is closed would be given to the next file that is opened
        try:
            os.fstat(handle)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, _Forgiving):
            setattr(sys, name, _Forgiving(stream or open(os.devnull, "w", encoding="utf-8")))  # noqa: SIM115


def start() -> None:
    """Send messages to stderr."""
    make_streams_safe()
    world_size = launchers.number("WORLD_SIZE", 1)
    prefix = f"[{os.environ.get('RANK', '?')}/{world_size}] " if world_size > 1 else ""
    handler = _Handler()
    handler.setFormatter(logging.Formatter(prefix + "%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)
    _said.clear()


def once(message: str) -> None:
    """Say what every process of a run would say alike."""
    if launchers.number("RANK", 0) == 0:
        log.info(message)


def warn_once(message: str) -> None:
    """Warn of what is met again and again, as of an input of which several samples are made."""
    if message not in _said:
        _said.add(message)
        log.warning(message)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)  # names of files may hold what moves a cursor
        clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        bars = sys.modules.get("tqdm")  # whose import takes longer than help may
        with bars.tqdm.external_write_mode(file=sys.stderr) if bars else contextlib.nullcontext():
            print(clean, file=sys.stderr, flush=True)
