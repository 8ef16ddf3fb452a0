"""Messages for people: on stderr, with the rank where there are several, above the progress bar."""

import logging
import os
import sys
from contextlib import nullcontext

from utils import launchers

log = logging.getLogger("sample")


def start() -> None:
    """Send messages to stderr."""
    world_size = launchers.number("WORLD_SIZE", 1)
    prefix = f"[{os.environ.get('RANK', '?')}/{world_size}] " if world_size > 1 else ""
    handler = _Handler()
    handler.setFormatter(logging.Formatter(prefix + "%(message)s"))
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


def once(message: str) -> None:
    """Say what every process of a run would say alike."""
    if launchers.number("RANK", 0) == 0:
        log.info(message)


class _Handler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        text = self.format(record)  # names of files may hold what moves a cursor
        clean = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
        bars = sys.modules.get("tqdm")  # whose import takes longer than help may
        with bars.tqdm.external_write_mode(file=sys.stderr) if bars else nullcontext():
            print(clean, file=sys.stderr, flush=True)
