"""The threads of OpenMP, told not to spin for long at the barriers where they wait for one another."""

import os
import sys

_SPINS = "GOMP_SPINCOUNT"
_CHOSEN = (_SPINS, "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
_COUNT = "1000"
"""Measured, see docs/performance.md: as fast on a free machine, little behind where cores are shared."""


def prepare() -> None:
    """Do as `spin_briefly` where it is not too late; a program that imports torch first chose for itself."""
    if "torch" not in sys.modules:
        spin_briefly()


def spin_briefly() -> None:
    """Let OpenMP's threads sleep soon when they wait, so that a shared machine is not many times slower.

    torch on Linux brings libgomp, whose threads by themselves spin for milliseconds at a barrier. Where
    another program has the core of a thread that is waited for, nobody uses that time, at each of the
    thousands of barriers of a network call. What the user has set of GOMP_SPINCOUNT, OMP_WAIT_POLICY or
    OMP_NUM_THREADS stays as it is. The environment of this process is changed, for it is read when torch
    is imported.

    Raises:
        RuntimeError: torch is imported already, so that it would have no effect.
    """
    if "torch" in sys.modules:
        raise RuntimeError("torch is imported already; call spin_briefly before the first import of torch")
    if not any(name in os.environ for name in _CHOSEN):
        os.environ[_SPINS] = _COUNT
