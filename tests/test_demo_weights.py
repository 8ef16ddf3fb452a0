"""The shipped weights do what README shows; tools/demo/evaluate.py judges them thoroughly."""

import numpy as np
import pytest
from PIL import Image, ImageChops, ImageOps

import sample_ddib
import sample_sdedit
from tests.commands.command_case import ROOT

WEIGHTS = ROOT / "weights" / "fruits64.safetensors"
MODEL = ["-c", str(ROOT / "configs/demo/fruits64.yaml"), "--weights", str(WEIGHTS), "--cpu"]


@pytest.fixture
def inputs(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    return folder


def pixels(path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(float) / 127.5 - 1


def rmse(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_they_are_small_enough_to_ship():
    assert WEIGHTS.stat().st_size < 20_000_000


def test_edited_strokes_keep_place_and_colour_but_gain_texture(inputs, tmp_path):
    guides = {}
    for name in ("orange_corner", "huckleberry"):
        guide = ImageOps.fit(Image.open(ROOT / f"assets/strokes/{name}.png"), (64, 64))
        guide.save(inputs / f"{name}.png")
        guides[name] = np.asarray(guide).astype(float) / 127.5 - 1
    steps = ["--respace_steps", "20", "--edit_steps", "10"]
    assert (
        sample_sdedit.main([*MODEL, "--input_dir", str(inputs), "--save_dir", str(tmp_path / "o"), *steps])
        == 0
    )
    for name, guide in guides.items():
        result = pixels(tmp_path / "o" / f"{name}.png")
        ink = (guide < 0.8).any(2)
        assert np.abs(result[ink].mean(0) - guide[ink].mean(0)).max() < 0.35
        assert result[~ink].mean() > 0.85  # still on white
        flat = (np.abs(guide - np.median(guide[ink], axis=0)) < 0.02).all(2)
        assert flat.sum() > 0.5 * ink.sum()
        assert result[flat].std(0).max() > 5 * guide[flat].std(0).max()
        assert result[flat].std(0).max() > 0.05


def test_translating_a_class_to_itself_returns_the_image_and_to_another_does_not(inputs, tmp_path):
    source = ROOT / "assets/fruits/lemon/0.png"
    Image.open(source).save(inputs / "0.png")

    classes = ["--class_A", "lemon", "--class_B", "lemon", "lime"]
    words = ["--input_dir", str(inputs), "--save_dir", str(tmp_path / "out"), *classes]
    assert sample_ddib.main([*MODEL, *words, "--respace_steps", "60"]) == 0
    lemon, lime = (pixels(tmp_path / f"out/to_{name}/0.png") for name in ("lemon", "lime"))
    assert rmse(lemon, pixels(source)) < 0.04
    assert rmse(lime, pixels(source)) > 0.1
    red, green, _ = lime[(lime < 0.8).any(2)].mean(0)
    assert green > red


def test_a_new_image_does_not_depend_on_the_input(tmp_path):
    """From 4 of the timesteps, all but the name of the input is drowned; with uniform ones it was not."""
    results = []
    for colour in ("black", "white"):
        (tmp_path / colour).mkdir()
        Image.new("RGB", (64, 64), colour).save(tmp_path / colour / "x.png")
        words = ["--input_dir", str(tmp_path / colour), "--save_dir", str(tmp_path / f"{colour}_out")]
        assert sample_sdedit.main([*MODEL, *words, "--respace_steps", "4", "--t0", "1"]) == 0
        results.append(pixels(tmp_path / f"{colour}_out/x.png"))
    assert rmse(*results) < 0.01


@pytest.mark.parametrize("repeats", ["1", "3"])
@pytest.mark.parametrize("sampler", ["ddpm", "ddim", "dpm-solver++", "sde-dpm-solver++", "ve"])
def test_the_shipped_masks_hold_to_the_byte(tmp_path, sampler, repeats):
    model = list(MODEL)
    if sampler == "ve":
        model[1] = str(ROOT / "configs/demo/fruits64_ve.yaml")
    else:
        model += ["--sampler", sampler]
    edits = ROOT / "assets/edits"
    words = ["--input_dir", str(edits / "guides"), "--mask_dir", str(edits / "masks"), "--repeats", repeats]
    steps = ["--respace_steps", "6", "--edit_steps", "3"]
    assert sample_sdedit.main([*model, *words, *steps, "--save_dir", str(tmp_path)]) == 0
    for path in sorted((edits / "guides").glob("*.png")):
        guide, result = (np.asarray(Image.open(p).convert("RGB")) for p in (path, tmp_path / path.name))
        kept = np.asarray(Image.open(edits / "masks" / path.name)) == 0
        assert np.array_equal(result[kept], guide[kept])
        assert (result[~kept] != guide[~kept]).mean() > 0.3


def seam_ratio(pictures: dict[int, np.ndarray]) -> float:
    """Mean absolute difference of neighbours where tiles begin or end, in those of the same ones elsewhere.

    Args:
        pictures: By how far what they show was moved, to the right and down: by 8, up to 24 pixels, or none.
    """
    at, inside = 0.0, 0.0
    for axis in (0, 1):
        differences = {by: np.abs(np.diff(x, axis=axis)).mean((1 - axis, 2)) for by, x in pictures.items()}
        for place in range(8, len(pictures[0]) - 32, 8):
            seen = {by: values[place + by - 1] for by, values in differences.items()}
            at += seen.pop(-place % 32)
            inside += np.mean(list(seen.values()))
    return at / inside


@pytest.mark.parametrize(("side", "left", "top"), [(128, 64, 32)])
def test_tiles_leave_no_seams(tmp_path, inputs, side, left, top):
    """Of a painting that is moved by parts of a tile, so that all of it lies where tiles end, and not."""
    table = Image.open(ROOT / "assets/large/table.png").crop((left, top, left + side, top + side))
    moved = {by: ImageChops.offset(table, by, by) for by in range(0, 32, 8)}
    assert seam_ratio({by: np.asarray(picture).astype(float) for by, picture in moved.items()}) == 1
    for by, picture in moved.items():
        picture.save(inputs / f"{by}.png")
    words = ["--input_dir", str(inputs), "--save_dir", str(tmp_path / "o"), "--tiles", "--no_report"]
    steps = ["--sampler", "sde-dpm-solver++", "--respace_steps", "5", "--t0", "0.6"]
    assert sample_sdedit.main([*MODEL, *words, *steps]) == 0
    results = {by: pixels(tmp_path / "o" / f"{by}.png") for by in moved}
    assert {picture.shape for picture in results.values()} == {(side, side, 3)}
    assert seam_ratio(results) < 1.05
