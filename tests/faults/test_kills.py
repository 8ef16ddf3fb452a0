"""Runs that are killed at random and started again: nothing lost, nothing spoilt, nothing done twice.

`python -m pytest tests/faults/test_kills.py --kills 200` is the full count of docs/reliability.md.
"""

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import ROOT, result_bytes
from utils.files import SCRATCH

pytestmark = pytest.mark.launch
BIN = Path(sys.executable).parent
NUM_INPUTS, KILLS_A_RUN, SAMPLES = 16, 8, 2
METHODS = {
    "sdedit": [
        *("sample_sdedit.py", "--respace_steps", "20", "--edit_steps", "3", "8", "--comparison"),
        *("--samples", str(SAMPLES)),
    ],
    "ddib": [
        *("sample_ddib.py", "--respace_steps", "3", "--class_A", "cat", "--class_B", "dog", "hen"),
        *("--cycle", "--save_latents", "--overwrite"),
    ],
}
PROGRAMS = {"sdedit": sample_sdedit, "ddib": sample_ddib}
CHANGING = ("03.png", "11.png")
"""Inputs that are now one picture, now another."""


def command(case, method, num_processes, save_dir):
    launcher = [BIN / "torchrun", "--standalone", "--nproc_per_node", num_processes]
    script, *words = METHODS[method]
    start = [sys.executable] if num_processes == 1 else launcher
    return list(map(str, [*start, script, *case.words(save_dir), *words, "--micro_batch", 1]))


def paint(case, state):
    """Give the changing inputs one of their two pictures."""
    for name in CHANGING:
        Image.new("RGB", (16, 16), ["red", "lime"][state]).save(case.input_dir / name)


def start(words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(words, cwd=ROOT, env=environment, **pipes)


def workers(save_dir):
    """Find every process of a run, launchers included."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if str(save_dir).encode() + b"\0" in path.read_bytes():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def kill_somewhere(launched, save_dir, chance):
    """Kill one or all processes of a run, at a random moment of its start or, more often, of its work."""
    logs = len(list(save_dir.glob(f"{SCRATCH}/*.jsonl")))
    if chance.random() < 0.2:
        time.sleep(chance.uniform(0, 5))
    else:
        deadline = time.monotonic() + 60
        while len(list(save_dir.glob(f"{SCRATCH}/*.jsonl"))) == logs and launched.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        time.sleep(chance.uniform(0, 0.6))
    number = chance.choice([signal.SIGKILL, signal.SIGTERM])
    victims = workers(save_dir)
    if chance.random() < 0.3 and victims:
        victims = [chance.choice(victims)]
    for victim in victims:
        kill(victim, number)
    return bool(victims)


def kill(process, number):
    with contextlib.suppress(ProcessLookupError):  # it ended by itself
        os.kill(process, number)


def wait_for_all(launched, save_dir):
    """Wait until no process of the run is left; end those that lost their launcher.

    Such a one may wait for others that will never come, and holds the pipe of messages open.
    """
    launched.wait(timeout=60)
    deadline = time.monotonic() + 5
    while left := workers(save_dir):
        if time.monotonic() > deadline:
            for process in left:
                kill(process, signal.SIGKILL)
        time.sleep(0.02)
    launched.communicate(timeout=10)


def check_parts(save_dir, expected):
    """Every file under a final name is whole, whatever was killed."""
    for name, data in result_bytes(save_dir).items():
        assert name.endswith(".tmp") or data in [results[name] for results in expected], name


def check_whole(save_dir, expected, num_items, num_changes):
    assert result_bytes(save_dir) == expected
    lines = [line for log in save_dir.glob(".records/*.jsonl") for line in log.read_text().splitlines()]
    written = Counter(line["item"] for line in map(json.loads, lines) if "files" in line)
    assert len(written) == num_items
    for item, count in written.items():  # nothing was done twice, but what had changed
        assert count <= (1 + num_changes if item.startswith(tuple(name[:2] for name in CHANGING)) else 1), (
            item
        )
    report = json.loads((save_dir / "report.json").read_text())
    assert (report["done"], report["missing"], report["failed"]) == (num_items, 0, 0)


@pytest.fixture
def killed_case(case):
    for path in list(case.input_dir.rglob("*.*")):
        path.unlink()
    for i in range(NUM_INPUTS):
        Image.new("RGB", (16, 16), (8 * i, 255 - 8 * i, 90)).save(case.input_dir / f"{i:02d}.png")
    return case


def undisturbed(case, method, folder):
    """Return what a run gives that nothing disturbs, for each state of the inputs."""
    expected = []
    for state in range(2):
        paint(case, state)
        words = command(case, method, 1, folder / f"undisturbed_{method}{state}")
        assert PROGRAMS[method].main(words[2:]) == 0
        expected.append(result_bytes(folder / f"undisturbed_{method}{state}"))
    return expected


@pytest.mark.timeout(7200)
def test_runs_killed_at_random_end_as_if_undisturbed(killed_case, tmp_path, pytestconfig):
    num_kills = pytestconfig.getoption("--kills")
    chance = random.Random(pytestconfig.getoption("--fault_seed"))
    killed, runs, state, expected = 0, 0, 1, {}
    while killed < num_kills:
        method = list(METHODS)[runs % 2]
        if method not in expected:
            expected[method] = undisturbed(killed_case, method, tmp_path)
            paint(killed_case, state)
        save_dir = tmp_path / f"run{runs}"
        runs, changes = runs + 1, 0
        for _ in range(min(KILLS_A_RUN, num_kills - killed)):
            if chance.random() < 0.3:
                state, changes = 1 - state, changes + 1
                paint(killed_case, state)
            launched = start(command(killed_case, method, chance.choice([1, 1, 2, 3]), save_dir))
            killed += kill_somewhere(launched, save_dir, chance)
            wait_for_all(launched, save_dir)
            check_parts(save_dir, expected[method])
        launched = start(command(killed_case, method, chance.choice([1, 2, 3]), save_dir))
        _, errors = launched.communicate(timeout=120)
        assert launched.returncode == 0, errors.decode()
        num_items = NUM_INPUTS * (SAMPLES if "--samples" in METHODS[method] else 1)
        check_whole(save_dir, expected[method][state], num_items, changes)
    print(f"{killed} kills in {runs} runs")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_within_five_seconds(killed_case, number):
    words = command(killed_case, "sdedit", 1, killed_case.save_dir)
    launched = start([*words, "--respace_steps", "100", "--edit_steps", "100"])
    while not list(killed_case.save_dir.glob("*.png")):
        assert launched.poll() is None, launched.communicate()
        time.sleep(0.02)
    sent = time.monotonic()
    launched.send_signal(number)
    _, errors = launched.communicate(timeout=20)
    assert time.monotonic() - sent < 5
    assert launched.returncode == 75, errors.decode()
    assert b"interrupted; nothing is half written" in errors
    assert 0 < len(list(killed_case.save_dir.glob("*.png"))) < NUM_INPUTS
