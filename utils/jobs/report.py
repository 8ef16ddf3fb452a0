"""What became of a run: report.json, failures.jsonl and report.html, made from the logs of its processes."""

import json
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import torch
from filelock import FileLock, Timeout

from utils import files
from utils.jobs import logs, page
from utils.jobs.job import Item
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
        total, ends = _Total(), []
        for item in items:
            end = _end(history, key, item.target)
            ends.append(total.add(end) if isinstance(end, dict) else end)
        failures = [end for end in ends if isinstance(end, logs.Failed)]
        report = {
            "items": len(items),
            "done": total.done,
            "failed": len(failures),
            "missing": len(items) - total.done - len(failures),
            "network_evaluations": total.calls,
            "seconds_per_item": round(total.seconds / max(1, total.done), 4),
            "precisions": dict(sorted(total.precisions.items())),
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
            text = page.render(save_dir, about, report, map(_entry, items, ends))
            files.write_atomically(save_dir / page.NAME, text.encode("utf-8", "replace"), scratch)


@dataclass
class _Total:
    """What the items that are done took, all together; of a long list nothing is kept of each."""

    done: int = 0
    calls: float = 0
    seconds: float = 0.0
    precisions: Counter[str] = field(default_factory=Counter)

    def add(self, line: dict) -> bool:
        self.done += 1
        self.calls += line["calls"]
        self.seconds += line["seconds"]
        self.precisions[line["precision"]] += 1
        return True


def _end(history: logs.History, key: str, target: str) -> dict | logs.Failed | None:
    """Return what became of an item in this run: the line of its results; None where it is not done yet."""
    failed = history.failed.get(target)
    if failed is not None:
        return failed if failed.head.key == key else None
    return history.done(target, key)


def _entry(item: Item, end: bool | logs.Failed | None) -> page.Entry:
    if isinstance(end, logs.Failed):
        return page.Entry(item.name, item.target, "failed", end.reason)
    return page.Entry(item.name, item.target, "done" if end else "missing")


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
