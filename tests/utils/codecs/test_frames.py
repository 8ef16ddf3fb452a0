"""Animations: every frame as a picture, and how they follow one another."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from utils import codecs
from utils.codecs import decoder

KINDS = {"GIF": "a.gif", "PNG": "a.png", "WEBP": "a.webp"}


def moving(num_frames=4, size=(24, 16), mode="RGB"):
    """A red square that walks over white."""
    frames = []
    for i in range(num_frames):
        frame = Image.new(mode, size, "white" if mode == "RGB" else (0, 0, 0, 0))
        ImageDraw.Draw(frame).rectangle([3 * i, 4, 3 * i + 5, 9], fill=(255, 0, 0))
        frames.append(frame)
    return frames


def saved(tmp_path, kind, frames, durations=(40, 120, 70, 200), loop=3):
    options = {"lossless": True} if kind == "WEBP" else {"disposal": 2} if kind == "GIF" else {}
    path = tmp_path / KINDS[kind]
    rest = {"append_images": frames[1:], "duration": list(durations[: len(frames)]), "loop": loop}
    frames[0].save(path, kind, save_all=True, **rest, **options)
    return path


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_all_frames_are_read_on_white(tmp_path, kind, mode):
    path = saved(tmp_path, kind, moving(mode=mode))
    found = list(codecs.frames(path, tmp_path))
    assert [frame.mode for frame in found] == ["RGB"] * 4
    for frame, expected in zip(found, moving(), strict=True):
        assert np.array_equal(np.asarray(frame), np.asarray(expected))
    assert codecs.read_timing(path) == codecs.Timing([40, 120, 70, 200], 3)


def test_a_single_picture_is_one_frame_and_an_animation_is_no_single_picture(tmp_path):
    Image.new("RGB", (4, 4)).save(tmp_path / "x.png")
    assert len(list(codecs.frames(tmp_path / "x.png"))) == 1
    path = saved(tmp_path, "GIF", moving())
    with pytest.raises(codecs.AnimatedError, match="has several frames"):
        codecs.decode(path)


def test_written_again_it_is_the_same(tmp_path):
    path = saved(tmp_path, "WEBP", moving())
    clip = codecs.Clip(list(codecs.frames(path)), codecs.read_timing(path))
    (tmp_path / "again.png").write_bytes(codecs.encode_png(clip, {"parameters": "{}"}))
    assert codecs.read_timing(tmp_path / "again.png") == clip.timing
    for frame, before in zip(codecs.frames(tmp_path / "again.png"), clip.frames, strict=True):
        assert np.array_equal(np.asarray(frame), np.asarray(before))
    with Image.open(tmp_path / "again.png") as image:
        assert image.text["parameters"] == "{}"


@pytest.mark.parametrize("kind", KINDS)
def test_too_many_pixels_together_are_refused(tmp_path, kind, monkeypatch):
    path = saved(tmp_path, kind, moving())
    monkeypatch.setattr(decoder, "MAX_PIXELS", 3 * 24 * 16)
    with pytest.raises(ValueError, match="has more than 3 frames, which is what is allowed of 24x16"):
        list(codecs.frames(path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_one_is_told(tmp_path, kind):
    path = saved(tmp_path, kind, moving(num_frames=4, size=(200, 160)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 3])
    with pytest.raises(ValueError, match=r"cannot be read|truncated"):
        list(codecs.frames(path))


def test_no_link_leads_out(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (inside / "a.gif").symlink_to(saved(tmp_path, "GIF", moving()))
    with pytest.raises(ValueError, match="leads out of the input folder"):
        next(codecs.frames(inside / "a.gif", inside))
