"""GLIDE's networks by the command, on tiny ones with a tokenizer of letters."""

import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

pytest.importorskip("tokenizers", reason="needs tokenizers: requirements-text.txt")

import sample_sdedit
from models import CONFIG_CLASSES, build_model
from tests.commands.command_case import result_bytes
from utils.config import load_config

NETWORK = {
    **{"name": "glide", "image_size": 16, "out_channels": 6, "model_channels": 32, "channel_mult": [1, 2]},
    **{"num_res_blocks": 1, "attention_resolutions": [8], "num_head_channels": 16},
    **{"text_context": 12, "text_channels": 32, "text_layers": 1, "text_heads": 4, "vocabulary": 257},
}
LARGER = NETWORK | {"image_size": 32, "in_channels": 6, "upsampler": True}
DIFFUSION = {"num_timesteps": 100, "schedule": "cosine", "prediction": "eps", "var_type": "learned_range"}


def save(folder, name: str, network: dict) -> list[str]:
    """Write a config and random weights; return both paths."""
    config, weights = folder / f"{name}.yaml", folder / f"{name}.safetensors"
    config.write_text(yaml.safe_dump({"model": network, "diffusion": DIFFUSION}))
    torch.manual_seed(0)
    model = build_model(load_config(config, CONFIG_CLASSES).model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    save_file({key: tensor.contiguous() for key, tensor in model.state_dict().items()}, weights)
    return [str(config), str(weights)]


@pytest.fixture
def words(tmp_path):
    from tokenizers.pre_tokenizers import ByteLevel

    letters = [*sorted(ByteLevel.alphabet()), "<|endoftext|>"]
    (tmp_path / "vocab.json").write_text(json.dumps({letter: i for i, letter in enumerate(letters)}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "in").mkdir()
    for name in "ab":
        pixels = np.random.default_rng(ord(name)).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"in/{name}.png")
    config, weights = save(tmp_path, "base", NETWORK)

    def make(save_dir, *more):
        given = ["-c", config, "--weights", weights, "--input_dir", tmp_path / "in", "--cpu", "--t0", 0.5]
        given += ["--respace_steps", 4, "--save_dir", tmp_path / save_dir, *more]
        return list(map(str, given))

    return make


def edit(words, tmp_path, save_dir, *more):
    assert sample_sdedit.main(words(save_dir, *more)) == 0
    return result_bytes(tmp_path / save_dir)


def test_a_prompt_leads(words, tmp_path, capfd):
    red = edit(words, tmp_path, "red", "--prompt", "Red")
    assert red != edit(words, tmp_path, "blue", "--prompt", "blue")
    assert Image.open(tmp_path / "red/a.png").size == (16, 16)
    facts = json.loads(Image.open(tmp_path / "red/a.png").text["parameters"])
    assert (facts["prompt"], facts["guidance_scale"]) == ("Red", 3.0)
    capfd.readouterr()
    edit(words, tmp_path, "long", "--prompt", "a very long prompt indeed")
    assert "only 12 tokens are read; lost: prompt indeed" in capfd.readouterr().err


def test_a_second_stage_makes_results_larger(words, tmp_path, capfd):
    upsample = ["--upsample", *save(tmp_path, "larger", LARGER)]
    given = ("--prompt", "red", *upsample, "--micro_batch", 1)
    assert sample_sdedit.main(words("dry", *given, "--dry_run")) == 0
    assert "2 images at 32x32" in "".join(capfd.readouterr())
    made = edit(words, tmp_path, "out", *given, "--comparison", "--trajectory", 3)
    assert Image.open(tmp_path / "out/a.png").size == (32, 32)
    assert made["a.png"] != edit(words, tmp_path, "blue", "--prompt", "blue", *upsample)["a.png"]
    (tmp_path / "masks").mkdir()
    for name in "ab":
        mask = Image.new("L", (32, 32))
        mask.paste(255, (3, 5, 20, 17))
        mask.save(tmp_path / f"masks/{name}.png")
    edit(words, tmp_path, "masked", *given, "--mask_dir", tmp_path / "masks", "--t0", 0.5, 1)
    for folder in ("t0_0.5", "t0_1"):
        before, after = (
            np.asarray(Image.open(p)) for p in (tmp_path / "in/a.png", tmp_path / f"masked/{folder}/a.png")
        )
        free = np.asarray(mask) > 0
        assert np.array_equal(before[~free], after[~free])
        assert (before[free] != after[free]).mean() > 0.5
    with pytest.raises(SystemExit):
        sample_sdedit.main(words("no", "--prompt", "red", "--upsample", *save(tmp_path, "same", NETWORK)))
    assert "is shown no small picture" in capfd.readouterr().err


@pytest.mark.parametrize("way", [("--size", "input"), ("--tiles",)], ids=["size", "tiles"])
def test_pictures_of_other_sizes(words, tmp_path, way):
    Image.new("RGB", (37, 21), "red").save(tmp_path / "in/a.png")
    edit(words, tmp_path, "out", "--prompt", "red", *way)
    assert Image.open(tmp_path / "out/a.png").size == (37, 21)


def test_a_tokenizer_that_is_missing_or_another_is_named(words, tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    with pytest.raises(SystemExit):
        sample_sdedit.main(words("out", "--prompt", "red"))
    assert "has 2 tokens and the network knows 257" in capfd.readouterr().err
