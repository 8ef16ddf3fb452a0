"""Messages that cannot be written: a run without a terminal, and one whose terminal goes away."""

import json
import os
import pty
import subprocess
import sys

import pytest

from tests.commands.command_case import ROOT, result_bytes

pytestmark = pytest.mark.launch
# a message an image: they are broken, all but five
WORDS = ["sample_sdedit.py", "--respace_steps", "4", "--edit_steps", "2"]


@pytest.fixture
def long_case(case):
    for i in range(20):
        (case.input_dir / f"broken{i:02d}.png").write_bytes(b"no image")
    return case


def command(case):
    return [sys.executable, WORDS[0], *case.words(), *WORDS[1:]]


def check(case):
    report = json.loads((case.save_dir / "report.json").read_text())
    assert (report["done"], report["failed"], report["missing"]) == (5, 20, 0)
    assert len(result_bytes(case.save_dir)) == 5
    assert all(data.startswith(b"\x89PNG") for data in result_bytes(case.save_dir).values())


@pytest.mark.parametrize("closed", ["<&- >&- 2>&-", "2>/dev/full"])
def test_closed_streams_stop_nothing_and_get_into_no_file(long_case, closed):
    done = subprocess.run(["sh", "-c", f'"$@" {closed}', "sh", *command(long_case)], cwd=ROOT, timeout=100)
    assert done.returncode == 3
    check(long_case)


def test_a_terminal_that_goes_away_stops_nothing(long_case):
    ours, theirs = pty.openpty()
    # a session of its own, whose terminal it is: closing that hangs up
    start = "import fcntl, os, sys, termios; fcntl.ioctl(2, termios.TIOCSCTTY, 0); os.execv(sys.argv[1], "
    start += "sys.argv[1:])"
    run = subprocess.Popen(
        [sys.executable, "-c", start, *command(long_case)], cwd=ROOT, stderr=theirs, start_new_session=True
    )
    os.close(theirs)
    assert os.read(ours, 1)  # the first message
    os.close(ours)
    assert run.wait(100) == 3
    check(long_case)
