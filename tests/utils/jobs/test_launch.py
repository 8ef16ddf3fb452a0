"""One process's place, precision and progress; real launches are in tests/commands."""

import pytest
import torch

from utils import launchers, log
from utils.jobs import launch


def test_a_plain_process_is_alone_on_the_cpu(monkeypatch):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    assert launch.start(cpu=True, precision="auto") == launch.Launch(0, 1, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("requested", "precision", "dtype"),
    [
        ("no", "auto", torch.float32),
        ("bf16", "auto", torch.bfloat16),
        ("fp16", "auto", torch.float16),
        ("bf16", "fp32", torch.float32),
        ("no", "bf16", torch.bfloat16),
    ],
)
def test_auto_follows_the_launcher(monkeypatch, requested, precision, dtype):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", requested)
    assert launch.start(cpu=True, precision=precision).dtype == dtype


@pytest.mark.parametrize(
    ("has", "precision", "slow"),
    [
        ({"architecture": "x86_64", "avx2": True}, "bf16", True),
        ({"architecture": "x86_64", "avx512_bf16": True}, "bf16", False),
        ({"architecture": "x86_64", "avx512_bf16": True}, "fp16", True),
        ({"architecture": "x86_64", "avx2": True}, "fp32", False),
        ({"architecture": "aarch64"}, "bf16", False),
    ],
)
def test_a_precision_that_the_cpu_only_imitates_is_said(monkeypatch, caplog, has, precision, slow):
    monkeypatch.setattr(launch.torch.cpu, "get_capabilities", lambda: has)
    monkeypatch.setattr(log, "_said", set())
    caplog.set_level("INFO", "sample")
    launch.start(cpu=True, precision=precision)
    assert (f"this CPU has no instructions for {precision}" in caplog.text) == slow


def test_a_precision_that_the_networks_do_not_have_is_refused(monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp8")
    with pytest.raises(ValueError, match="is fp8; allowed are no, bf16 and fp16"):
        launch.start(cpu=True, precision="auto")


def test_compiling_without_a_compiler_is_refused(monkeypatch):
    assert launch.start(cpu=True, precision="fp32", compiled=True).compiled
    monkeypatch.setattr(launch.shutil, "which", lambda name: None)
    with pytest.raises(ValueError, match="--compile: found no"):
        launch.start(cpu=True, precision="fp32", compiled=True)


def test_processes_that_each_think_they_are_alone_are_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("accelerate.PartialState._shared_state", {"_cpu": True, "num_processes": 1})
    with pytest.raises(ValueError, match="started 2 processes, but each of them believes that it is alone"):
        launch.start(cpu=True, precision="auto")


@pytest.fixture
def environment(monkeypatch):
    """Set variables of the environment for a test, which may take them away itself."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK", "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"):
        monkeypatch.delenv(name, raising=False)
    return lambda **variables: [monkeypatch.setenv(name, text) for name, text in variables.items()]


@pytest.mark.parametrize(
    ("variables", "cause"),
    [
        (
            {"OMPI_COMM_WORLD_SIZE": "2", "OMPI_COMM_WORLD_RANK": "0"},
            "mpiexec started 2 .*OMPI_COMM_WORLD_SIZE",
        ),
        ({"PMI_SIZE": "3", "PMI_RANK": "1", "WORLD_SIZE": ""}, r"mpiexec started 3 .*--shard \$PMI_RANK/3"),
        ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"}, "srun started 2 .*torchrun --nproc_per_node 2"),
        ({"SLURM_NTASKS": "2", "SLURM_PROCID": "1"}, "srun started 2 processes"),
    ],
)
def test_other_launchers_are_named_and_may_start_shares(environment, variables, cause):
    environment(**variables)
    with pytest.raises(ValueError, match=cause):
        launch.start(cpu=True, precision="fp32")
    assert launch.start(cpu=True, precision="fp32", sharded=True).world_size == 1
    assert launch.start(cpu=True, precision="fp32").world_size == 1  # they count no longer


def test_a_job_script_that_slurm_started_is_alone(environment):
    environment(SLURM_NTASKS="2", SLURM_PROCID="0")
    assert launchers.join(sharded=False) == 1


@pytest.mark.parametrize("name", ["WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_PORT"])
def test_what_a_launcher_would_say_may_be_empty_but_is_a_number(environment, name):
    environment(**{name: " "})
    log.start()
    assert launch.start(cpu=True, precision="fp32").world_size == 1
    environment(**{name: "abc"})
    log.start()
    with pytest.raises(ValueError, match=f"{name}='abc', which is no whole number; .* unset it"):
        launch.start(cpu=True, precision="fp32")


def test_the_launchers_dynamo_backend_is_followed_or_said(environment, capsys):
    for backend, compiled in {"no": False, "INDUCTOR": True, "eager": False}.items():
        environment(ACCELERATE_DYNAMO_BACKEND=backend)
        log.start()
        assert launch.start(cpu=True, precision="fp32").compiled == compiled
        assert ("backend eager is not followed" in capsys.readouterr().err) == (backend == "eager")


def test_off_a_terminal_progress_is_a_line_now_and_then_on_rank_0(monkeypatch, capsys):
    log.start()
    monkeypatch.setattr(launch, "_LINE_EVERY_S", 0.0)
    for rank in (0, 1):
        progress = launch.Progress(num_images=4, calls_per_image=10, rank=rank)
        for _ in range(5):
            progress.network_called(batch_size=2)
        progress.skipped(1)
        progress.close()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 6
    assert lines[4].startswith("1.0 of 4 images, about 0 s left")
    assert lines[5].startswith("2.0 of 4 images")
    monkeypatch.setattr(launch, "_LINE_EVERY_S", 60.0)
    launch.Progress(4, 10, rank=0).network_called(2)
    assert capsys.readouterr().err == ""
