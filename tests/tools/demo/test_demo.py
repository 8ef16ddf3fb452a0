"""The tools that make and judge the demo: what they draw, and that training survives an interruption."""

import sys

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file, save_file

from diffusions.schedule import make_schedule
from models import CONFIG_CLASSES, build_model
from tests.commands.command_case import ROOT
from tools.demo import distill, draw_strokes, evaluate, judge, train_shipped
from utils.config import load_config


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


@pytest.fixture
def data(tmp_path):
    """Write a config, and twelve pictures of two classes."""
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(CONFIG))
    pictures = np.random.default_rng(0).integers(0, 255, (12, 32, 32, 3), dtype=np.uint8)
    names = {"class_names": np.array(["apple", "pear"]), "sources": np.array(["x/1_100.jpg"] * 12)}
    np.savez(tmp_path / "d.npz", images=pictures, labels=np.arange(12) % 2, **names)
    return ["--data", f"{tmp_path}/d.npz", "--config", f"{tmp_path}/c.yaml", "--batch", "2", "--steps", "6"]


TRAININGS = {
    train_shipped: ["--eager", "--small_steps", "3"],
    distill: ["--weights", "weights.safetensors", "--halved_every", "2"],
}


@pytest.mark.parametrize("program", TRAININGS)
def test_an_interrupted_training_goes_on_as_if_undisturbed(tmp_path, monkeypatch, data, program):
    torch.manual_seed(0)
    state = build_model(load_config(tmp_path / "c.yaml", CONFIG_CLASSES).model).state_dict()
    save_file(state, tmp_path / "weights.safetensors")

    def train(name, *words):
        given = [*data, "--save_dir", f"{tmp_path}/{name}", *TRAININGS[program], *words]
        monkeypatch.setattr(sys, "argv", ["train", *given])
        monkeypatch.chdir(tmp_path)
        program.main()

    monkeypatch.setattr(program.Run, "save", interrupt_after(program.Run.save, step=4))
    with pytest.raises(KeyboardInterrupt):
        train("broken", "--save_every", "2")
    monkeypatch.undo()
    train("broken")
    train("whole")
    broken, whole = (load_file(next((tmp_path / name).glob("*.safetensors"))) for name in ("broken", "whole"))
    assert broken.keys() == whole.keys() == state.keys()
    assert all(torch.equal(broken[key], whole[key]) for key in whole)
    assert not torch.equal(whole["out.2.weight"].float(), state["out.2.weight"])
    assert (tmp_path / "whole" / "samples_000006.png").exists()


def test_a_network_that_makes_the_same_of_all_levels_has_nothing_to_learn():
    """Of pictures that are all alike it is known; and the lower level of a pair is as far as is asked."""
    schedule = make_schedule("cosine", 1000)
    alphas, sigmas = schedule.alphas_cumprod, (1 / schedule.alphas_cumprod - 1).sqrt()
    picture = torch.full((1, 3, 4, 4), 0.5)

    def exact(x_t, t, y):
        signal, noise = (x[t].sqrt().float()[:, None, None, None] for x in (alphas, 1 - alphas))
        return (signal * x_t - picture) / noise

    t, y = torch.tensor([0, 3, 200, 700, 990]), torch.zeros(5, dtype=torch.long)
    batch = picture.expand(5, -1, -1, -1), torch.randn(5, 3, 4, 4, generator=generator()), t, y
    run = distill.Run(exact, exact, None)
    assert distill.loss_of(run, schedule, batch, 0.5) < 1e-3
    run.network = lambda x_t, t, y: 0 * x_t
    assert distill.loss_of(run, schedule, batch, 0.5) > 0.1
    for share in (0.5, 1 / 64):
        below = distill.lower(schedule, t, share)
        assert (below < t).all()
        inner = below[2:]
        assert (sigmas[inner] <= sigmas[t[2:]] * (1 - share) + 1e-9).all() or (inner == t[2:] - 1).all()
    assert distill.lower(schedule, t[:1], 0.5).item() == -1
    assert [distill.gap(step, 100) for step in (0, 99, 100, 250)] == [0.5, 0.5, 0.25, 0.125]


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
