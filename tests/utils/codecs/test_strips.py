"""Strips for people: small pictures large, each under its label, and nothing lost of them."""

import numpy as np
import pytest
from PIL import Image

from utils import codecs
from utils.codecs import strips

RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def noise(side, mode="RGB", seed=0):
    shape = (side, side, 3) if mode == "RGB" else (side, side)
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


def ink(label, width=128):
    """Columns of a label that are not white."""
    return np.flatnonzero((np.asarray(strips._draw(label, width)) < 255).any(0))


def test_a_strip_shows_its_images_side_by_side():
    colors = [Image.new("RGB", (8, 4), color) for color in (RED, GREEN)]
    strip = codecs.strip([*colors, Image.new("L", (8, 4), 9)])
    assert strip.size == (8 * 3 + 2 * 2, 4)
    assert [strip.getpixel((x, 0)) for x in (0, 8, 10, 20)] == [RED, WHITE, GREEN, (9, 9, 9)]


@pytest.mark.parametrize(
    ("side", "shown"), [(16, 128), (28, 140), (64, 128), (100, 200), (127, 254), (128, 128), (256, 256)]
)
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_small_pictures_are_enlarged_by_a_whole_factor_and_none_is_lost(side, shown, mode):
    pictures = [noise(side, mode, seed) for seed in range(3)]
    strip = codecs.labelled_strip(pictures, ["input", "noised", "result"])
    assert strip.width == 3 * shown + 2 * 2
    assert shown < strip.height < shown + 32
    row = np.asarray(strip)[-1, :shown].reshape(side, -1, 3)
    assert (row == row[:, :1]).all()  # each pixel became a square of its colour
    cut = codecs.cut_strip(strip, side)
    assert [x.tobytes() for x in cut] == [x.convert("RGB").tobytes() for x in pictures]


@pytest.mark.parametrize(("size", "factor"), [((16, 40), 4), ((40, 16), 4), ((192, 30), 1)])
def test_strips_of_pictures_that_are_no_squares(size, factor):
    pictures = [noise(200, seed=seed).crop((0, 0, *size)) for seed in range(2)]
    strip = codecs.labelled_strip(pictures, ["input", ""])
    assert strip.width == 2 * factor * size[0] + 2
    cut = codecs.cut_strip(strip, *size)
    assert [x.tobytes() for x in cut] == [x.tobytes() for x in pictures]


def test_labels_stand_above_their_pictures_and_not_on_them():
    plain = codecs.labelled_strip([noise(64)] * 3, ["", "", ""])
    strip = codecs.labelled_strip([noise(64)] * 3, ["input", "", "result"])
    changed = np.argwhere((np.asarray(strip) != np.asarray(plain)).any(2))
    assert changed[:, 0].max() < strip.height - 128
    columns = {x // 130 for x in changed[:, 1]}
    assert columns == {0, 2}
    assert (np.asarray(plain)[: strip.height - 128] == 255).all()


@pytest.mark.parametrize("width", [128, 256, 1024])
def test_a_label_is_in_the_middle_and_grows_with_the_picture(width):
    columns = ink("t0 0.3", width)
    assert abs((columns[0] + columns[-1]) / 2 - width / 2) < 0.02 * width + 2
    assert np.ptp(columns) > width / 9


def test_a_label_that_is_too_long_is_cut_off():
    columns = ink("x" * 200)
    assert columns[0] >= 0
    assert np.ptp(columns) > 100
    assert np.array_equal(np.asarray(strips._draw("x" * 200, 128)), np.asarray(strips._draw("x" * 90, 128)))
    assert not np.array_equal(ink("result"), ink("r" * 200))


def test_the_same_pictures_are_the_same_strip():
    first, second = (codecs.labelled_strip([noise(32)] * 2, ["input", "result"]) for _ in range(2))
    assert first.tobytes() == second.tobytes()
