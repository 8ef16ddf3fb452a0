"""What sample_ddib.py does beyond one class to another: solvers, two models, many targets, latents."""

import json
import shutil

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

import sample_ddib
from tests.commands.command_case import CONFIG, ROOT, result_bytes
from tests.commands.test_run import NAMES, pixels
from utils import codecs, command, option, sampling
from utils.sampling.budget import translation_timesteps
from utils.sampling.processes import complete
from utils.sampling.returning import describe_loss
from utils.settings import RECORDED, Translate

STEPS = ["--respace_steps", "8", "--respace_type", "quad90"]
TO_DOG = ["--class_A", "cat", "--class_B", "dog"]
SOLVERS = {
    "ddim": ["--solver", "ddim"],
    "source": ["--inversion", "source"],
    "fixed_point": ["--inversion", "fixed_point"],
    "heun": ["--solver", "heun"],
    "dpm-solver++": ["--solver", "dpm-solver++"],
    "exact": ["--solver", "exact"],
    "cycle-diffusion": ["--solver", "cycle-diffusion"],
    "edit-friendly": ["--solver", "edit-friendly", "--t0", "0.7"],
    "flow-edit": ["--solver", "flow-edit", "--t0", "0.7"],
}


@pytest.fixture
def case(case):
    """The tiny network with weights so small that its ODE is smooth, as a trained one's is."""
    state = {key: tensor * 0.3 for key, tensor in load_file(case.weights).items()}
    save_file(state, case.weights)
    return case


def run(case, folder, *words):
    """Run and return the pixels of every picture."""
    assert sample_ddib.main([*case.words(folder), *STEPS, *map(str, words)]) == 0
    return {n: pixels(data) for n, data in result_bytes(folder).items() if n.endswith(".png")}


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_translates_and_measures_the_way_back(case, tmp_path, capsys, solver):
    found = run(case, tmp_path / "o", *TO_DOG, *SOLVERS[solver], "--cycle", "--comparison")
    assert sorted(name for name in found if "/" not in name or name.startswith("deep")) == NAMES
    assert capsys.readouterr().err.count("A to dog to A 0.") == 5
    for name in NAMES:
        notes = json.loads(Image.open(tmp_path / "o" / name).text["parameters"])
        assert set(notes["latent"]) == {"mean", "std", "kurtosis", "correlation"}
        bounds = {**dict.fromkeys(("exact", *RECORDED), 1e-4), "fixed_point": 0.03, "source": 1}
        assert 0 <= notes["A_to_A"] < bounds.get(solver, 0.3)
        strip = codecs.cut_strip(Image.open(tmp_path / "o/comparison" / name), 16)
        first, _, _, back = (np.asarray(x) / 127.5 for x in strip)
        assert np.sqrt(((back - first) ** 2).mean()) == pytest.approx(notes["A_to_B_to_A"], abs=0.02)


@pytest.mark.parametrize("solver", ["ddim", "fixed_point", "exact", *RECORDED])
def test_micro_batch_changes_at_most_one_grey_level(case, tmp_path, solver):
    one, five = (run(case, tmp_path / n, *TO_DOG, *SOLVERS[solver], "--micro_batch", n) for n in ("1", "5"))
    assert max(abs(one[name] - five[name]).max() for name in NAMES) <= 1


def test_the_count_of_network_evaluations_is_reported(case, tmp_path, capsys):
    counts = {}
    for solver in ("ddim", "heun", "exact", "cycle-diffusion", "flow-edit"):
        run(case, tmp_path / solver, *TO_DOG, *SOLVERS[solver])
        counts[solver] = int(capsys.readouterr().err.split(" network evaluations each")[0].split()[-1])
    assert counts == {"ddim": 16, "heun": 31, "exact": 18, "cycle-diffusion": 16, "flow-edit": 16}
    run(case, tmp_path / "guided", *TO_DOG, *SOLVERS["ddim"], "--guidance_scale", 2)
    assert "24 network evaluations each" in capsys.readouterr().err


def test_many_targets_from_one_latent(case, tmp_path, capsys):
    found = run(case, tmp_path / "o", "--class_A", "cat", "--class_B", "dog", "hen")
    assert "46 network evaluations each" in capsys.readouterr().err  # 16 up, 15 down twice
    assert set(found) == {f"{f}/{n}" for f in ("to_dog", "to_hen", "sheets") for n in NAMES}
    alone = run(case, tmp_path / "alone", "--class_A", "cat", "--class_B", "hen")
    for name in NAMES:
        assert np.array_equal(found[f"to_hen/{name}"], alone[name])


@pytest.mark.parametrize("solver", ["edit-friendly", "flow-edit"])
def test_an_edit_of_a_class_begins_where_it_is_told(case, tmp_path, solver):
    """The lower, the nearer to the input; all calls lie below, and the guidance counts."""
    far, state = [], load_file(case.weights)
    save_file({key: tensor / 0.3 for key, tensor in state.items()}, case.weights)  # classes that differ
    for t0 in (0.2, 0.9):
        folder = tmp_path / str(t0)
        words = ["--class_A", "cat", "--class_B", "dog", "--solver", solver, "--t0", t0]
        words += ["--guidance_scale", 2, "--calls", 13, "--comparison"]
        assert sample_ddib.main([*case.words(folder), *map(str, words)]) == 0
        notes = json.loads(Image.open(folder / "a.png").text["parameters"])
        assert (notes["t0"], notes["timesteps"], notes["solver"]) == (t0, 4, solver)
        first, _, made = (
            np.asarray(x) / 127.5 for x in codecs.cut_strip(Image.open(folder / "comparison/a.png"), 16)
        )
        far.append(np.sqrt(((made - first) ** 2).mean()))
    assert far[0] < far[1]


def test_classes_by_folder_and_by_list(case, tmp_path):
    (case.input_dir / "dog").mkdir()
    (case.input_dir / "hen").mkdir()
    for name, folder in (("a.png", "dog"), ("b.jpg", "hen")):
        shutil.move(case.input_dir / name, case.input_dir / folder / name)
    for path in [*case.input_dir.rglob("deep/*"), case.input_dir / "e.PNG"]:
        path.unlink()
    to_cat = ["--class_B", "cat", *SOLVERS["ddim"]]
    by_folder = run(case, tmp_path / "folder", "--class_A", "folder", *to_cat)
    assert sorted(by_folder) == ["dog/a.png", "hen/b.png"]
    (tmp_path / "labels.csv").write_text("dog/a.png,dog\nhen/b.jpg,2\n")
    by_list = run(case, tmp_path / "list", "--class_A", tmp_path / "labels.csv", *to_cat)
    as_dog = run(case, tmp_path / "dog", "--class_A", "dog", *to_cat)
    for name in by_folder:
        assert np.array_equal(by_folder[name], by_list[name])
    assert abs(by_folder["dog/a.png"] - as_dog["dog/a.png"]).max() <= 1
    assert not np.array_equal(by_folder["hen/b.png"], as_dog["hen/b.png"])


def test_latents_are_saved_and_decoded_again(case, tmp_path, capsys):
    plain = run(case, tmp_path / "o", *TO_DOG, "--save_latents")
    latents = tmp_path / "o" / "latents"
    assert sorted(p.relative_to(latents).as_posix() for p in latents.rglob("*.*")) == [
        name.replace(".png", ".safetensors") for name in NAMES
    ]
    case.input_dir = latents
    again = run(case, tmp_path / "again", "--from_latents", "--class_B", "dog")
    assert "15 network evaluations each" in capsys.readouterr().err
    for name in NAMES:
        assert np.array_equal(again[name], plain[name])
    other = ["--from_latents", "--class_B", "dog", "--respace_type", "uniform", "--respace_steps", "8"]
    assert sample_ddib.main([*case.words(tmp_path / "other"), *other]) == 3
    assert "the latent was made otherwise: timesteps [0, " in capsys.readouterr().err
    save_file({"latent": torch.zeros(3, 32, 32)}, latents / "bad.safetensors", {"made_by": "null"})
    words = [*case.words(tmp_path / "most"), *STEPS, "--from_latents", "--class_B", "dog"]
    assert sample_ddib.main(words) == 3
    assert "bad.safetensors: a latent of shape [3, 32, 32]; this network's are" in capsys.readouterr().err
    assert all((tmp_path / "most" / name).is_file() for name in NAMES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", None),
        ("--solver heun --respace_steps 25", None),
        ("--solver exact --respace_type uniform-trailing", None),
        ("--inversion fixed_point --respace_type uniform", None),
        ("--inversion source", "lose about 0.29 on [-1, 1]"),
        ("--solver ddim --respace_type uniform --calls 200", "lose about 0.053 on [-1, 1]"),
        ("--solver ddim --respace_steps 10", "lose about 0.095 on [-1, 1]"),
        (
            "--solver heun --respace_type uniform-trailing --respace_steps 50",
            "sigma grows up to 633-fold in one",
        ),
        (
            "--solver dpm-solver++ --respace_type uniform-linspace",
            "--solver heun --respace_type quad90 --respace",
        ),
    ],
)
def test_what_the_steps_lose_is_said_beforehand(words, said):
    """On the demo's schedule, whose last timestep has a sigma of 20291; for the default nothing is."""
    config = sampling.read_config(ROOT / "configs/demo/fruits64.yaml")
    parser = command.make_parser("x", Translate, (), {}, "")
    required = ["--weights", "w", "--input_dir", "i", "--save_dir", "o", "--class_B", "1"]
    translate = option.make(Translate, vars(parser.parse_args([*required, *words.split()])))
    translate, trained = complete(translate, config), sampling.read_trained(config)
    timesteps = translation_timesteps(translate, trained, lambda sigma: 1)
    found = describe_loss(translate, config, trained, timesteps)
    assert (found is None) == (said is None), found
    assert said is None or said in found


@pytest.fixture
def second(case, tmp_path):
    """Another network, on another schedule, without classes."""
    raw = yaml.safe_load(case.config.read_text())
    del raw["model"]["num_classes"], raw["classes"], raw["null_class"]
    raw["diffusion"] = {"num_timesteps": 1000, "schedule": "cosine", "prediction": "v"}
    config, weights = tmp_path / "second.yaml", tmp_path / "second.safetensors"
    config.write_text(yaml.safe_dump(raw))
    state = {key: t.roll(1) for key, t in load_file(case.weights).items() if not key.startswith("label_emb")}
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, weights)
    return ["--config_B", config, "--weights_B", weights]


@pytest.mark.parametrize("solver", ["ddim", "heun", "exact"])
def test_two_networks_of_different_schedules(case, tmp_path, second, solver):
    found = run(case, tmp_path / "o", "--class_A", "cat", *second, *SOLVERS[solver], "--cycle")
    own = run(case, tmp_path / "own", *TO_DOG, *SOLVERS[solver])
    assert sorted(found) == NAMES
    assert not np.array_equal(found["a.png"], own["a.png"])


def test_the_same_network_twice_is_one_network(case, tmp_path):
    twice = ["--config_B", case.config, "--weights_B", case.weights]
    found = run(case, tmp_path / "o", *TO_DOG, *twice)
    plain = run(case, tmp_path / "plain", *TO_DOG)
    assert max(abs(found[name] - plain[name]).max() for name in NAMES) <= 1
    assert np.array_equal(run(case, tmp_path / "off", *TO_DOG, *twice, "--offload")["a.png"], found["a.png"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--class_B", "1"], "give --class_A"),
        (["--class_A", "1"], "give --class_B"),
        ([*TO_DOG, "--config_B", "CONFIG"], "--config_B: give its weights too"),
        ([*TO_DOG, "--solver", "heun", "--inversion", "source"], "only for --solver ddim, not heun"),
        ([*TO_DOG, "--offload"], "--offload: only with"),
        ([*TO_DOG, "--cycle", "--from_latents"], "--from_latents: not together"),
        ([*TO_DOG, "--solver", "cycle-diffusion", "--save_latents"], "cycle-diffusion: not together"),
        (
            ["--class_A", "folder", "--class_B", "1"],
            "put each picture in a folder that is called",
        ),
        (["--class_A", "gone.csv", "--class_B", "1"], "gone.csv: cannot be read"),
        (["--class_A", "cat", "--class_B", "cow"], "unknown class 'cow'"),
    ],
)
def test_options_that_do_not_go_together(case, capsys, words, message):
    words = [str(case.config) if word == "CONFIG" else word for word in words]
    with pytest.raises(SystemExit) as caught:
        sample_ddib.main([*case.words(), *STEPS, *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not case.save_dir.exists()


def test_networks_of_different_sizes_are_refused(case, tmp_path, capsys):
    raw = yaml.safe_load(yaml.safe_dump(CONFIG))
    raw["model"]["image_size"] = 32
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump(raw))
    with pytest.raises(SystemExit):
        sample_ddib.main([*case.words(), *TO_DOG, "--config_B", str(other), "--weights_B", str(case.weights)])
    assert "--config_B: its image_size is 32, that of --config 16" in capsys.readouterr().err


def test_latents_of_noise_and_of_a_picture():
    from diffusions.diagnostics import latent_statistics, unlike_noise

    noise = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    ramp = torch.linspace(-1, 1, 64).expand(2, 3, 64, 64)
    for x, far in ((noise, []), (ramp, ["std", "kurtosis", "correlation"])):
        rows = {key: value[0].item() for key, value in latent_statistics(x).items()}
        assert [text.split()[0] for text in unlike_noise(rows)] == far
    assert latent_statistics(ramp)["correlation"][0] > 0.9
