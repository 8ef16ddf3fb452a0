"""What became of a run: report.json, failures.jsonl and report.html, made from the logs of its processes."""

import json
import platform
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from filelock import FileLock, Timeout

from utils import files, logs, page
from utils.job import Item
from utils.log import log

NAME, FAILURES = "report.json", "failures.jsonl"
_PACKAGES = ("torchvision", "accelerate", "pillow", "safetensors")


def versions() -> dict[str, str]:
    """Return the versions that a result may depend on."""
    packages = {name: version(name) for name in _PACKAGES}
    return {"python": platform.python_version(), "torch": torch.__version__, **packages}


def write(save_dir: Path, key: str, items: list[Item], about: page.About | None = None) -> None:
    """Write the files, over those that another process of the run wrote before it ended.

    Args:
        save_dir: Folder of the run.
        key: Of the run.
        items: All its items.
        about: What its page shows beside them; None for no page.
    """
    scratch = logs.folder(save_dir)
    with _lock(scratch / "lock"):
        history = logs.read(save_dir)
        ends = {item.target: _end(history, key, item.target) for item in items}
        failures = [end for end in ends.values() if isinstance(end, logs.Failed)]
        done = [end for end in ends.values() if isinstance(end, _Done)]
        report = {
            "items": len(items),
            "done": len(done),
            "failed": len(failures),
            "missing": len(items) - len(done) - len(failures),
            "network_evaluations": sum(end.calls for end in done),
            "seconds_per_item": round(sum(end.seconds for end in done) / max(1, len(done)), 4),
            "precisions": dict(sorted(Counter(end.precision for end in done).items())),
            "processes": [
                {**head.process, "started": head.started, **ended}
                for head, ended in history.processes
                if head.key == key
            ],
            "key": key,
        }
        files.write_atomically(save_dir / NAME, json.dumps(report, indent=1).encode(), scratch)
        lines = [json.dumps({"input": end.input, "reason": end.reason}) + "\n" for end in failures]
        files.write_atomically(save_dir / FAILURES, "".join(lines).encode(), scratch)
        if about:
            text = page.render(save_dir, about, report, (_entry(item, ends[item.target]) for item in items))
            files.write_atomically(save_dir / page.NAME, text.encode("utf-8", "replace"), scratch)


class _Done(NamedTuple):
    calls: float
    seconds: float
    precision: str


def _end(history: logs.History, key: str, target: str) -> _Done | logs.Failed | None:
    """Return what became of an item in this run; None where it is not done yet."""
    failed = history.failed.get(target)
    if failed is not None:
        return failed if failed.head.key == key else None
    line = history.done(target, key)
    return line and _Done(line["calls"], line["seconds"], sys.intern(line["precision"]))


def _entry(item: Item, end: _Done | logs.Failed | None) -> page.Entry:
    if isinstance(end, logs.Failed):
        return page.Entry(item.name, item.target, "failed", end.reason)
    return page.Entry(item.name, item.target, "missing" if end is None else "done")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Let one process at a time write; go on where the file system has no locks, or the holder hangs."""
    lock = FileLock(path, timeout=30)
    try:
        lock.acquire()
    except (OSError, NotImplementedError, Timeout) as error:
        log.warning(f"{NAME} is written without a lock: {error}")
    try:
        yield
    finally:
        lock.release()
