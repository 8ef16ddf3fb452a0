"""Regions: squares around what a mask marks, cut out of a photo and put back, with all else as it was."""

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from tests.utils.codecs import icc_profiles
from utils.codecs.original import Box, Original, cut
from utils.images.regions import Marked, Regions, find_boxes


def mask_of(size, *marked):
    mask = Image.new("L", size)
    for box in marked:
        ImageDraw.Draw(mask).rectangle([box[0], box[1], box[2] - 1, box[3] - 1], fill=255)
    return mask


@pytest.mark.parametrize(
    ("marked", "boxes"),
    [
        ([(100, 80, 180, 100)], [(80, 30, 120)]),  # a quarter of 80 on each side
        ([(100, 80, 110, 90)], [(73, 53, 64)]),  # not below the network's size
        ([(0, 0, 10, 10)], [(0, 0, 64)]),
        ([(390, 290, 400, 300)], [(336, 236, 64)]),
        ([(0, 140, 400, 160)], [(0, -50, 400)]),  # longer than the photo is high
        ([(10, 10, 20, 20), (300, 200, 310, 210)], [(0, 0, 64), (273, 173, 64)]),
        ([(300, 200, 310, 210), (10, 10, 20, 20)], [(0, 0, 64), (273, 173, 64)]),
        ([(100, 100, 110, 110), (160, 100, 170, 110)], [(82, 52, 105)]),  # would meet: one square of both
        ([], []),
    ],
)
def test_boxes_hold_what_is_marked(marked, boxes):
    found = find_boxes(mask_of((400, 300), *marked), 64, 0.25)
    assert [tuple(box) for box in found] == boxes


def test_a_photo_smaller_than_the_network_is_one_box():
    assert find_boxes(mask_of((40, 30), (3, 3, 5, 5)), 64, 0.25) == [Box(0, -5, 40)]


def test_any_mask_gives_boxes_that_hold_it_and_do_not_meet():
    chance = np.random.default_rng(0)
    for _ in range(20):
        size = tuple(map(int, chance.integers(30, 900, 2)))
        values = (chance.random(size[::-1]) < 10 ** chance.uniform(-5, -2)).astype(np.uint8) * 255
        boxes = find_boxes(Image.fromarray(values), 32, 0.1)
        covered = np.zeros(size[::-1], int)
        for box in boxes:
            covered[box.inside(*size)] += 1
        assert covered.max(initial=0) <= 1
        assert (covered[values > 0] == 1).all()


def test_beyond_the_edges_is_a_mirror_image():
    pixels = np.arange(12).reshape(3, 4)
    assert np.array_equal(cut(pixels, Box(-2, -2, 8)), np.pad(pixels, ((2, 3), (2, 2)), mode="reflect"))
    assert np.array_equal(cut(np.array([[7]]), Box(-1, -1, 3)), np.full((3, 3), 7))


def photo(mode, size=(90, 70), profile=None):
    values = np.random.default_rng(1).integers(0, 256, (size[1], size[0], len(mode)), dtype=np.uint8)
    return Original(values, profile)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [16, 64])
def test_outside_the_mask_nothing_changes_and_inside_is_what_was_edited(mode, channels, side):
    mask = mask_of((90, 70), (5, 5, 25, 25), (60, 50, 80, 66))
    marked, regions = Marked(photo(mode), mask), Regions(side, channels, 0.25)
    before = marked.photo.pixels.copy()
    parts = regions.cut(marked, regions.boxes(marked))
    assert [part["image"].shape for part in parts] == [(channels, side, side)] * len(parts)
    edited = [torch.full((channels, side, side), value) for value in (-1.0, 0.6)][: len(parts)]
    after = regions.put_back(marked, edited).pixels
    assert after is marked.photo.pixels
    kept = np.asarray(mask) == 0
    assert np.array_equal(before[kept], after[kept])
    inner = after[12:18, 12:18].reshape(-1, len(mode))
    assert (inner[:, : len(mode) - mode.endswith("A")] == 0).all()
    if mode.endswith("A"):
        assert (inner[:, -1] == 255).all()


def test_what_comes_back_unedited_is_what_was_there():
    """Of a square of the network's own size, to the byte."""
    marked, regions = Marked(photo("RGB"), mask_of((90, 70), (30, 20, 60, 50))), Regions(64, 3, 0.25)
    before = marked.photo.pixels.copy()
    after = regions.put_back(
        marked, [part["image"] for part in regions.cut(marked, regions.boxes(marked))]
    ).pixels
    assert np.array_equal(before, after)


def test_where_it_is_half_transparent_colours_are_mixed_by_opacity():
    pixels = np.full((64, 64, 4), (255, 0, 0, 0), np.uint8)  # red, but not to be seen
    mask = Image.new("L", (64, 64), 128)
    after = Regions(64, 3, 0).put_back(Marked(Original(pixels), mask), [torch.full((3, 64, 64), -1.0)]).pixels
    assert (after == (0, 0, 0, 128)).all()


@pytest.mark.parametrize(("mode", "profile"), [("RGB", icc_profiles.rgb()), ("L", icc_profiles.grey(1.4))])
def test_a_profile_is_kept_and_what_is_edited_comes_in_its_colours(mode, profile):
    source, mask = photo(mode, profile=profile), mask_of((90, 70), (30, 20, 60, 50))
    marked, regions, before = Marked(source, mask), Regions(64, 3, 0.25), source.pixels.copy()
    parts = [part["image"] for part in regions.cut(marked, regions.boxes(marked))]
    assert np.abs((parts[0] / 2 + 0.5) * 255 - torch.tensor(before[3:67, 13:77]).permute(2, 0, 1)).max() > 9
    after = regions.put_back(marked, [part.clamp(-0.4, 0.4) for part in parts])  # what the profile has
    assert after.profile == profile
    kept = np.asarray(mask) == 0
    assert np.array_equal(before[kept], after.pixels[kept])
    edited = regions.cut(Marked(after, mask), regions.boxes(marked))[0]["image"]
    inner = slice(30, 40)
    expected = parts[0].clamp(-0.4, 0.4)[:, inner, inner]
    assert (edited[:, inner, inner] - expected).abs().max() * 127.5 <= 3  # there and back in 8 bits


def test_where_the_network_is_smaller_the_edge_fades():
    white, mask = Original(np.full((128, 128, 3), 255, np.uint8)), mask_of((128, 128), (32, 32, 96, 96))
    after = (
        Regions(64, 3, 0.5).put_back(Marked(white, mask), [torch.full((3, 64, 64), -1.0)]).pixels[64, :, 0]
    )
    assert after[31] == 255
    assert 60 < after[32] < 255
    assert after[40] == 0
