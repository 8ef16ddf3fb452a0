"""What became of a run: report.json, failures.jsonl and report.html, made from the logs of its processes."""

import json
import platform
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from importlib.metadata import version
from pathlib import Path, PurePosixPath

import torch
from filelock import FileLock, Timeout

from utils import files
from utils.jobs import logs, notes, page
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
        total, found, ends = _Total(), notes.Notes(), []
        for item in items:
            end = _end(history, key, item.target)
            found.add(end.get("notes") if isinstance(end, dict) else None)
            ends.append(total.add(end) if isinstance(end, dict) else end)
        known = found.by_folder()
        failures = [end for end in ends if isinstance(end, logs.Failed)]
        report = {
            "items": len(items),
            "done": total.done,
            "failed": len(failures),
            "missing": len(items) - total.done - len(failures),
            "network_evaluations": total.calls,
            "seconds_per_item": round(total.seconds / max(1, total.done), 4),
            "precisions": dict(sorted(total.precisions.items())),
            "notes": {folder: one.summary() for folder, one in known.items()},
            "processes": [
                {**head.process, "started": _when(head.started), **ended}
                for head, ended in history.processes
                if head.key == key
            ],
            "key": key,
        }
        files.write_atomically(save_dir / NAME, _encode(report, _results(items, known)), scratch)
        lines = [json.dumps({"input": end.input, "reason": end.reason}) + "\n" for end in failures]
        files.write_atomically(save_dir / FAILURES, "".join(lines).encode(), scratch)
        if about:
            text = page.render(save_dir, about, report, map(_entry, items, ends), known)
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


def _results(items: list[Item], known: dict[str, notes.Known]) -> Iterator[str]:
    """Return what each result has of its own, as entries of a JSON object by its path."""
    folders = {folder: one for folder, one in known.items() if one.own}
    for index, item in enumerate(items) if folders else ():
        for folder, one in folders.items():
            if own := one.of(index):
                path = PurePosixPath(folder, item.target).as_posix()
                yield f"{json.dumps(path)}: {json.dumps(own)}"


def _encode(report: dict[str, object], results: Iterator[str]) -> bytes:
    """Return the report as JSON, with a line for each result: json.dumps would make one for each number."""
    head = json.dumps(report, indent=1).removesuffix("\n}")
    lines = ",\n  ".join(results)
    return (f'{head},\n "results": {{\n  {lines}\n }}\n}}' if lines else f"{head}\n}}").encode()


def _when(seconds: float) -> str | None:
    """Return a time as people write it, with the zone of this machine; None for none."""
    try:
        return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a damaged log may say anything
        return None


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
