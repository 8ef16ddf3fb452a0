"""One region, however a program saves it as a mask: the same mask, or a failed item that says why."""

import numpy as np
import pytest
from PIL import Image

from utils.codecs import decoder
from utils.images import map_values

REGION = np.zeros((40, 48), dtype=bool)
REGION[8:30, 10:28] = True
WHITE = np.where(REGION, 255, 0).astype(np.uint8)


def colored(inside, outside):
    return Image.fromarray(np.where(REGION[..., None], inside, outside).astype(np.uint8))


def photo():
    y, x = np.mgrid[:40, :48]
    return np.stack([x * 5, y * 6, 255 - x * 2 - y * 2], axis=2).astype(np.uint8)


def palette(colors):
    image = Image.fromarray(REGION.astype(np.uint8)).convert("P")
    image.putpalette([value for color in colors for value in color])
    return image


SAME = {
    "black and white": (Image.fromarray(WHITE), "png"),
    "white strokes on transparency": (colored((255, 255, 255, 255), (255, 255, 255, 0)), "png"),
    "white strokes, other colours below": (colored((255, 255, 255, 255), (90, 7, 40, 0)), "png"),
    "black strokes on transparency": (colored((0, 0, 0, 255), (0, 0, 0, 0)), "png"),
    "red strokes on transparency": (colored((255, 0, 0, 255), (0, 0, 0, 0)), "webp"),
    "strokes in grey and alpha": (Image.fromarray(np.stack([WHITE, WHITE], 2)), "png"),
    "an erased hole": (Image.fromarray(np.dstack([photo(), 255 - WHITE])), "png"),
    "opaque alpha": (colored((255, 255, 255, 255), (0, 0, 0, 255)), "png"),
    "zero and one": (Image.fromarray(REGION.astype(np.uint8)), "png"),
    "two greys": (colored((140,) * 3, (90,) * 3), "png"),
    "red on black": (colored((255, 0, 0), (0, 0, 0)), "png"),
    "yellow on blue": (colored((255, 255, 0), (0, 0, 255)), "bmp"),
    "palette of DAVIS": (palette([(0, 0, 0), (128, 0, 0)]), "png"),
    "palette, reversed": (palette([(9, 9, 9), (10, 10, 10)]), "gif"),
    "one bit": (Image.fromarray(WHITE).convert("1"), "tif"),
    "16 bits": (Image.fromarray(WHITE.astype(np.uint16) * 257), "png"),
    "16 bits, zero and one": (Image.fromarray(REGION.astype(np.uint16)), "png"),
    "8 bits in 16": (Image.fromarray(WHITE.astype(np.uint16)), "tif"),
    "8 bits in 32": (Image.fromarray(WHITE.astype(np.int32)), "tif"),
    "floating point": (Image.fromarray(REGION.astype(np.float32)), "tif"),
}


def read(tmp_path, image, suffix="png", convert=map_values.read_mask, **options):
    path = tmp_path / f"m.{suffix}"
    image.save(path, **({"lossless": True} if suffix == "webp" else {}), **options)
    with decoder.reading(path, convert=convert) as found:
        assert found.mode == "L"
        return np.asarray(found)


@pytest.mark.parametrize("name", SAME)
def test_one_region_is_the_same_mask_however_it_is_saved(tmp_path, name):
    image, suffix = SAME[name]
    assert np.array_equal(read(tmp_path, image, suffix), WHITE)


@pytest.mark.parametrize("name", [n for n in SAME if n not in ("two greys", "palette, reversed")])
def test_strengths_are_read_likewise(tmp_path, name):
    image, suffix = SAME[name]
    assert np.array_equal(read(tmp_path, image, suffix, map_values.read_strengths), WHITE)


def test_two_greys_are_strengths_and_stay(tmp_path):
    found = read(tmp_path, SAME["two greys"][0], convert=map_values.read_strengths)
    assert np.array_equal(found, np.where(REGION, 140, 90))


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        (Image.fromarray(photo()), "several colours|picture in colours"),
        (Image.fromarray(np.dstack([photo(), 0 * WHITE])), "wholly transparent"),
        (colored((255, 0, 0, 255), (0, 0, 255, 128)), "transparency and several colours"),
        (Image.fromarray(np.dstack([photo()[..., 0], 255 - WHITE])), "transparency and several colours"),
    ],
    ids=["a photo", "transparent", "two colours and transparency", "a grey photo with a hole"],
)
def test_what_may_mean_several_things_is_refused_with_what_to_do(tmp_path, image, reason):
    with pytest.raises(ValueError, match=reason) as caught:
        read(tmp_path, image)
    assert "save it in black and white" in str(caught.value)


def test_soft_masks_keep_their_greys(tmp_path):
    ramp = np.tile(np.arange(40, 220, 4, dtype=np.uint8), (20, 1))
    assert np.array_equal(read(tmp_path, Image.fromarray(ramp)), ramp)
    assert np.array_equal(read(tmp_path, Image.fromarray(ramp).convert("P")), ramp)
    assert np.array_equal(read(tmp_path, Image.fromarray(ramp.astype(np.uint16) * 257)), ramp)
    strokes = np.dstack([np.full_like(ramp, 255)] * 3 + [ramp])
    assert np.array_equal(read(tmp_path, Image.fromarray(strokes)), ramp)
    red = read(tmp_path, Image.fromarray(np.dstack([ramp, 0 * ramp, 0 * ramp])))
    assert (red[0, 0], red[0, -1]) == (0, 255)
    assert (np.diff(red[0].astype(int)) > 0).all()


def test_a_jpeg_of_red_on_black_is_nearly_the_same(tmp_path):
    found = read(tmp_path, SAME["red on black"][0], "jpg", quality=90, subsampling=0).astype(int)
    inner = np.abs(found - WHITE)
    assert inner.mean() < 6
    assert np.array_equal(found > 127, REGION)


def test_a_mask_of_one_value_is_taken_as_it_is(tmp_path):
    for value, expected in ((0, 0), (1, 255), (7, 7), (255, 255)):
        assert (read(tmp_path, Image.new("L", (8, 8), value)) == expected).all()


def test_a_profile_does_not_change_a_mask(tmp_path):
    from PIL import ImageCms

    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    ramp = np.tile(np.arange(0, 250, 5, dtype=np.uint8), (20, 1))
    assert np.array_equal(read(tmp_path, Image.fromarray(ramp), icc_profile=profile), ramp)
