"""Animations through the commands: one file in, one file of the same timing out."""

import itertools
import json

import numpy as np
import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from utils import codecs

SDEDIT = ["--t0", "0.5", "--respace_steps", "4"]
DURATIONS = [50, 70, 90, 110, 130]


@pytest.fixture
def clip(case):
    """An animation, in which nothing moves but one pixel."""
    for path in list(case.input_dir.rglob("*.*")):
        path.unlink()
    frames = [Image.new("RGB", (16, 16), (90, 160, 60)) for _ in DURATIONS]
    for i, frame in enumerate(frames):
        frame.putpixel((3 * i, 8), (250, 30, 30))
    rest = {"append_images": frames[1:], "duration": DURATIONS, "loop": 2}
    frames[0].save(case.input_dir / "walk.png", save_all=True, **rest)
    return case


def edited(case, folder, *words, command=sample_sdedit):
    assert command.main([*case.words(folder), *words]) == 0
    path = folder / "walk.png"
    return [np.asarray(frame).astype(int) for frame in codecs.frames(path)], codecs.read_timing(path)


def test_an_animation_comes_back_as_one_of_the_same_timing(clip, tmp_path):
    frames, timing = edited(clip, tmp_path / "o", *SDEDIT, "--comparison", "--trajectory", "2")
    assert timing == codecs.Timing(DURATIONS, 2)
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert (report["done"], report["network_evaluations"]) == (1, 2 * len(DURATIONS))
    rows = codecs.decode(tmp_path / "o/comparison/walk.png").height
    assert rows > len(DURATIONS) * 128
    again, _ = edited(clip, tmp_path / "p", *SDEDIT, "--micro_batch", "1")
    assert max(np.abs(a - b).max() for a, b in zip(frames, again, strict=True)) <= 1


def test_its_frames_share_their_noise_and_those_of_a_folder_where_it_is_wanted(clip, tmp_path):
    """With a guide that hardly moves, neighbours differ less than with noise of their own."""

    def flicker(frames):
        return np.mean([np.abs(b - a).mean() for a, b in itertools.pairwise(frames)])

    whole, _ = edited(clip, tmp_path / "o", *SDEDIT)
    for i, frame in enumerate(codecs.frames(clip.input_dir / "walk.png")):
        frame.save(clip.input_dir / f"{i}.png")
    (clip.input_dir / "walk.png").unlink()
    apart = {}
    for by in ("name", "folder"):
        sample_sdedit.main([*clip.words(tmp_path / by), *SDEDIT, "--noise_by", by])
        paths = sorted((tmp_path / by).glob("?.png"))
        apart[by] = [np.asarray(codecs.decode(path)).astype(int) for path in paths]
    assert flicker(whole) < 0.5 * flicker(apart["name"])
    assert flicker(apart["folder"]) < 0.5 * flicker(apart["name"])


def test_one_mask_holds_for_all_frames_and_ddib_takes_them_too(clip, tmp_path):
    (tmp_path / "masks").mkdir()
    mask = np.zeros((16, 16), np.uint8)
    mask[:4] = 255
    Image.fromarray(mask).save(tmp_path / "masks/walk.png")
    frames, _ = edited(clip, tmp_path / "o", *SDEDIT, "--mask_dir", str(tmp_path / "masks"))
    for frame, before in zip(frames, codecs.frames(clip.input_dir / "walk.png"), strict=True):
        assert np.array_equal(frame[4:], np.asarray(before)[4:])
        assert (frame[:4] != np.asarray(before)[:4]).mean() > 0.5
    words = ["--class_A", "cat", "--class_B", "dog", "--respace_steps", "3"]
    _, timing = edited(clip, tmp_path / "d", *words, command=sample_ddib)
    assert timing == codecs.Timing(DURATIONS, 2)


@pytest.mark.parametrize(
    ("command", "words", "reason"),
    [
        (sample_sdedit, [*SDEDIT, "--region", "mask"], "has 5 frames; save the one to edit as its own file"),
        (
            sample_ddib,
            ["--class_A", "cat", "--class_B", "dog", "--respace_steps", "3", "--save_latents"],
            "no latents",
        ),
    ],
)
def test_what_is_not_for_animations_is_told(clip, tmp_path, capfd, command, words, reason):
    if "--region" in words:
        (tmp_path / "masks").mkdir()
        Image.new("L", (16, 16), 255).save(tmp_path / "masks/walk.png")
        words = [*words, "--mask_dir", str(tmp_path / "masks")]
    assert command.main([*clip.words(tmp_path / "o"), *words]) == 3
    assert reason in capfd.readouterr().err


def test_frames_of_another_size_are_named_where_they_would_not_share_their_noise(clip, tmp_path, capfd):
    (clip.input_dir / "b").mkdir()
    for name, size in {
        "b/0.png": (16, 16),
        "b/1.png": (24, 16),
        "b/2.png": (16, 16),
        "c.png": (16, 16),
    }.items():
        Image.new("RGB", size).save(clip.input_dir / name)
    said = (
        "note: b/1.png is 24x16 and the first of its folder 16x16; --noise_by folder gives pictures of one "
        "size the same noise: bring them to one, or give --size WIDTHxHEIGHT"
    )
    words = [*clip.words(tmp_path / "o"), *SDEDIT, "--dry_run", "--noise_by"]
    for more, expected in ((["folder", "--size", "input"], True), (["folder"], False), (["name"], False)):
        assert sample_sdedit.main([*words, *more]) == 0
        assert (said in capfd.readouterr().err) == expected
    Image.new("RGB", (16, 24)).save(clip.input_dir / "d.png")
    assert sample_sdedit.main([*words, "folder", "--size", "input"]) == 0
    assert "16x16, one of 2 such pictures; --noise_by" in capfd.readouterr().err


def test_another_format_than_png_is_refused_before_anything_is_edited(clip, tmp_path, capfd):
    assert sample_sdedit.main([*clip.words(tmp_path / "o"), *SDEDIT, "--format", "jpg"]) == 3
    said = "failed: walk.png: it moves, which is saved as PNG alone, not as .jpg; use --format png for it"
    assert said in capfd.readouterr().err
    assert json.loads((tmp_path / "o/report.json").read_text())["network_evaluations"] == 0
