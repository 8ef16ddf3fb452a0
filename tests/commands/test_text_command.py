"""Networks that are told a text, by the commands and from Python, on tiny folders of diffusers."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("transformers", reason="needs transformers: requirements-text.txt")

import sample_ddib
import sample_sdedit
from tests.commands.command_case import result_bytes
from utils.assemble import Editor, Translator

GOLDEN = Path(__file__).parents[1] / "golden/latent"
SIZE = 32


@pytest.fixture
def words(tmp_path):
    """Return the command line of a tiny folder over three pictures of its size."""
    chance = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abc":
        small = Image.fromarray(chance.integers(0, 256, (4, 4, 3), dtype=np.uint8))
        small.resize((SIZE, SIZE), Image.Resampling.BICUBIC).save(tmp_path / f"in/{name}.png")

    def make(save_dir, *more, weights=GOLDEN / "sd1"):
        paths = ["--weights", weights, "--input_dir", tmp_path / "in", "--save_dir", tmp_path / save_dir]
        return list(map(str, [*paths, "--cpu", "--respace_steps", 4, *more]))

    return make


def edit(words, tmp_path, save_dir, *more, **options):
    assert sample_sdedit.main(words(save_dir, "--t0", 0.5, *more, **options)) == 0
    return result_bytes(tmp_path / save_dir)


def refusal(words, capfd, *more, **options) -> str:
    """Return what the command says of a line that it refuses."""
    with pytest.raises(SystemExit) as ended:
        sample_sdedit.main(words("refused", "--t0", 0.5, *more, **options))
    assert ended.value.code == 2
    return capfd.readouterr().err


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)).astype(int)


def furthest(one: Path, other: Path) -> int:
    """Return the largest difference between the results of two folders, in grey levels."""
    names = sorted(path.name for path in one.glob("*.png"))
    assert names == sorted(path.name for path in other.glob("*.png")) != []
    return max(np.abs(pixels(one / name) - pixels(other / name)).max() for name in names)


def test_a_prompt_leads_in_any_batch_and_share_alike(words, tmp_path):
    red = edit(words, tmp_path, "red", "--prompt", "red", "--micro_batch", 1)
    assert red != edit(words, tmp_path, "blue", "--prompt", "blue", "--micro_batch", 1)
    assert red != edit(words, tmp_path, "away", "--prompt", "red", "--negative_prompt", "blue")
    for size in (2, 3):
        edit(words, tmp_path, f"batch{size}", "--prompt", "red", "--micro_batch", size)
        assert furthest(tmp_path / "red", tmp_path / f"batch{size}") <= 1
    for shard in ("0/2", "1/2"):
        edit(words, tmp_path, "shares", "--prompt", "red", "--micro_batch", 1, "--shard", shard)
    assert result_bytes(tmp_path / "shares") == red
    facts = json.loads(Image.open(tmp_path / "red/a.png").text["parameters"])
    assert (facts["prompt"], facts["guidance_scale"]) == ("red", 7.5)


def test_a_changed_line_of_the_prompts_makes_one_picture_again(words, tmp_path):
    prompts = tmp_path / "prompts.csv"
    prompts.write_text('a.png,red\nb.png,"blue, round"\nc.png,green,ugly\nd.png,nothing\n')
    given = ("--prompt_file", prompts, "--micro_batch", 1)
    first = edit(words, tmp_path, "out", *given)
    prompts.write_text('a.png,red\nb.png,"blue, square"\nc.png,green,ugly\nd.png,nothing\n')
    second = edit(words, tmp_path, "out", *given)
    assert [name for name in first if first[name] != second[name]] == ["b.png"]
    report = json.loads((tmp_path / "out/report.json").read_text())
    assert report["done"] == 3


@pytest.mark.parametrize("way", [(), ("--tiles",), ("--region", "mask")], ids=["size", "tiles", "region"])
def test_outside_a_mask_every_byte_is_kept_at_any_size(words, tmp_path, way):
    (tmp_path / "masks").mkdir()
    size = (SIZE + 13, SIZE + 7)
    for path in sorted((tmp_path / "in").iterdir()):
        Image.open(path).resize(size).save(path)
        mask = Image.new("L", size)
        mask.paste(255, (5, 6, 20, 25))
        mask.save(tmp_path / "masks" / path.name)
    fixed = way or ("--size", "input")
    given = ("--prompt", "red", "--mask_dir", tmp_path / "masks", *fixed)
    edit(words, tmp_path, "out", *given)
    for path in sorted((tmp_path / "in").iterdir()):
        before, after = pixels(path), pixels(tmp_path / "out" / path.name)
        free = pixels(tmp_path / "masks" / path.name) > 0
        assert np.array_equal(before[~free], after[~free])
        assert (before[free] != after[free]).mean() > 0.5


def test_what_else_is_saved_is_pictures(words, tmp_path):
    given = ("--prompt", "red", "--comparison", "--trajectory", 3, "--samples", 2)
    made = edit(words, tmp_path, "out", *given)
    samples = {f"{name}_s0{i}.png" for name in "abc" for i in "01"}
    assert {name.split("/")[0] for name in made} == {"comparison", "trajectory", *samples}
    strips = sorted((tmp_path / "out/comparison").iterdir())
    assert Image.open(strips[0]).width >= 3 * SIZE


def test_a_translation_returns_and_says_what_the_autoencoder_loses(words, tmp_path):
    given = ["--prompt_A", "red", "--prompt_B", "red", "--guidance_scale", 1, "--cycle", "--save_latents"]
    given += ["--respace_steps", 25]
    assert sample_ddib.main(words("out", *given)) == 0
    facts = json.loads(Image.open(tmp_path / "out/a.png").text["parameters"])
    assert (facts["prompt_A"], facts["prompt_B"], facts["inversion"]) == ("red", "red", "fixed_point")
    assert facts["A_to_A_latent"] < 5e-3
    assert abs(facts["A_to_A"] - facts["autoencoder"]) < 0.01 < facts["autoencoder"]
    assert facts["A_to_B_to_A"] == pytest.approx(facts["A_to_A"], abs=0.01)
    latents = ["--from_latents", "--prompt_A", "red", "--prompt_B", "blue", "--guidance_scale", 1]
    latents += ["--respace_steps", 25]
    again = words("again", *latents)
    again[again.index("--input_dir") + 1] = str(tmp_path / "out/latents")
    assert sample_ddib.main(again) == 0
    assert len(result_bytes(tmp_path / "again")) == 3


def test_python_gives_the_pictures_of_the_commands(words, tmp_path):
    edit(words, tmp_path, "out", "--prompt", "red", "--micro_batch", 1)
    editor = Editor.load(GOLDEN / "sd1", cpu=True, respace_steps=4, micro_batch=1)
    made = editor(tmp_path / "in/a.png", prompt="red", t0=0.5)
    assert np.array_equal(np.asarray(made), pixels(tmp_path / "out/a.png"))
    assert (
        sample_ddib.main(words("ddib", "--prompt_A", "red", "--prompt_B", "blue", "--micro_batch", "1")) == 0
    )
    translator = Translator.load(GOLDEN / "sd1", cpu=True, respace_steps=4, prompt_A="red", micro_batch=1)
    made = translator(tmp_path / "in/a.png", prompt_B="blue")
    assert np.array_equal(np.asarray(made), pixels(tmp_path / "ddib/a.png"))


def folder_with(tmp_path, changes: dict[str, dict], name="changed", source="sd1") -> Path:
    """Copy a folder, with some fields of its JSON files changed."""
    folder = tmp_path / name
    shutil.copytree(GOLDEN / source, folder)
    for file, fields in changes.items():
        facts = json.loads((folder / file).read_text())
        (folder / file).write_text(json.dumps(facts | fields))
    return folder


def latent_consistency_model(tmp_path) -> Path:
    """Save a tiny one, as diffusers does."""
    import torch
    from diffusers import LCMScheduler, UNet2DConditionModel

    folder = tmp_path / "consistent"
    shutil.copytree(GOLDEN / "sd1", folder)
    torch.manual_seed(0)
    config = UNet2DConditionModel.load_config(folder / "unet")
    UNet2DConditionModel.from_config(config, time_cond_proj_dim=8).save_pretrained(folder / "unet")
    LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear").save_pretrained(
        folder / "scheduler"
    )
    return folder


def test_distilled_networks_take_few_calls_without_guidance(words, tmp_path, capfd):
    turbo = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    for name, folder in {
        "turbo": folder_with(tmp_path, {"scheduler/scheduler_config.json": turbo}),
        "lcm": latent_consistency_model(tmp_path),
    }.items():
        line = words(name, "--t0", 0.5, "--prompt", "red", weights=folder)
        at = line.index("--respace_steps")
        del line[at : at + 2]
        capfd.readouterr()
        assert sample_sdedit.main([*line, "--dry_run"]) == 0
        assert "4 network evaluations an image" in "".join(capfd.readouterr())
        assert sample_sdedit.main([*line, "--guidance_scale", "1.5"]) == 0
        assert len(result_bytes(tmp_path / name)) == 3


WRONG = {
    "no prompt": ((), {}, "give --prompt"),
    "class": (("--prompt", "x", "--class_label", "3"), {}, "has no classes"),
    "negative without guidance": (
        ("--prompt", "x", "--negative_prompt", "y", "--guidance_scale", "1"),
        {},
        "no effect without guidance",
    ),
    "inpainting": (("--prompt", "x"), {"unet/config.json": {"in_channels": 9}}, "one of inpainting"),
    "no number": (("--prompt", "x"), {"unet/config.json": {"in_channels": [4]}}, "one of another task"),
    "controlnet": (("--prompt", "x"), {"model_index.json": {"controlnet": ["diffusers", "X"]}}, "ControlNet"),
    "T5": (("--prompt", "x"), {"text_encoder/config.json": {"architectures": ["T5EncoderModel"]}}, "T5Enc"),
    "vocabulary": (("--prompt", "x"), {"text_encoder/config.json": {"vocab_size": 100}}, "knows 100"),
    "weights": (
        ("--prompt", "x"),
        {"text_encoder/config.json": {"intermediate_size": 40}},
        "not the weights",
    ),
    "consistency": (("--prompt", "x", "--sampler", "consistency"), {}, "no consistency model"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_said(name, words, tmp_path, capfd):
    more, changes, message = WRONG[name]
    folder = folder_with(tmp_path, changes)
    assert message in refusal(words, capfd, *more, weights=folder)
    assert not (tmp_path / "refused").exists()


def test_a_folder_that_lacks_a_part_is_named(words, tmp_path, capfd):
    for part in ("text_encoder", "vae", "scheduler"):
        folder = folder_with(tmp_path, {}, name=f"no_{part}")
        shutil.rmtree(folder / part)
        assert f"has no {part}" in refusal(words, capfd, "--prompt", "x", weights=folder)
    said = refusal(words, capfd, "--prompt", "x", weights=GOLDEN / "sd1/unet")
    assert "give the folder around it" in said


def test_without_the_library_the_line_that_installs_it_is_said(words, capfd, monkeypatch):
    importlib.import_module("diffusers")  # which remembers whether it is there
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert "pip install -r requirements-text.txt" in refusal(words, capfd, "--prompt", "red")


def test_long_prompts_say_what_is_lost(words, tmp_path, capfd):
    edit(words, tmp_path, "out", "--prompt", "red " * 30 + "lost words")
    assert "lost words" in "".join(capfd.readouterr())
