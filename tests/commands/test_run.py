"""Both commands, in this process, on a tiny real network."""

import io
import json
import os
import pickle
import shlex
import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from torch._dynamo.testing import CompileCounter

import sample_ddib
import sample_sdedit
from tests.commands.command_case import CONFIG, result_bytes
from utils import codecs
from utils.sources.download import file_name

SDEDIT = ["--respace_steps", "10", "--edit_steps", "4"]
DDIB = ["--respace_steps", "5", "--class_A", "cat", "--class_B", "2"]
NAMES = ["a.png", "b.png", "deep/c.png", "deep/d.png", "e.png"]


def pixels(data: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(data))).astype(int)


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_one_result_an_input_under_its_own_name(case, command, words):
    assert command.main([*case.words(), *words]) == 0
    results = result_bytes(case.save_dir)
    assert sorted(results) == NAMES
    for data in results.values():
        image = Image.open(io.BytesIO(data))
        assert (image.size, image.mode) == ((16, 16), "RGB")
        assert json.loads(image.text["parameters"])["config"] == "tiny.yaml"
    first = result_bytes(case.save_dir)
    command.main([*case.words(), *words])
    assert result_bytes(case.save_dir) == first  # a rerun is byte-identical


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_micro_batch_and_subset_change_at_most_one_grey_level(case, tmp_path, command, words):
    runs = []
    for micro_batch in (1, 2, 5):
        folder = tmp_path / f"out{micro_batch}"
        command.main([*case.words(folder), *words, "--micro_batch", str(micro_batch)])
        runs.append(result_bytes(folder))
    (case.input_dir / "a.png").unlink()
    command.main([*case.words(), *words])
    runs.append({"a.png": runs[0]["a.png"], **result_bytes(case.save_dir)})
    for run in runs[1:]:
        assert sorted(run) == NAMES
        for name in NAMES:
            assert abs(pixels(run[name]) - pixels(runs[0][name])).max() <= 1


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_compiled_networks_make_the_same(case, tmp_path, monkeypatch, command, words):
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: compile_module(self, backend=counter, **k))
    command.main([*case.words(), *words, "--micro_batch", "2", "--compile"])
    assert counter.frame_count == 1  # five images: the last batch has one
    command.main([*case.words(tmp_path / "eager"), *words, "--micro_batch", "2"])
    compiled, eager = result_bytes(case.save_dir), result_bytes(tmp_path / "eager")
    assert sorted(compiled) == NAMES
    assert all(abs(pixels(compiled[name]) - pixels(eager[name])).max() <= 1 for name in NAMES)


def test_edit_steps_and_seed_matter_and_few_steps_stay_closer(case, tmp_path):
    def edited(*words):
        folder = tmp_path / "-".join(words)
        sample_sdedit.main([*case.words(folder), "--respace_steps", "20", *words])
        return pixels(result_bytes(folder)["a.png"])

    guide = np.asarray(Image.open(case.input_dir / "a.png")).astype(int)
    distances = [abs(edited("--edit_steps", k) - guide).mean() for k in ("1", "8", "20")]
    assert distances == sorted(distances)
    assert distances[0] < 20
    assert not np.array_equal(edited("--edit_steps", "8"), edited("--edit_steps", "8", "--seed", "1"))
    assert np.array_equal(edited("--edit_steps", "8"), edited("--t0", "0.4"))


def test_ddib_uses_its_classes(case, tmp_path):
    def translated(a, b):
        folder = tmp_path / f"{a}-{b}"
        sample_ddib.main([*case.words(folder), "--respace_steps", "5", "--class_A", a, "--class_B", b])
        return result_bytes(folder)

    assert {n: pixels(d).tolist() for n, d in translated("cat", "hen").items()} == {
        n: pixels(d).tolist() for n, d in translated("0", "2").items()
    }
    assert not np.array_equal(
        pixels(translated("cat", "dog")["a.png"]), pixels(translated("cat", "hen")["a.png"])
    )


def test_comparison_shows_input_noise_and_result(case):
    sample_sdedit.main([*case.words(), *SDEDIT, "--comparison"])
    results = result_bytes(case.save_dir)
    assert sorted(results) == sorted([*NAMES, *(f"comparison/{name}" for name in NAMES)])
    strip, guide = Image.open(io.BytesIO(results["comparison/a.png"])), Image.open(case.input_dir / "a.png")
    first, noised, last = (np.asarray(x) for x in codecs.cut_strip(strip, 16))
    assert strip.width == 3 * 128 + 2 * 2
    assert np.array_equal(first, np.asarray(guide))
    assert np.array_equal(last, pixels(results["a.png"]))
    assert not np.array_equal(noised, first)


def test_bf16_is_close_to_fp32(case, tmp_path):
    runs = []
    for precision in ("fp32", "bf16"):
        sample_ddib.main(
            [*case.words(tmp_path / precision), *DDIB, "--respace_type", "uniform", "--precision", precision]
        )
        runs.append(result_bytes(tmp_path / precision))
    differences = [abs(pixels(runs[0][name]) - pixels(runs[1][name])) for name in NAMES]
    assert 0 < np.mean(differences) < 2


def test_dry_run_prints_the_plan_and_touches_nothing(case, capsys, monkeypatch):
    for name in ("edit_plan", "translate_plan"):
        monkeypatch.setattr(f"utils.assemble.{name}.load_network", None)
    assert sample_sdedit.main([*case.words(), *SDEDIT, "--dry_run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 images at 16x16, 5 results"
    assert lines[1].startswith("level 4 of 10: t0 0.4, timestep 39 of 100, sigma ")
    betas = np.linspace(1e-3, 0.2, 100)
    assert lines[1].endswith(", 4 network evaluations an image")
    sigma = float(lines[1].partition("sigma ")[2].partition(",")[0])
    assert sigma == pytest.approx((1 / np.prod(1 - betas[:40]) - 1) ** 0.5, rel=1e-3)
    assert sample_ddib.main([*case.words(), *DDIB, "--dry_run"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "19 network evaluations an image"
    assert not case.save_dir.exists()


@pytest.mark.parametrize(
    ("words", "levels"),
    [
        ([], 25),
        (["--calls", "47"], 12),
        (["--respace_steps", "7"], 7),
        (["--respace_type", "ddim25"], 25),
        (["--respace_type", "3,5"], 8),
        (["--respace_type", "none"], 200),
    ],
)
def test_ddib_takes_100_calls_of_heun_unless_told_otherwise(case, capsys, words, levels):
    longer = ["--set", "diffusion.num_timesteps=200"]
    sample_ddib.main([*case.words(), "--class_A", "0", "--class_B", "1", "--dry_run", *longer, *words])
    printed = capsys.readouterr().out
    assert f"{levels} levels up to" in printed
    assert f"\n{4 * levels - 1} network evaluations an image" in printed


def test_bad_images_fail_alone(case, capsys):
    (case.input_dir / "text.png").write_text("hello")
    (case.input_dir / "deep" / "cut.jpg").write_bytes((case.input_dir / "b.jpg").read_bytes()[:300])
    assert sample_sdedit.main([*case.words(), *SDEDIT]) == 3
    assert sorted(result_bytes(case.save_dir)) == NAMES
    printed = capsys.readouterr().err
    assert "failed: text.png: not an image" in printed
    assert "failed: deep/cut.jpg: cannot be read" in printed
    assert "5 images in" in printed
    assert "2 failed" in printed


class Payload:
    def __reduce__(self):
        return print, ("code was run",)


def wrong_network(case):
    raw = yaml.safe_load(case.config.read_text())
    raw["model"]["model_channels"] = 64
    case.config.write_text(yaml.safe_dump(raw))


def unconditional(case):
    raw = yaml.safe_load(case.config.read_text())
    del raw["model"]["num_classes"], raw["classes"], raw["null_class"]
    case.config.write_text(yaml.safe_dump(raw))
    state = {key: x for key, x in load_file(case.weights).items() if not key.startswith("label_emb")}
    save_file(state, case.weights)


BAD = {
    "empty input": (lambda c: [p.unlink() for p in c.input_dir.rglob("*.*")], [], "no images"),
    "misspelt key": (
        lambda c: c.config.write_text(c.config.read_text().replace("beta_end", "beta_edn")),
        [],
        "diffusion.beta_edn: unknown key, did you mean beta_end?",
    ),
    "another network": (wrong_network, [], "do not fit the config's network"),
    "web page": (lambda c: c.weights.write_text("<html>"), [], "web page instead of weights"),
    "truncated": (lambda c: c.weights.write_bytes(c.weights.read_bytes()[:5000]), [], "truncated"),
    "code": (
        lambda c: c.weights.with_suffix(".pt").write_bytes(pickle.dumps(Payload())),
        ["--weights", "PT"],
        "PT",
    ),
    "too many steps": (lambda c: None, ["--edit_steps", "11"], "11"),
    "bad fraction": (lambda c: None, ["--t0", "1.5"], "1.5"),
    "too many levels": (lambda c: None, ["--respace_steps", "101"], "101"),
    "no such respacing": (lambda c: None, ["--respace_type", "uniform3"], "uniform3"),
    "bad override": (lambda c: None, ["--set", "model.image_sise=3"], "did you mean image_size"),
    "learned variance": (lambda c: None, ["--var_type", "learned_range"], "learned_range"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_explained_and_nothing_is_written(case, capsys, name):
    spoil, words, message = BAD[name]
    spoil(case)
    pt = str(case.weights.with_suffix(".pt"))
    words = [pt if word == "PT" else word for word in words]
    start = [
        "--respace_steps",
        "10",
        *([] if "--t0" in words or "--edit_steps" in words else ["--edit_steps", "4"]),
    ]
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main([*case.words(), *start, *words])
    assert caught.value.code == 2
    printed = capsys.readouterr()
    assert message.replace("PT", pt) in printed.err
    assert "code was run" not in printed.out
    assert not case.save_dir.exists()


@pytest.mark.parametrize(
    ("spoil", "class_a", "message"),
    [
        (None, "cow", "unknown class 'cow'"),
        (None, "4", "an index from 0 to 3"),
        (unconditional, "0", "has no classes"),
    ],
)
def test_unknown_classes_are_explained(case, capsys, spoil, class_a, message):
    if spoil:
        spoil(case)
    with pytest.raises(SystemExit) as caught:
        sample_ddib.main([*case.words(), "--class_A", class_a, "--class_B", "1"])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_sdedit_needs_a_null_label_or_an_unconditional_network(case, capsys):
    raw = {key: value for key, value in CONFIG.items() if key != "null_class"}
    case.config.write_text(yaml.safe_dump(raw))
    with pytest.raises(SystemExit):
        sample_sdedit.main([*case.words(), *SDEDIT])
    assert "always needs one of its 4 classes" in capsys.readouterr().err


def test_warnings_say_what_will_look_bad(case, capsys):
    sample_sdedit.main([*case.words(), *SDEDIT, "--var_type", "fixedlarge", "--dry_run"])
    assert "prefer fixed_small" in capsys.readouterr().err
    sample_ddib.main([*case.words(), *DDIB, "--respace_type", "quad", "--dry_run"])
    assert "not pure noise" in capsys.readouterr().err


def test_nan_is_never_written(case, capsys):
    state = load_file(case.weights)
    state["out.2.bias"] = torch.full_like(state["out.2.bias"], torch.nan)
    torch.save(state, case.weights.with_suffix(".pt"))
    words = [*case.words(), *SDEDIT, "--weights", str(case.weights.with_suffix(".pt"))]
    assert sample_sdedit.main(words) == 3
    assert result_bytes(case.save_dir) == {}
    assert capsys.readouterr().err.count("NaN") == 5


def test_no_report_writes_no_page_and_is_the_same_run(case):
    words = [*case.words(), *SDEDIT]
    assert sample_sdedit.main([*words, "--no_report"]) == 0
    assert (case.save_dir / "report.json").exists()
    assert not (case.save_dir / "report.html").exists()
    assert sample_sdedit.main(words) == 0
    assert (case.save_dir / "report.html").exists()


def test_a_run_records_its_command_line_without_secrets(case, monkeypatch):
    address = "https://me:hush@127.0.0.1:1/tiny.safetensors?token=hush"
    case.weights.rename(case.weights.with_name(file_name(address)))
    words = ["-c", case.config, "--weights", address, "--weights_dir", case.config.parent, "--cpu"]
    words += [
        "--input_dir",
        case.input_dir,
        "--save_dir",
        case.save_dir,
        *SDEDIT,
        "--set",
        "diffusion.clip=2",
    ]
    monkeypatch.setattr(sys, "argv", ["./sample_sdedit.py", *map(str, words)])
    assert sample_sdedit.main() == 0
    [process] = json.loads((case.save_dir / "report.json").read_text())["processes"]
    place = address.replace("me:hush@", "").replace("?token=hush", "")
    expected = ["python", *sys.argv]
    assert shlex.split(process["command"]) == [place if word == address else word for word in expected]
    assert process["directory"] == os.getcwd()
    texts = {path: path.read_bytes() for path in case.save_dir.rglob("*") if path.is_file()}
    assert [path for path, text in texts.items() if b"hush" in text] == []
    page = (case.save_dir / "report.html").read_text()
    assert place in page
    assert '"overrides":["diffusion.clip=2"]' in page


def test_what_is_known_of_a_result_is_told_without_opening_it(case):
    words = ["--respace_steps", "4", "--auto_t0", "--faithfulness", "9"]
    assert sample_sdedit.main([*case.words(), *words]) == 0
    report = json.loads((case.save_dir / "report.json").read_text())
    assert report["notes"][""]["edit_steps"] == 4
    assert report["notes"][""]["t0"] == 1
    for name in NAMES:
        with Image.open(case.save_dir / name) as image:
            parameters = json.loads(image.text["parameters"])
        assert report["results"][name] == {"difference": parameters["difference"]}
    before = (case.save_dir / "report.html").read_text().count('"difference":')
    assert sample_sdedit.main([*case.words(), *words]) == 0  # all was done before
    assert (case.save_dir / "report.html").read_text().count('"difference":') == before > 0


def test_a_folder_of_masks_is_named_by_its_path(case, tmp_path):
    masks = tmp_path / "masks"
    masks.mkdir()
    Image.new("L", (16, 16), 255).save(masks / "a.png")
    words = [*case.words(), *SDEDIT, "--mask_dir", str(masks), "--mask_default", "all"]
    assert sample_sdedit.main(words) == 0
    page = (case.save_dir / "report.html").read_text()
    assert f'"mask_dir":"{masks}"' in page
    assert json.loads((case.save_dir / "run.json").read_text())["settings"]["mask_dir"] is True
