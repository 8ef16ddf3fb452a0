"""One process's place, precision and progress; real launches are in tests/commands."""

import pytest
import torch

from utils import launch, log


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
