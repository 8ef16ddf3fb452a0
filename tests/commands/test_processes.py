"""Real launches: plain python, accelerate launch and torchrun, on the CPU."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import sample_sdedit
from tests.commands.command_case import ROOT, result_bytes

pytestmark = pytest.mark.launch
BIN = Path(sys.executable).parent
WORDS = ["--respace_steps", "10", "--edit_steps", "3"]


def run(command, **environment):
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(
        list(map(str, command)), cwd=ROOT, capture_output=True, text=True, env=env, timeout=200
    )


def torchrun(num_processes, *words):
    return [BIN / "torchrun", "--standalone", "--nproc_per_node", str(num_processes), *words]


def accelerate(num_processes, *words):
    several = ["--multi_gpu"] if num_processes > 1 else []
    fixed = ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    return [BIN / "accelerate-launch", *several, "--num_processes", str(num_processes), *fixed, *words]


def counts(done):
    """Images that each process reports: 'k images in'."""
    return [int(n) for n in re.findall(r"(\d+) images in", done.stderr)]


def test_any_number_of_processes_gives_the_same_files(case, tmp_path):
    alone = made_alone(case, tmp_path / "alone")
    assert len(alone) == 5
    command = ["sample_sdedit.py", *case.words(tmp_path / "two"), *WORDS, "--micro_batch", "1"]
    done = run([*accelerate(2), *command], ACCELERATE_USE_CPU="true")
    assert done.returncode == 0, done.stderr
    assert sum(counts(done)) == 5
    assert len(counts(done)) == 2
    assert result_bytes(tmp_path / "two") == alone


def made_alone(case, folder, *words):
    """Return the results of one process: this one."""
    command = [*case.words(folder), *WORDS, "--micro_batch", "1", *words]
    assert sample_sdedit.main(command) == 0
    return result_bytes(folder)


def test_two_machines_by_two_launchers_and_shares_by_none_give_the_same_files(case, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["sample_sdedit.py", *case.words(), *WORDS, "--micro_batch", "1"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    launched = []
    for machine in ("0", "1"):
        place = ["--nnodes", "2", "--node_rank", machine, "--master_addr", "127.0.0.1", "--master_port", port]
        words = [BIN / "torchrun", "--nproc_per_node", "1", *place, *command]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        launched.append(subprocess.Popen(list(map(str, words)), cwd=ROOT, env=environment, **pipes))
    for machine in launched:
        _, errors = machine.communicate(timeout=150)
        assert machine.returncode == 0, errors
    shares = [made_alone(case, tmp_path / "shares", "--shard", shard) for shard in ("1/2", "0/2")][-1]
    assert len(shares) == 5
    assert result_bytes(case.save_dir) == shares


def test_a_run_imports_no_compiler(case):
    done = run([sys.executable, "-X", "importtime", "sample_sdedit.py", *case.words(), *WORDS])
    assert done.returncode == 0
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time" in line}
    assert "torch" in imported
    assert not imported & {"torch._dynamo", "torch._inductor", "sympy"}  # a second and more


def test_ddib_by_more_processes_than_images_one_of_them_bad(case):
    for path in case.input_dir.rglob("[a-d]*.*"):
        path.unlink()  # e.PNG is left, for the second process, and nothing for the third
    (case.input_dir / "0.png").write_text("bad, and the first of all, so that its process ends first")
    words = [
        "sample_ddib.py",
        *case.words(),
        "--respace_steps",
        "100",
        "--class_A",
        "cat",
        "--class_B",
        "dog",
    ]
    done = run(torchrun(3, *words))
    assert done.returncode == 0, done.stderr
    assert "failed: 0.png: not an image" in done.stderr
    assert sorted(counts(done)) == [0, 0, 1]
    assert list(result_bytes(case.save_dir)) == ["e.png"]


def test_processes_that_cannot_see_one_another_are_stopped(case):
    words = [word for word in case.words() if word != "--cpu"]
    done = run(torchrun(2, "sample_sdedit.py", *words, *WORDS), CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    assert "believes that it is alone" in done.stderr
    assert not case.save_dir.exists()


def test_the_launchers_mixed_precision_is_honoured(case, tmp_path):
    launcher = [BIN / "accelerate-launch", "--num_processes", "1", "--num_machines", "1"]
    launcher += ["--mixed_precision", "bf16", "--dynamo_backend", "no", "sample_sdedit.py"]
    done = run([*launcher, *case.words(tmp_path / "launcher"), *WORDS, "--micro_batch", "1"])
    assert done.returncode == 0, done.stderr
    low, full = (
        made_alone(case, tmp_path / precision, "--precision", precision) for precision in ("bf16", "fp32")
    )
    assert result_bytes(tmp_path / "launcher") == low != full
