"""What sample_sdedit.py does beyond one result an input: masks, sweeps, samples, guidance, VE."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

import sample_sdedit
from models import build_model
from models.adm import ADMClassifierConfig
from tests.commands.command_case import CONFIG, MODEL, ROOT, result_bytes
from tests.commands.test_run import NAMES, pixels
from utils import codecs
from utils.images import paths

STEPS = ["--respace_steps", "10"]
SAMPLERS = {
    "ddpm": [],
    "ddim": ["--sampler", "ddim"],
    "dpm": ["--sampler", "dpm-solver++"],
    "sde-dpm": ["--sampler", "sde-dpm-solver++"],
    "ve": [
        "--set",
        "diffusion.process=ve",
        "--set",
        "diffusion.sigma_min=0.01",
        "--set",
        "diffusion.sigma_max=20",
    ],
}
SAMPLERS["ve-corrected"] = [*SAMPLERS["ve"], "--corrector_steps", "2"]


def run(case, folder, *words):
    """Run and return the pixels of every result."""
    assert sample_sdedit.main([*case.words(folder), *STEPS, *map(str, words)]) == 0
    return {name: pixels(data) for name, data in result_bytes(folder).items()}


def fitted(case):
    """The inputs as the network gets them: what no step at all would give."""
    targets = paths.result_names(paths.find_images(case.input_dir, case.save_dir))
    decoded = {target: codecs.decode(case.input_dir / name) for name, target in targets.items()}
    return {
        target: np.asarray(codecs.fit(image, 16, "crop")).astype(int) for target, image in decoded.items()
    }


@pytest.fixture
def masked(case, tmp_path):
    """A mask for every input, in other formats: white on the left half."""
    for path in case.input_dir.rglob("*.*"):
        image = Image.open(path)
        mask = Image.new("L", image.size, 0)
        mask.paste(255, (0, 0, image.width // 2, image.height))
        target = tmp_path / "masks" / path.relative_to(case.input_dir).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        mask.save(target)
    return case, ["--mask_dir", tmp_path / "masks"]


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_nothing_changes_outside_the_mask(masked, tmp_path, sampler, repeats):
    case, words = masked
    found = run(case, tmp_path / "o", "--edit_steps", 6, *words, *SAMPLERS[sampler], "--repeats", repeats)
    guides = fitted(case)
    for name in NAMES:
        assert np.array_equal(found[name][:, 8:], guides[name][:, 8:])
        assert not np.array_equal(found[name][:, :8], guides[name][:, :8])


def test_mask_options(masked, tmp_path):
    case, words = masked
    guide = fitted(case)["a.png"]
    inverted = run(case, tmp_path / "i", "--edit_steps", 6, *words, "--mask_invert")["a.png"]
    assert np.array_equal(inverted[:, :8], guide[:, :8])
    soft = run(case, tmp_path / "f", "--edit_steps", 6, *words, "--mask_feather", 3)["a.png"]
    hard = run(case, tmp_path / "h", "--edit_steps", 6, *words)["a.png"]
    assert np.array_equal(soft[:, 8:], guide[:, 8:])
    assert abs(soft[:, 7] - guide[:, 7]).mean() < abs(hard[:, 7] - guide[:, 7]).mean()
    fixed = run(case, tmp_path / "n", "--edit_steps", 6, *words, "--mask_noise", "fixed")["a.png"]
    assert not np.array_equal(fixed, hard)


def test_a_missing_mask_is_a_failed_item_unless_said_otherwise(masked, tmp_path, capsys):
    case, words = masked
    (tmp_path / "masks" / "b.png").unlink()
    assert sample_sdedit.main([*case.words(), *STEPS, "--edit_steps", "4", *map(str, words)]) == 3
    assert "failed: b.jpg: no mask in" in capsys.readouterr().err
    assert sorted(result_bytes(case.save_dir)) == [name for name in NAMES if name != "b.png"]
    everywhere = run(case, tmp_path / "all", "--edit_steps", 4, *words, "--mask_default", "all")["b.png"]
    assert (everywhere != fitted(case)["b.png"]).mean() > 0.5


def test_a_mask_of_another_size_is_a_failed_item(masked, capsys):
    case, words = masked
    Image.new("L", (5, 5)).save(words[1] / "a.png")
    assert sample_sdedit.main([*case.words(), *STEPS, "--edit_steps", "4", *map(str, words)]) == 3
    assert "failed: a.png: its masks/a.png is 5x5 and the image 16x16" in capsys.readouterr().err


def test_files_of_the_authors(case, tmp_path):
    """[mask, image], the mask 1 where the image is kept."""
    for path in case.input_dir.rglob("*.*"):
        path.unlink()
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0)).mul(255).round() / 255
    mask = torch.ones(3, 16, 16)
    mask[:, 4:9, 2:6] = 0
    torch.save([mask, image], case.input_dir / "painting.pth")
    found = run(case, tmp_path / "o", "--edit_steps", 6)["painting.png"]
    given = (image * 255).round().int().permute(1, 2, 0).numpy()
    changed = (found != given).any(axis=2)
    assert changed[4:9, 2:6].mean() > 0.9
    changed[4:9, 2:6] = False
    assert not changed.any()
    torch.save({"mask": mask}, case.input_dir / "other.pth")
    assert sample_sdedit.main([*case.words(), *STEPS, "--edit_steps", "2"]) == 3


def test_several_strengths_share_the_noise_and_make_a_sheet(case, tmp_path):
    found = run(case, tmp_path / "o", "--t0", 0.3, 0.6)
    alone = run(case, tmp_path / "alone", "--t0", 0.6)
    assert sorted(found) == sorted(
        f"{folder}/{n}" for folder in ("sheets", "t0_0.3", "t0_0.6") for n in NAMES
    )
    for name in NAMES:
        assert np.array_equal(found[f"t0_0.6/{name}"], alone[name])
        sheet = [np.asarray(x) for x in codecs.cut_strip(Image.open(tmp_path / "o/sheets" / name), 16)]
        assert np.array_equal(sheet, [fitted(case)[name], found[f"t0_0.3/{name}"], alone[name]])


def test_calls_lie_below_each_start(case, tmp_path):
    """Also of starts so near that a grid over the whole process would not tell them apart."""
    words = [*case.words(tmp_path / "o"), "--t0", "0.62", "0.6", "0.03", "--calls", "5"]
    assert sample_sdedit.main(words) == 0
    assert sample_sdedit.main([*case.words(tmp_path / "alone"), "--t0", "0.6", "--calls", "5"]) == 0
    found = {name: pixels(data) for name, data in result_bytes(tmp_path / "o").items()}
    for folder, levels in {"t0_0.62": 5, "t0_0.6": 5, "t0_0.03": 3}.items():  # of 100 timesteps 3 are 0.03
        notes = json.loads(Image.open(tmp_path / "o" / folder / "a.png").text["parameters"])
        assert (notes["timesteps"], notes["edit_steps"], notes["calls"]) == (levels, levels, 5)
        assert notes["t0"] == float(folder[3:])
    for name, data in result_bytes(tmp_path / "alone").items():
        assert np.array_equal(found[f"t0_0.6/{name}"], pixels(data))


def test_samples_differ_and_the_first_is_the_plain_result(case, tmp_path):
    found = run(case, tmp_path / "o", "--edit_steps", 6, "--samples", 3, "--micro_batch", 2)
    assert sorted(found)[:3] == ["a_s00.png", "a_s01.png", "a_s02.png"]
    assert len(found) == 15
    plain = run(case, tmp_path / "plain", "--edit_steps", 6)
    assert abs(found["a_s00.png"] - plain["a.png"]).max() <= 1
    assert not np.array_equal(found["a_s01.png"], found["a_s02.png"])


def test_auto_t0_goes_as_far_as_it_may(case, tmp_path, capsys):
    limit = 0.4
    found = run(case, tmp_path / "o", "--auto_t0", "--faithfulness", limit)
    assert capsys.readouterr().err.count("of 10, difference 0.") == 5
    for name in found:
        notes = json.loads(Image.open(tmp_path / "o" / name).text["parameters"])
        level = notes["edit_steps"]
        difference = (found[name] - fitted(case)[name]) / 127.5
        assert np.sqrt((difference**2).mean()) == pytest.approx(notes["difference"], abs=0.01)
        assert notes["difference"] <= limit
        assert abs(run(case, tmp_path / f"l{level}", "--edit_steps", level)[name] - found[name]).max() <= 1
        if level < 10:
            further = run(case, tmp_path / f"l{level + 1}", "--edit_steps", level + 1)[name]
            assert np.sqrt((((further - fitted(case)[name]) / 127.5) ** 2).mean()) > limit - 0.01
    assert sample_sdedit.main([*case.words(), *STEPS, "--auto_t0", "--faithfulness", "1e-9"]) == 3
    assert "even 1 step goes further than --faithfulness 1e-09" in capsys.readouterr().err


def test_strengths_pixel_by_pixel(case, tmp_path):
    for path in case.input_dir.rglob("*.*"):
        strength = Image.new("L", Image.open(path).size, 0)
        strength.paste(64, (strength.width // 2, 0, strength.width, strength.height))
        target = tmp_path / "strength" / path.relative_to(case.input_dir).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        strength.save(target)
    found = run(case, tmp_path / "o", "--edit_steps", 10, "--strength_dir", tmp_path / "strength")
    whole = run(case, tmp_path / "whole", "--edit_steps", 10)
    for name, guide in fitted(case).items():
        assert np.array_equal(found[name][:, :7], guide[:, :7])
        quarter = abs(found[name][:, 9:] - guide[:, 9:]).mean()
        assert 0 < quarter < abs(whole[name][:, 9:] - guide[:, 9:]).mean()


def test_class_label_and_guidance(case, tmp_path):
    def edited(name, *words):
        return run(case, tmp_path / name, "--edit_steps", 6, *words)["a.png"]

    none, cat, dog = edited("0"), edited("1", "--class_label", "cat"), edited("2", "--class_label", 1)
    assert not np.array_equal(none, cat)
    assert not np.array_equal(dog, cat)
    away = ["--class_label", "cat", "--guidance_scale", "4"]
    guided = edited("3", *away)
    assert not np.array_equal(guided, cat)
    assert np.array_equal(edited("4", "--class_label", "cat", "--guidance_scale", "1"), cat)
    assert np.array_equal(guided, edited("5", *away, "--unconditional", case.config, case.weights))


def test_guidance_within_an_interval_makes_fewer_calls(case, tmp_path, capsys):
    """As many as are said beforehand, so that the same --calls are more steps."""
    words = ["--t0", "0.9", "--class_label", "cat", "--guidance_scale", "3", "--calls", "12"]
    found = {}
    for name, interval in {"all": ["0", "1000"], "some": ["0.3", "1.2"]}.items():
        interval = ["--guidance_interval", *interval]
        assert sample_sdedit.main([*case.words(), *words, *interval, "--dry_run"]) == 0
        said = capsys.readouterr().out
        assert sample_sdedit.main([*case.words(tmp_path / name), *words, *interval]) == 0
        assert " 12 network evaluations an image" in said
        assert "12 network evaluations each" in capsys.readouterr().err
        found[name] = json.loads(Image.open(tmp_path / name / "a.png").text["parameters"])
    assert found["all"]["edit_steps"] == 6
    assert found["some"]["edit_steps"] > 6
    assert found["some"]["guidance_interval"] == [0.3, 1.2]
    assert sample_sdedit.main([*case.words(tmp_path / "default"), *words]) == 0
    notes = json.loads(Image.open(tmp_path / "default" / "a.png").text["parameters"])
    assert notes["guidance_interval"] == [0.28, 2.9]


def test_the_config_of_what_leads_may_be_left_out(case, capsys):
    demo = str(ROOT / "weights/fruits64.safetensors")
    words = ["--weights", demo, "--input_dir", str(case.input_dir), "--save_dir", str(case.save_dir)]
    words += ["--dry_run", "--t0", "0.5", "--class_label", "kiwi", "--guidance_scale", "2"]
    assert sample_sdedit.main([*words, "--unconditional", demo]) == 0
    assert "25 network evaluations an image" in capsys.readouterr().out  # of 15 steps, 10 lean
    for wrong, message in {
        "fruit64": "--unconditional fruit64: no such file or folder, and no published weights",
        f"no.yaml {demo}": "--unconditional no.yaml: does not exist; give the path of a file",
        "a b c": "--unconditional a b c: 3 words; give [CONFIG] WEIGHTS",
    }.items():
        with pytest.raises(SystemExit, match="2"):
            sample_sdedit.main([*words, "--unconditional", *wrong.split()])
        assert message in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        sample_sdedit.main([*words, "--classifier", demo])
    assert "not a classifier; give an adm_classifier" in capsys.readouterr().err


@pytest.fixture
def classifier(tmp_path):
    keys = ("image_size", "model_channels", "channel_mult", "num_res_blocks", "attention_resolutions")
    keys += ("num_heads",)
    model = {
        "name": "adm_classifier",
        "out_channels": 2,
        "pool": "adaptive",
        **{key: MODEL[key] for key in keys},
    }
    config = {"model": model, "diffusion": CONFIG["diffusion"], "classes": ["ripe", "raw"]}
    path, weights = tmp_path / "classifier.yaml", tmp_path / "classifier.safetensors"
    path.write_text(yaml.safe_dump(config))
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in model.items() if k != "name"}
    torch.manual_seed(0)
    state = build_model(ADMClassifierConfig(**arguments)).state_dict()
    save_file({key: torch.randn(t.shape) * 0.2 for key, t in state.items()}, weights)
    return ["--classifier", str(path), str(weights)]


@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm"])
def test_a_classifier_leads(case, tmp_path, classifier, sampler):
    def edited(name, *words):
        return run(case, tmp_path / name, "--edit_steps", 6, *SAMPLERS[sampler], *words)["a.png"]

    plain = edited("plain", "--class_label", "cat")
    with_classes = [*classifier, "--classifier_scale", "0"]
    raw = yaml.safe_load(case.config.read_text())
    raw["classes"] = ["ripe", "raw"]
    case.config.write_text(yaml.safe_dump(raw))
    assert np.array_equal(edited("zero", "--class_label", "ripe", *with_classes), plain)
    far = [
        edited(label, "--class_label", label, *classifier, "--classifier_scale", "30")
        for label in ("ripe", "raw")
    ]
    assert not np.array_equal(far[0], plain)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--auto_t0"], "--auto_t0 and --faithfulness go together"),
        (["--edit_steps", "3", "--faithfulness", "0.1"], "--auto_t0 and --faithfulness go together"),
        (["--auto_t0", "--faithfulness", "0.1", "--trajectory", "4"], "--strength_dir or --trajectory"),
        (["--t0", "0.5", "0.51"], "the same level twice: t0 0.5 is level 5, t0 0.51 is level 5 of 10"),
        (["--edit_steps", "3", "11"], "only 10 timesteps are kept"),
        (["--edit_steps", "3", "--guidance_scale", "3"], "name the class of the results"),
        (["--edit_steps", "3", "--guidance_interval", "3", "1"], "--guidance_interval 3 1: give two numbers"),
        (["--edit_steps", "3", "--class_label", "cow"], "unknown class 'cow'"),
        (["--edit_steps", "3", "--mask_invert"], "only with --mask_dir"),
        (["--edit_steps", "3", "--region_margin", "0.5"], "--region_margin 0.5: only with --region mask"),
        (["--edit_steps", "3", "--snr", "0.2"], "--snr has no effect without --corrector_steps"),
        (["--edit_steps", "3", "--classifier_scale", "2"], "has no effect without --classifier"),
        (["--edit_steps", "3", "--corrector_steps", "1"], "only for a config whose process is ve"),
        (["--edit_steps", "3", "--sampler", "ddim", "--var_type", "fixed_small"], "only for --sampler ddpm"),
        (
            ["--edit_steps", "3", "--set", "diffusion.process=ve"],
            "sigma_min and sigma_max: missing, process ve needs them",
        ),
        (["--edit_steps", "3", "--set", "diffusion.prediction=score"], "allowed for process vp: eps, x0, v"),
        (["--edit_steps", "3", "--mask_dir", "nowhere"], "--mask_dir nowhere: does not exist"),
    ],
)
def test_options_that_do_not_go_together(case, capsys, words, message):
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main([*case.words(), *STEPS, *words])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert not case.save_dir.exists()


def test_no_metadata(case, tmp_path):
    run(case, tmp_path / "o", "--edit_steps", 2, "--no_metadata")
    assert Image.open(tmp_path / "o" / "a.png").text == {}


def test_dry_run_of_a_sweep_and_of_ve(case, capsys):
    words = [*case.words(), *STEPS, "--dry_run", "--t0", "0.5", "1", "--repeats", "2"]
    guided = ["--class_label", "cat", "--guidance_scale", "2"]
    assert sample_sdedit.main([*words, *guided, "--samples", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "5 images at 16x16, 20 results"
    assert lines[1].startswith("level 5 of 10: t0 0.5, timestep 49 of 100, sigma ")
    assert [line.rpartition(", ")[2].split()[0] for line in lines[1:]] == ["20", "40"]
    assert sample_sdedit.main([*words, *SAMPLERS["ve-corrected"]]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"sigma {2 * 0.01 * 2000:.4g}, 60 network evaluations" in lines[2]


def test_the_t0_that_is_reached_is_said_and_names_the_folders(case, tmp_path, capsys):
    """Of 4 steps 0.9 is the last, of 100 timesteps 5 are hardly an edit, uniform ones end before 1."""
    four = ["--respace_steps", "4", "--t0", "0.5", "0.9", "--fit", "pad"]
    assert sample_sdedit.main([*case.words(), *four]) == 0
    assert sorted({name.partition("/")[0] for name in result_bytes(case.save_dir)}) == [
        "sheets",
        "t0_0.5",
        "t0_1",
    ]
    first, *rest = capsys.readouterr().err.splitlines()
    assert (
        first == "note: t0 0.9 is not among the 4 timesteps kept, the nearest is t0 1; more steps are finer"
    )
    assert not any("0.5 is not among" in line for line in rest)
    for words, said in {
        "--edit_steps 5": "5 of 100 steps: t0 0.05, sigma 0.1597; warning: this is hardly an edit",
        "--edit_steps 50": "50 of 100 steps: t0 0.5, sigma 3.532\n",
        "--t0 1 --respace_type uniform --respace_steps 10": "t0 0.91; --respace_type uniform-trailing",
    }.items():
        assert sample_sdedit.main([*case.words(tmp_path / "o"), *words.split(), "--dry_run"]) == 0
        printed = capsys.readouterr()
        assert said in printed.err
        assert ("warning" in printed.err) == (words == "--edit_steps 5")
