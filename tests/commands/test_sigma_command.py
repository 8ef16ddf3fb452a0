"""Networks that know any noise through the commands: EDM, consistency models, a VP SDE; and --sigma0."""

import json
import tarfile

import numpy as np
import pytest
import torch
import yaml

import sample_ddib
import sample_sdedit
from tests.commands.command_case import ROOT, result_bytes
from tests.commands.test_run import pixels
from utils.sampling.processes import read_config, read_trained

EDM = {"process": "edm", "num_timesteps": 1000, "sigma_min": 0.002, "sigma_max": 80, "prediction": "x0"}
PROCESSES = {
    "edm": {**EDM, "preconditioning": "edm"},
    "consistency": {**EDM, "num_timesteps": 40, "preconditioning": "consistency"},
    "vp_sde": {
        **{"process": "vp_sde", "num_timesteps": 1000, "beta": 1, "t_min": 1e-3, "t_max": 10},
        **{"prediction": "score", "clip": None, "image_range": [0, 10]},
    },
}


NAMES = {"a.png", "deep/d.png"}


@pytest.fixture(autouse=True)
def two_inputs(case):
    """Leave two of the inputs, as these networks take many calls."""
    for path in case.input_dir.rglob("[bce].*"):
        path.unlink()


@pytest.fixture
def of_process(case):
    """Say of the tiny network that it was trained on a process."""

    def change(name: str):
        raw = yaml.safe_load(case.config.read_text())
        case.config.write_text(yaml.safe_dump({**raw, "diffusion": PROCESSES[name]}))
        return case

    return change


def run(case, folder, *words, command=sample_sdedit):
    assert command.main([*case.words(folder), *map(str, words)]) == 0
    report = json.loads((folder / "report.json").read_text())
    return {name: pixels(data) for name, data in result_bytes(folder).items()}, report


def said(case, capsys, *words, command=sample_sdedit):
    assert command.main([*case.words(), *map(str, words), "--dry_run"]) == 0
    return capsys.readouterr().out


def calls(report: dict) -> float:
    return report["network_evaluations"] / report["done"]


@pytest.mark.parametrize(
    ("process", "words", "num_calls", "sampler"),
    [
        ("edm", ["--sigma0", 80, "--sampler", "heun"], 2 * 13 - 1, "heun"),
        ("edm", ["--sigma0", 80], 25, "sde-dpm-solver++"),
        ("edm", ["--edit_steps", 3, "--respace_steps", 7, "--sampler", "heun"], 5, "heun"),
        ("consistency", ["--sigma0", 3], 2, "consistency"),
        ("consistency", ["--t0", 0.5, "--calls", 4], 4, "consistency"),
        ("consistency", ["--sigma0", 3, "--calls", 1, "--repeats", 3], 3, "consistency"),
        ("vp_sde", ["--sigma0", 2, "--calls", 7, "--sampler", "heun"], 7, "heun"),
    ],
)
def test_edits_and_their_calls(of_process, tmp_path, capsys, process, words, num_calls, sampler):
    case = of_process(process)
    results, report = run(case, tmp_path / "o", *words)
    assert set(results) >= NAMES
    known = json.loads((tmp_path / "o" / "run.json").read_text())
    assert known["settings"]["sampler"] == sampler
    assert calls(report) == num_calls
    assert f"{num_calls} network evaluations an image" in said(case, capsys, *words)


def test_a_consistency_model_begins_where_it_is_told(of_process, capsys):
    """All calls lie below the start, whatever their number; of 40 levels 2.818 is the nearest to 3."""
    case = of_process("consistency")
    for count in (1, 2, 3, 4):
        plan = said(case, capsys, "--sigma0", 3, "--calls", count)
        assert f"level {count} of {count}: t0 0.525, timestep 20 of 40, sigma 2.818" in plan


def test_a_karras_grid_for_every_process(case, of_process, capsys):
    plan = said(case, capsys, "--edit_steps", 9, "--respace_type", "karras", "--respace_steps", 9)
    assert "level 9 of 9: t0 1, timestep 99 of 100" in plan  # of a table the nearest levels
    case = of_process("edm")
    plan = said(case, capsys, "--edit_steps", 17, 18)
    assert "level 18 of 18: t0 1, timestep 999 of 1000, sigma 80" in plan
    assert "level 17 of 18: t0 0.941235, timestep 940.235 of 1000, sigma 57.59" in plan


def test_masks_strengths_and_samples(of_process, tmp_path):
    case = of_process("consistency")
    results, _ = run(case, tmp_path / "o", "--sigma0", 2, "--samples", 2, "--trajectory", 3, "--comparison")
    first, second = (results[f"a_s0{i}.png"] for i in range(2))
    assert not np.array_equal(first, second)
    again, _ = run(case, tmp_path / "p", "--sigma0", 2, "--samples", 2, "--micro_batch", 1)
    assert abs(again["a_s00.png"] - first).max() <= 1


@pytest.mark.parametrize("process", ["edm", "vp_sde"])
def test_translations(of_process, tmp_path, process):
    case = of_process(process)
    classes = ["--class_A", "cat", "--class_B", "dog"]
    words = ["--solver", "heun", "--cycle", "--respace_steps", 8]
    results, _ = run(case, tmp_path / "o", *classes, *words, command=sample_ddib)
    assert set(results) >= NAMES


def test_two_networks_of_other_processes_meet_at_equal_noise(of_process, case, tmp_path, capsys):
    second = tmp_path / "vp.yaml"
    second.write_text(case.config.read_text())
    case = of_process("edm")
    words = ["--class_A", "cat", "--class_B", "dog", "--config_B", second, "--weights_B", case.weights]
    run(
        case,
        tmp_path / "o",
        *words,
        "--respace_steps",
        6,
        "--set",
        "diffusion.sigma_max=50",
        command=sample_ddib,
    )


@pytest.mark.parametrize(
    ("process", "words", "message"),
    [
        ("edm", ["--sigma0", 300], "--sigma0: sigma 300: the levels of this process have 0.002 to 80"),
        ("edm", ["--sigma0", 0], "--sigma0 0.0: allowed is above 0"),
        ("edm", ["--sigma0", 1, "--t0", 0.5], "--t0 and --sigma0: give one of them"),
        (
            "edm",
            ["--sigma0", 1, "--sampler", "consistency"],
            "this network is no consistency model",
        ),
        ("edm", ["--sigma0", 1, "--classifier", "w"], "w: no such"),
        ("edm", ["--sigma0", 1, 1.0001], "the same level twice"),
        (
            *("edm", ["--sigma0", 1, "--sampler", "ddpm", "--var_type", "learned_range"]),
            "var_type learned_range: not for process edm",
        ),
        ("edm", ["--edit_steps", 3, "--calls", 4], "--calls: only with --t0 or --sigma0"),
        ("edm", ["--t0", 0.5, "--calls", 4, "--respace_steps", 4], "give one of them, both say how many"),
        ("edm", ["--t0", 0.5, "--calls", 4, "--respace_type", "ddim50"], "ddim50 says itself how many"),
        ("edm", ["--sigma0", 1, "--set", "diffusion.preconditioning=edn"], "allowed are edm, edm_250, cons"),
        ("edm", ["--sigma0", 1, "--set", "diffusion.schedule=linear"], "schedule: not for process edm"),
        ("edm", ["--sigma0", 1, "--set", "diffusion.prediction=eps"], "allowed for process edm: x0"),
        ("edm", ["--sigma0", 1, "--set", "diffusion.rescale_betas_zero_snr=true"], "only for process vp"),
        ("vp_sde", ["--sigma0", 1, "--set", "diffusion.t_min=11"], "0 < t_min < t_max"),
        ("vp_sde", ["--sigma0", 1, "--set", "diffusion.image_range=[1, 1]"], "black below white"),
        ("edm", ["--sigma0", 1, "--set", "diffusion.image_range=[0, 1]"], "image_range: not for process edm"),
        ("vp_sde", ["--sigma0", 1, "--set", "diffusion.beta=null"], "beta: missing, process vp_sde"),
    ],
)
def test_what_cannot_be_is_told(of_process, capsys, process, words, message):
    case = of_process(process)
    with pytest.raises(SystemExit, match="2"):
        sample_sdedit.main([*case.words(), *map(str, words)])
    assert message in capsys.readouterr().err
    assert not case.save_dir.exists()


def test_a_schedule_without_signal_at_its_end(case, tmp_path, capsys):
    """From there a white and a black input give the same picture; JSON knows no infinity."""
    raw = yaml.safe_load(case.config.read_text())
    raw["diffusion"] |= {"rescale_betas_zero_snr": True, "prediction": "v"}
    case.config.write_text(yaml.safe_dump(raw))
    words = ["--t0", 1, "--respace_steps", 5]
    results, _ = run(case, tmp_path / "o", *words)
    assert "sigma inf" in said(case, capsys, *words)
    report = (tmp_path / "o" / "report.json").read_text()
    assert '"sigma": "inf"' in report
    assert "Infinity" not in report
    assert set(results) >= NAMES
    words = ["--solver", "heun", "--respace_type", "uniform-trailing", "--respace_steps", 5]
    run(case, tmp_path / "d", "--class_A", "cat", "--class_B", "dog", *words, command=sample_ddib)


@pytest.mark.parametrize(("rescale", "told"), [(True, [0.0, 0.25, 999.75]), (False, [0, 1, 3999])])
def test_timesteps_are_told_as_in_training(case, rescale, told):
    raw = yaml.safe_load(case.config.read_text())
    raw["diffusion"] = {"num_timesteps": 4000, "schedule": "cosine", "rescale_timesteps": rescale}
    case.config.write_text(yaml.safe_dump(raw))
    model = read_trained(read_config(case.config)).adapt(lambda x, t: t)
    assert model(None, torch.tensor([0, 1, 3999])).tolist() == told


SONG = {
    **{"name": "song_unet", "image_size": 8, "model_channels": 8, "channel_mult": [1, 2]},
    **{"num_res_blocks": 1, "attention_resolutions": [4], "num_classes": 3, "augment_dim": 9},
}


def test_a_pickle_of_nvlabs_through_both_commands(case, tmp_path, monkeypatch, capsys):
    """Read without running it: its text would leave a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    with tarfile.open(ROOT / "tests/golden/pickles/edm.tar.xz") as archive:
        archive.extract("tiny_song.pkl", tmp_path, filter="data")
    case.weights = tmp_path / "tiny_song.pkl"
    case.config.write_text(yaml.safe_dump({"model": SONG, "diffusion": PROCESSES["edm"]}))
    results, report = run(case, tmp_path / "o", "--sigma0", 5, "--class_label", 2)
    assert calls(report) == 25
    assert "without a class" not in capsys.readouterr().err
    run(case, tmp_path / "n", "--sigma0", 5, "--calls", 2)
    assert (
        "warning: without a class; NVlabs trained networks of 3 classes with one" in capsys.readouterr().err
    )
    run(case, tmp_path / "d", "--class_A", 0, "--class_B", 2, "--solver", "heun", command=sample_ddib)
    assert set(results) >= NAMES
    assert not (tmp_path / "PICKLE_CODE_RAN").exists()
    case.config.write_text(
        yaml.safe_dump({"model": {**SONG, "num_classes": 4}, "diffusion": PROCESSES["edm"]})
    )
    with pytest.raises(SystemExit, match="2"):
        sample_sdedit.main([*case.words(tmp_path / "m"), "--sigma0", "5"])
    assert "map_label.weight is" in capsys.readouterr().err
