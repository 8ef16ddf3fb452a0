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

from utils import files, page
from utils.job import Item
from utils.log import log
from utils.records import read_logs

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
    scratch = save_dir / files.SCRATCH
    with _lock(scratch / "lock"):
        processes, latest = _gather(save_dir, key)
        found = [latest[item.target] for item in items if item.target in latest]
        failures = [end for end in found if isinstance(end, _Failed)]
        done = [end for end in found if isinstance(end, _Done)]
        report = {
            "items": len(items),
            "done": len(done),
            "failed": len(failures),
            "missing": len(items) - len(found),
            "network_evaluations": sum(end.calls for end in done),
            "seconds_per_item": round(sum(end.seconds for end in done) / max(1, len(done)), 4),
            "precisions": dict(sorted(Counter(end.precision for end in done).items())),
            "processes": list(processes.values()),
            "key": key,
        }
        files.write_atomically(save_dir / NAME, json.dumps(report, indent=1).encode(), scratch)
        lines = [json.dumps({"input": end.input, "reason": end.reason}) + "\n" for end in failures]
        files.write_atomically(save_dir / FAILURES, "".join(lines).encode(), scratch)
        if about:
            text = page.render(save_dir, about, report, (_entry(item, latest) for item in items))
            files.write_atomically(save_dir / page.NAME, text.encode("utf-8", "replace"), scratch)


class _Done(NamedTuple):
    time: float
    calls: float
    seconds: float
    precision: str


class _Failed(NamedTuple):
    time: float
    input: str
    reason: str


def _gather(save_dir: Path, key: str) -> tuple[dict[str, dict], dict[str, _Done | _Failed]]:
    """Return the processes of a run, and the last that was recorded of each item."""
    processes: dict[str, dict] = {}
    latest: dict[str, _Done | _Failed] = {}
    for token, line in read_logs(save_dir):
        if "process" in line:
            if line["key"] == key:
                processes[token] = {**line["process"], "started": line["time"]}
        elif token not in processes:
            continue
        elif "end" in line:
            processes[token] |= line["end"]
        else:
            now = (
                _Failed(line["time"], line["input"], line["failed"])
                if "failed" in line
                else _Done(line["time"], line["calls"], line["seconds"], sys.intern(line["precision"]))
            )
            if line["item"] not in latest or now.time >= latest[line["item"]].time:
                latest[line["item"]] = now
    return processes, latest


def _entry(item: Item, latest: dict[str, _Done | _Failed]) -> page.Entry:
    end = latest.get(item.target)
    if isinstance(end, _Failed):
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
