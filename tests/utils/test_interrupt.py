"""Signals: remembered while there is something to finish, raised before."""

import os
import signal

import pytest

from utils import interrupt


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_until_it_is_asked_for(number):
    before = signal.getsignal(number)
    with interrupt.deferred() as interruption:
        interruption.check()
        os.kill(os.getpid(), number)
        with pytest.raises(interrupt.RunInterruptedError):
            interruption.check()
        assert signal.getsignal(number) is signal.SIG_DFL  # a second one ends the process
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_before_the_run_ends_the_command(number):
    def wait():
        os.kill(os.getpid(), number)
        signal.pause()

    with interrupt.raised(), pytest.raises(KeyboardInterrupt):
        wait()
