"""Shares of the work: one process at a time, whoever is dead holds nothing."""

import multiprocessing
import os
import subprocess
import sys

import pytest

from tests.commands.command_case import ROOT
from utils.jobs.shares import Share, check, held

HOLD = """
import sys
from pathlib import Path
from utils.jobs.shares import Share, held
with held(Path(sys.argv[1]), Share(0, 2)):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_parts_of_parts_are_disjoint_and_whole():
    parts = [Share(0, 1).part(i, 3).part(j, 2) for i in range(3) for j in range(2)]
    items = list(range(50))
    assert sorted(x for part in parts for x in part.of(items)) == items
    for a in parts:
        for b in parts:
            assert a.meets(b) == bool(set(a.of(items)) & set(b.of(items)))


def test_the_second_is_told_who_holds_the_share_until_that_one_is_dead(tmp_path):
    words = [sys.executable, "-c", HOLD, str(tmp_path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, cwd=ROOT, **pipes) as holder:
        assert holder.stdout.readline() == "held\n"
        for share in (Share(0, 1), Share(0, 2), Share(2, 4), Share(0, 3)):
            with pytest.raises(ValueError, match=rf"pid {holder.pid} on .*, since 20\d\d-"):
                check(tmp_path, share)
            with (
                pytest.raises(ValueError, match="another process works on the same items"),
                held(tmp_path, share),
            ):
                pass
        with held(tmp_path, Share(1, 2)):
            assert (tmp_path / ".records" / "shares" / "1_2.lock").exists()
        holder.kill()
    check(tmp_path, Share(0, 1))
    with held(tmp_path, Share(0, 1)):
        assert os.listdir(tmp_path) == [".records"]


def test_nothing_is_written_by_looking(tmp_path):
    check(tmp_path / "new", Share(0, 1))
    assert not (tmp_path / "new").exists()


def test_many_that_look_at_once_do_not_take_each_other_for_owners(tmp_path):
    with held(tmp_path, Share(0, 1)):
        pass  # it has left its file

    def look(share: int) -> None:
        for _ in range(300):
            check(tmp_path, Share(share, 3))

    looking = [multiprocessing.get_context("fork").Process(target=look, args=(i,)) for i in range(3)]
    for process in looking:
        process.start()
    for process in looking:
        process.join(60)
        assert process.exitcode == 0
