"""Freed memory is kept: a tensor in the place of another one touches no fresh page."""

import platform
import subprocess
import sys

import pytest

from tests.commands.command_case import ROOT

PROGRAM = """
import resource, torch
from utils.jobs import allocator
for keep in (False, True):
    if keep:
        allocator.keep_freed_memory()
    torch.ones(20 * 2**20)  # 80 MiB, freed at once
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(16 * 2**20)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_large_tensors_reuse_memory():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=True
    )
    left, kept = map(int, done.stdout.split())
    assert kept < 100
    assert left > 10_000  # 4 KiB each, so that this test can fail
