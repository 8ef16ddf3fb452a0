"""The tools that make and judge the demo: what they draw, and that training survives an interruption."""

import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from tests.commands.command_case import ROOT
from tools.demo import draw_strokes, evaluate, judge, train_shipped


def generator():
    return torch.Generator().manual_seed(0)


def test_augmented_pictures_are_whole_and_lie_on_white():
    dark = torch.full((64, 3, 16, 16), -1.0)
    for size in (8, 16):
        out = judge.augment(dark, size, generator())
        assert out.shape == (64, 3, size, size)
        assert out.min() >= -1
        assert out.max() <= 1 + 1e-6
        ink = ((1 - out) / 2).sum((2, 3))[:, 0] / size**2  # share of the canvas
        assert 0.2 < ink.min() < 0.4  # scale 0.5: a quarter
        assert 0.8 < ink.max() <= 1


def test_augmented_pictures_differ_in_place_and_side():
    left = torch.ones(64, 1, 16, 16).expand(-1, 3, -1, -1).clone()
    left[:, :, :, :8] = -1
    out = judge.augment(left, 16, generator())
    weight = (1 - out[:, 0]).sum(1)
    centre = (weight * torch.arange(16)).sum(1) / weight.sum(1)
    assert centre.min() < 5
    assert centre.max() > 10
    assert torch.equal(out, judge.augment(left, 16, generator()))


CONFIG = {
    "model": {
        **{"name": "adm", "image_size": 32, "out_channels": 3, "model_channels": 32, "channel_mult": [1]},
        **{"num_res_blocks": 1, "attention_resolutions": [], "num_classes": 3, "num_heads": 1},
    },
    "diffusion": {"num_timesteps": 50, "schedule": "cosine", "prediction": "v"},
    "classes": ["apple", "pear"],
    "null_class": 2,
}


def test_an_interrupted_training_goes_on_as_if_undisturbed(tmp_path, monkeypatch):
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    pictures = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    names = {"class_names": np.array(["apple", "pear"]), "sources": np.array(["x/1_100.jpg"] * 12)}
    np.savez(tmp_path / "d.npz", images=pictures, labels=np.arange(12) % 2, **names)

    def train(name, *words):
        start = ["train_shipped", "--data", f"{tmp_path}/d.npz", "--config", f"{tmp_path}/c.yaml", "--eager"]
        fixed = ["--batch", "2", "--steps", "6", "--small_steps", "3", "--save_dir", f"{tmp_path}/{name}"]
        monkeypatch.setattr(sys, "argv", [*start, *fixed, *words])
        train_shipped.main()

    monkeypatch.setattr(train_shipped.Run, "save", interrupt_after(train_shipped.Run.save, step=4))
    with pytest.raises(KeyboardInterrupt):
        train("broken", "--save_every", "2")
    monkeypatch.undo()
    train("broken")
    train("whole")
    broken, whole = (load_file(tmp_path / name / "fruits64.safetensors") for name in ("broken", "whole"))
    assert broken.keys() == whole.keys()
    assert all(torch.equal(broken[key], whole[key]) for key in whole)
    assert (tmp_path / "whole" / "samples_000006.png").exists()


def interrupt_after(save, step):
    def saved(run, path):
        save(run, path)
        if run.step == step:
            raise KeyboardInterrupt

    return saved


def test_the_shipped_strokes_are_what_the_tool_draws():
    folder = ROOT / "assets" / "strokes"
    assert {path.stem for path in folder.glob("*.png")} == set(draw_strokes.PICTURES)
    shapes = set()
    for name in draw_strokes.PICTURES:
        drawn = draw_strokes.paint(name)
        with Image.open(folder / f"{name}.png") as shipped:
            difference = np.abs(np.asarray(drawn).astype(int) - np.asarray(shipped))
        assert (difference > 0).mean() < 0.01  # Pillow's edges may differ between versions
        assert 2 <= len(drawn.getcolors()) <= 5  # flat, few colours
        shapes.add(drawn.size)
    assert len(draw_strokes.PICTURES) >= 16
    assert len(shapes) >= 8


def test_the_judges_own_pictures_are_a_sixth_in_runs():
    sources = np.array([f"a/{kind}/{view}_100.jpg" for kind in "pq" for view in range(240)])
    held_out = judge.held_out(sources)
    assert held_out.sum() == 80
    assert held_out[60:80].all()
    assert not held_out[:60].any()


def test_signatures_ignore_place_and_size():
    picture = torch.ones(1, 3, 64, 64)
    picture[:, 0, 4:36, 10:42] = -0.5
    moved = torch.ones(1, 3, 64, 64)
    moved[:, 0, 30:62, 0:32] = -0.5
    other = torch.ones(1, 3, 64, 64)
    other[:, 2, 4:36, 10:42] = -0.5
    pool = evaluate.signature(torch.cat([moved, other]))
    distance, index = evaluate.nearest(evaluate.signature(picture), pool)
    assert index.item() == 0
    assert distance.item() < 1e-3
