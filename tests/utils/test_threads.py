"""OpenMP's threads spin briefly where the user has not chosen, and only before torch is there."""

import subprocess
import sys

import pytest

from tests.commands.command_case import ROOT
from utils import threads


@pytest.fixture
def environment(monkeypatch):
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    return monkeypatch


def test_it_is_set_unless_the_user_chose(environment):
    environment.delitem(sys.modules, "torch")
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS"):
        environment.setenv(name, "7")
        threads.spin_briefly()
        assert threads.os.environ.get("GOMP_SPINCOUNT") == ("7" if name == "GOMP_SPINCOUNT" else None)
        environment.delenv(name)
    threads.prepare()
    assert threads.os.environ["GOMP_SPINCOUNT"] == "1000"


def test_after_torch_it_is_too_late(environment):
    with pytest.raises(RuntimeError, match="before the first import of torch"):
        threads.spin_briefly()
    threads.prepare()
    assert "GOMP_SPINCOUNT" not in threads.os.environ


@pytest.mark.parametrize("command", ["sample_sdedit", "sample_ddib"])
def test_the_commands_set_it_before_they_import_torch(environment, command):
    words = ["--weights", "weights/fruits64.safetensors", "--input_dir", "assets/strokes", "--save_dir", "o"]
    more = {"sample_sdedit": ["--t0", "0.5"], "sample_ddib": ["--class_A", "lemon", "--class_B", "lime"]}
    code = (
        f"import builtins, os, sys, {command}; original = builtins.__import__\n"
        "def first(name, *rest):\n"
        "    if name == 'torch': print(os.environ.get('GOMP_SPINCOUNT')); os._exit(0)\n"
        "    return original(name, *rest)\n"
        f"builtins.__import__ = first; {command}.main({[*words, *more[command], '--dry_run']})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "1000", done.stderr
