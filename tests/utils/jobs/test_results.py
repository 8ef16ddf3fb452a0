"""What becomes of a result: the strip and the animation of the way to it."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from utils import codecs
from utils.jobs.job import Item
from utils.jobs.results import Part, Result, Writer

ITEM = Item("deep/a.jpg", 0, "deep/a.png")


def written(trajectory):
    names = ["frame"] * len(trajectory)
    result = Result(trajectory[-1], folder="to_b", trajectory=trajectory, frame_labels=names)
    return encoded(Writer(False, None), None, [result])


def encoded(writer, guide, results):
    return writer.encode(ITEM, [Part(guide, results)], lambda edited: codecs.to_image(edited[0]), {})


def grey(num_frames, channels=3):
    """Frames that all differ."""
    return torch.linspace(-1, 1, num_frames).view(-1, 1, 1, 1).expand(-1, channels, 4, 4)


@pytest.mark.parametrize(
    ("num_frames", "frame_ms"), [(2, 2000), (3, 1000), (8, 286), (41, 50), (101, 20), (251, 20)]
)
def test_the_way_takes_two_seconds_and_the_result_is_held(num_frames, frame_ms):
    """Unless its frames were so short that browsers would slow them down."""
    files = written(grey(num_frames))
    assert sorted(files) == ["to_b/deep/a.png", "trajectory/to_b/deep/a.apng", "trajectory/to_b/deep/a.png"]
    with Image.open(io.BytesIO(files["trajectory/to_b/deep/a.apng"])) as image:
        assert (image.n_frames, image.info["loop"]) == (num_frames, 0)
        for number in range(num_frames):
            image.seek(number)
            image.load()
            assert image.info["duration"] == pytest.approx(1500 if number == num_frames - 1 else frame_ms)


@pytest.mark.parametrize("channels", [1, 3])
def test_the_strip_and_the_animation_hold_the_frames_exactly(channels):
    frames = torch.randn(5, channels, 4, 4, generator=torch.Generator().manual_seed(0))
    files = written(frames)
    expected = ((frames.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).expand(-1, -1, -1, 3).int()
    cut = codecs.cut_strip(Image.open(io.BytesIO(files["trajectory/to_b/deep/a.png"])), 4)
    with Image.open(io.BytesIO(files["trajectory/to_b/deep/a.apng"])) as image:
        for number, frame in enumerate(expected.numpy()):
            image.seek(number)
            assert np.array_equal(np.asarray(image.convert("RGB")), frame)
            assert np.array_equal(np.asarray(cut[number]), frame)


def test_a_frame_that_stays_is_shown_longer():
    frames = grey(3)[[0, 0, 1, 2, 2]]
    with Image.open(io.BytesIO(written(frames)["trajectory/to_b/deep/a.apng"])) as image:
        durations = []
        for number in range(image.n_frames):
            image.seek(number)
            image.load()
            durations.append(image.info["duration"])
    assert durations == pytest.approx([1000, 500, 2000])


def test_the_same_frames_are_the_same_bytes():
    assert written(grey(4)) == written(grey(4))


def test_nothing_is_written_of_a_way_that_was_not_asked_for():
    assert list(encoded(Writer(False, None), None, [Result(grey(2)[0])])) == ["deep/a.png"]


@pytest.fixture
def labels(monkeypatch):
    """What is written above the pictures of each strip."""
    seen = []
    real = codecs.labelled_strip
    monkeypatch.setattr(codecs, "labelled_strip", lambda x, names: seen.append(names) or real(x, names))
    return seen


def test_strips_and_sheets_say_what_is_what(labels):
    results = [
        Result(x, x, x, folder=folder, before_label="latent")
        for x, folder in zip(grey(2), ["t0_0.3", "to_red_apple"], strict=True)
    ]
    writer = Writer(True, None, folders=("t0_0.3", "to_red_apple"))
    files = encoded(writer, grey(2)[0], results)
    assert labels == [["input", "latent", "result", "back"]] * 2 + [["input", "t0 0.3", "to red_apple"]]
    assert sorted(files) == sorted(writer.paths(ITEM))
    labels.clear()
    encoded(writer, None, [Result(grey(2)[0], grey(2)[1])])  # of a latent, without an input
    assert labels == [["noised", "result"]]


def test_labels_change_no_result():
    results = [Result(x, x, folder=folder) for x, folder in zip(grey(2), ["a", "b"], strict=True)]
    plain, more = (encoded(Writer(c, None, folders=("a", "b")), None, results) for c in (0, 1))
    assert {path: more[path] for path in plain} == plain
    assert Image.open(io.BytesIO(plain["a/deep/a.png"])).size == (4, 4)


def test_of_several_parts_each_has_its_row_and_notes_that_differ_are_listed():
    ways = [
        Result(
            x, x, trajectory=grey(2), frame_labels=["", ""], notes={"t0": 0.5, "difference": x.mean().item()}
        )
        for x in grey(2)
    ]
    parts = [Part(grey(2)[0], [result]) for result in ways]
    recorded = dict.fromkeys(("program", "weights", "weights_sha256"), "x")
    writer = Writer(True, recorded, trajectory=True)
    files = writer.encode(ITEM, parts, lambda edited: codecs.strip([codecs.to_image(x) for x in edited]), {})
    assert sorted(files) == sorted(writer.paths(ITEM))
    opened = {path: Image.open(io.BytesIO(content)) for path, content in files.items()}
    assert opened["deep/a.png"].size == (4 + 2 + 4, 4)
    row = codecs.labelled_strip([codecs.to_image(grey(2)[0])] * 3, ["input", "noised", "result"])
    assert opened["comparison/deep/a.png"].size == (row.width, 2 * row.height + 2)
    assert opened["trajectory/deep/a.apng"].size == (4, 4 + 2 + 4)
    recorded = json.loads(opened["deep/a.png"].text["parameters"])
    assert (recorded["t0"], recorded["difference"]) == (0.5, [-1, 1])


def test_where_nothing_may_change_each_folder_has_the_picture_as_it_is():
    whole = Image.new("RGB", (3, 2), "red")
    files = Writer(True, None, folders=("a", "b")).encode(ITEM, [], lambda edited: whole, {})
    assert sorted(files) == ["a/deep/a.png", "b/deep/a.png"]
    assert all(
        list(Image.open(io.BytesIO(content)).get_flattened_data()) == [(255, 0, 0)] * 6
        for content in files.values()
    )


@pytest.mark.parametrize("key", ["image", "before", "after", "trajectory"])
def test_all_pictures_of_a_result_are_moved_to_the_cpu(key):
    """A meta tensor holds nothing to move, and says so."""
    with pytest.raises(NotImplementedError, match="meta"):
        Result(**{"image": torch.zeros(3, 4, 4), key: torch.zeros(2, 3, 4, 4, device="meta")}).to_cpu()
