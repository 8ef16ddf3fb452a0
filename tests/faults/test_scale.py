"""A long work list: quick to start, also where nearly all is done, and small in memory.

`python -m pytest tests/faults/test_scale.py -s --inputs 100000` is the full count of docs/reliability.md.
"""

import hashlib
import json
import os
import random
import subprocess
import sys
import time

import pytest
from PIL import Image

from tests.commands.command_case import ROOT
from utils.files import SCRATCH

pytestmark = pytest.mark.launch
LIMIT_S, LIMIT_MIB = 10, 200  # for 100,000 inputs
MEASURE = """
import runpy, sys
from pathlib import Path
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
except SystemExit as end:
    assert end.code == 0, end.code
# not ru_maxrss, which a process takes over from the one that started it
[peak] = [line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line]
print(int(peak.split()[1]) / 1024)
"""


def run(case, save_dir):
    """Run to the end; return seconds and the largest memory in MiB."""
    words = ["sample_sdedit.py", *case.words(save_dir), "--respace_steps", "10", "--edit_steps", "1"]
    start = time.monotonic()
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return time.monotonic() - start, float(done.stdout)


def link(source, names):
    """Give a file many names; a file system allows some ten thousand each."""
    for i, name in enumerate(names):
        if i % 10_000 == 0:
            first = source.parent / name
            first.write_bytes(source.read_bytes())
        else:
            os.link(first, source.parent / name)


def pretend_done(input_dir, save_dir, names, key):
    """Make the folder that a run leaves which did all these inputs."""
    content = b"a result"
    (save_dir / SCRATCH / "result").write_bytes(content)
    link(save_dir / SCRATCH / "result", [f"../{name}" for name in names])
    digest = hashlib.sha256(content).hexdigest()
    cost = {"calls": 1.0, "seconds": 0.1, "precision": "float32", "time": 1.0}
    lines = [{"process": {}, "key": key, "time": 1.0}]
    read = hashlib.sha256((input_dir / names[0]).read_bytes()).hexdigest()
    for name in names:
        seen = os.stat(input_dir / name)
        image = [name, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, read]
        done = {"item": name, "files": {name: [len(content), digest]}, "made_from": {"image": image}}
        lines.append(done | cost)
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (save_dir / SCRATCH / "earlier.jsonl").write_text(text)


@pytest.mark.timeout(900)
def test_a_long_list_starts_quickly_and_stays_small(case, pytestconfig):
    num_inputs = pytestconfig.getoption("--inputs")
    for path in list(case.input_dir.rglob("*.*")):
        path.unlink()
    Image.new("RGB", (16, 16)).save(case.input_dir / "last.png")
    alone_s, alone_mib = run(case, case.save_dir)
    key = json.loads((case.save_dir / "run.json").read_text())["key"]
    (case.save_dir / "last.png").unlink()
    names = [f"{i:06d}.png" for i in range(num_inputs)]
    link(case.input_dir / "last.png", names)
    pretend_done(case.input_dir, case.save_dir, names, key)
    seconds, mib = run(case, case.save_dir)
    report = json.loads((case.save_dir / "report.json").read_text())
    assert (report["items"], report["done"]) == (num_inputs + 1, num_inputs + 1)
    assert len(set(report["precisions"])) == 1
    more_s, more_mib = seconds - alone_s, mib - alone_mib
    print(f"{num_inputs} inputs: {more_s:.1f} s and {more_mib:.0f} MiB more than one; {os.cpu_count()} cores")
    changed = random.Random(0).sample(names, 3)
    for name in changed:  # one file of many names: give each its own
        (case.input_dir / name).unlink()
        Image.new("RGB", (16, 16), "red").save(case.input_dir / name)
    before = {name: (case.save_dir / name).stat().st_mtime_ns for name in names}
    run(case, case.save_dir)
    assert [name for name in names if (case.save_dir / name).stat().st_mtime_ns != before[name]] == sorted(
        changed
    )
    assert more_s < LIMIT_S
    assert more_mib < LIMIT_MIB
