"""Runs that go on: after an end, after damage, with other options, and what they report."""

import errno
import json
import os
import signal

import pytest
import torch
from safetensors.torch import load_file, save_file

import sample_ddib
import sample_sdedit
from models import adm
from tests.commands.command_case import result_bytes
from utils import files

SDEDIT = ["--respace_steps", "10", "--edit_steps", "4", "--micro_batch", "2"]
DDIB = [
    "--respace_steps",
    "3",
    "--class_A",
    "cat",
    "--class_B",
    "dog",
    "hen",
    "--save_latents",
    "--comparison",
    "--trajectory",
    "4",
]


class Calls:
    """Network calls, counted and disturbed."""

    def __init__(self, monkeypatch, disturb=lambda number, x: None):
        self.number, real = 0, adm.ADM.forward

        def forward(module, x, *rest):
            self.number += 1
            replaced = disturb(self.number, x)
            return real(module, x if replaced is None else replaced, *rest)

        monkeypatch.setattr(adm.ADM, "forward", forward)


def interrupted_at(call):
    return lambda number, x: os.kill(os.getpid(), signal.SIGTERM) if number == call else None


def report(case):
    return json.loads((case.save_dir / "report.json").read_text())


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_an_interrupted_run_goes_on_to_the_same_files(case, tmp_path, monkeypatch, capsys, command, words):
    words = [*words, "--micro_batch", "1"]
    assert command.main([*case.words(tmp_path / "undisturbed"), *words]) == 0
    whole = result_bytes(tmp_path / "undisturbed")
    with monkeypatch.context() as patched:
        Calls(patched, interrupted_at(14))
        assert command.main([*case.words(), *words]) == 75
    part = result_bytes(case.save_dir)
    assert 0 < len(part) < len(whole)
    assert all(whole[name] == data for name, data in part.items())
    assert "interrupted; nothing is half written" in capsys.readouterr().err
    assert report(case)["processes"][0]["stopped"] == "interrupted"
    assert command.main([*case.words(), *words]) == 0
    assert result_bytes(case.save_dir) == whole
    counts = report(case)
    assert (counts["items"], counts["done"], counts["missing"], counts["failed"]) == (5, 5, 0, 0)
    assert [process["stopped"] for process in counts["processes"]].count("interrupted") == 1


def test_a_finished_run_computes_nothing_again(case, monkeypatch, capsys):
    sample_sdedit.main([*case.words(), *SDEDIT])
    calls = Calls(monkeypatch)
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "5", "--verify"]) == 0
    assert calls.number == 0
    assert "5 of 5 were done before" in capsys.readouterr().err
    (case.save_dir / "a.png").unlink()
    (case.input_dir / "new.png").write_bytes((case.input_dir / "a.png").read_bytes())
    assert sample_sdedit.main([*case.words(), *SDEDIT]) == 0
    assert calls.number == 4  # both new in one batch
    assert len(result_bytes(case.save_dir)) == 6


OTHERS = {
    "seed": (["--seed", "1"], "seed: 0 there, 1 now"),
    "steps": (["--edit_steps", "5"], "edit_steps: [4] there, [5] now"),
    "config": (["--set", "diffusion.beta_end=0.1"], "config.diffusion.beta_end: 0.2 there, 0.1 now"),
    "precision": (["--precision", "bf16"], 'precision: "torch.float32" there, "torch.bfloat16" now'),
    "files": (["--comparison"], "comparison: false there, true now"),
    "ways": (["--trajectory", "3"], "trajectory: null there, 3 now"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_another_run_is_refused_with_what_differs(case, capsys, name):
    words, message = OTHERS[name]
    sample_sdedit.main([*case.words(), *SDEDIT])
    before = result_bytes(case.save_dir)
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main([*case.words(), *SDEDIT, *words])
    assert caught.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed
    assert "holds another run" in printed
    assert result_bytes(case.save_dir) == before
    assert sample_sdedit.main([*case.words(), *SDEDIT, *words, "--overwrite"]) == 0
    assert result_bytes(case.save_dir) != before
    assert report(case)["done"] == 5


def test_other_weights_are_another_run_and_another_place_or_batch_is_not(case, tmp_path, monkeypatch, capsys):
    sample_sdedit.main([*case.words(), *SDEDIT])
    calls = Calls(monkeypatch)
    moved = tmp_path / "moved.safetensors"
    case.weights.rename(moved)
    words = [*case.words(), *SDEDIT, "--weights", str(moved)]
    assert sample_sdedit.main([*words, "--micro_batch", "1"]) == 0
    assert calls.number == 0
    state = load_file(moved)
    save_file({key: tensor + 0.01 for key, tensor in state.items()}, moved)
    with pytest.raises(SystemExit):
        sample_sdedit.main(words)
    assert 'weights: "sha256 ' in capsys.readouterr().err


def test_pictures_of_unknown_origin_are_not_replaced(case, capsys):
    case.save_dir.mkdir()
    (case.save_dir / "a.png").write_bytes(b"somebody's")
    with pytest.raises(SystemExit):
        sample_sdedit.main([*case.words(), *SDEDIT])
    assert "holds pictures but no run.json" in capsys.readouterr().err
    assert result_bytes(case.save_dir) == {"a.png": b"somebody's"}
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--overwrite"]) == 0
    assert len(result_bytes(case.save_dir)["a.png"]) > 100


def test_shards_together_do_all_and_report_as_one(case, tmp_path):
    sample_sdedit.main([*case.words(tmp_path / "whole"), *SDEDIT, "--micro_batch", "1"])
    for shard, done in (("0/3", 2), ("2/3", 3), ("1/3", 5)):
        assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "1", "--shard", shard]) == 0
        assert report(case)["done"] == done
    assert result_bytes(case.save_dir) == result_bytes(tmp_path / "whole")
    assert report(case)["missing"] == 0


def test_failures_are_listed_until_they_are_mended(case, capsys):
    good = (case.input_dir / "a.png").read_bytes()
    (case.input_dir / "a.png").write_bytes(good[:50])
    assert sample_sdedit.main([*case.words(), *SDEDIT]) == 3
    lines = (case.save_dir / "failures.jsonl").read_text().splitlines()
    assert [json.loads(line)["input"] for line in lines] == ["a.png"]
    assert "cannot be read" in json.loads(lines[0])["reason"]
    assert report(case)["failed"] == 1
    (case.input_dir / "a.png").write_bytes(good)
    assert sample_sdedit.main([*case.words(), *SDEDIT]) == 0
    assert (case.save_dir / "failures.jsonl").read_text() == ""
    assert report(case)["failed"] == 0


def test_the_report_counts_network_evaluations_and_names_versions(case):
    sample_ddib.main([*case.words(), *DDIB])
    counts = report(case)
    assert counts["network_evaluations"] == 5 * (
        5 + 2 * 4
    )  # Heun, one of 3 steps too long for its second call
    assert counts["precisions"] == {"float32": 5}
    [process] = counts["processes"]
    assert process["versions"]["torch"] == torch.__version__
    assert process["done"] == 5
    assert 0 <= process["waiting_for_files_s"] <= process["seconds"]


def test_short_memory_halves_the_batch_and_the_run_goes_on(case, tmp_path, monkeypatch, capsys):
    sample_sdedit.main([*case.words(tmp_path / "whole"), *SDEDIT, "--micro_batch", "1"])

    def short(number, x):
        if len(x) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")

    Calls(monkeypatch, short)
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "5"]) == 0
    assert result_bytes(case.save_dir) == result_bytes(tmp_path / "whole")
    assert report(case)["processes"][0]["micro_batch"] == 1
    assert "out of memory with 5 images a network call; going on with 3" in capsys.readouterr().err


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs the allocator of a GPU")
def test_short_memory_of_a_gpu_halves_the_batch(case, monkeypatch):
    def short(number, x):
        if len(x) > 2:
            torch.empty(2**50, device=x.device)

    Calls(monkeypatch, short)
    words = [word for word in case.words() if word != "--cpu"]
    assert sample_sdedit.main([*words, *SDEDIT, "--micro_batch", "5"]) == 0
    assert report(case)["processes"][0]["micro_batch"] == 2
    assert len(result_bytes(case.save_dir)) == 5


def test_what_is_not_finite_in_bf16_is_computed_in_fp32(case, tmp_path, monkeypatch, capsys):
    sample_sdedit.main([*case.words(tmp_path / "exact"), *SDEDIT, "--micro_batch", "1"])
    real = adm.ADM.forward

    def forward(module, x, *rest):
        out = real(module, x, *rest)
        half = next(module.parameters()).dtype != torch.float32 or module.input_blocks[0][0].weight.dtype
        if half == torch.bfloat16:
            out[:1] = torch.nan
        return out

    monkeypatch.setattr(adm.ADM, "forward", forward)
    words = [*case.words(), *SDEDIT, "--precision", "bf16", "--micro_batch", "2", "--no_metadata"]
    assert sample_sdedit.main(words) == 0
    assert report(case)["precisions"] == {"bfloat16": 2, "float32": 3}
    assert "1 of 2 results hold NaN or infinity; once more in fp32" in capsys.readouterr().err


def test_a_full_disk_ends_the_run_which_can_go_on(case, tmp_path, monkeypatch, capsys):
    sample_sdedit.main([*case.words(tmp_path / "whole"), *SDEDIT, "--micro_batch", "1"])
    real, left = files.write_synced, [2]

    def write(path, data):
        left[0] -= path.name.count("-0.tmp")
        if left[0] < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, data)

    with monkeypatch.context() as patched:
        patched.setattr(files, "write_synced", write)
        assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "1"]) == 75
    assert "No space left on device" in capsys.readouterr().err
    assert len(result_bytes(case.save_dir)) == 2
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "1"]) == 0
    assert result_bytes(case.save_dir) == result_bytes(tmp_path / "whole")


def test_an_input_that_vanishes_while_the_job_runs_fails_alone(case, monkeypatch, capsys):
    Calls(monkeypatch, lambda number, x: (case.input_dir / "e.PNG").unlink(missing_ok=True))
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--micro_batch", "1"]) == 3
    assert "failed: e.PNG: " in capsys.readouterr().err
    assert len(result_bytes(case.save_dir)) == 4
