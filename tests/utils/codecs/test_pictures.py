"""Images come in as a viewer shows them and go out without loss."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from utils import codecs
from utils.codecs import decoder, effort

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def halves(left=RED, right=BLUE, size=(8, 4)):
    image = Image.new("RGB", size, left)
    image.paste(right, (size[0] // 2, 0, *size))
    return image


def saved(tmp_path, image, name="x.png", **options):
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_all_grey_levels_survive_the_round_trip():
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    for image, channels in ((Image.fromarray(levels), 1), (Image.fromarray(np.stack([levels] * 3, 2)), 3)):
        x = codecs.to_tensor(image, channels)
        assert x.shape == (channels, 16, 16)
        assert (x.min(), x.max(), x.dtype) == (-1, 1, torch.float32)
        assert np.array_equal(np.asarray(codecs.to_image(x)), np.asarray(image))


def test_values_are_rounded_and_clamped():
    x = torch.tensor([-3.0, -1 + 1.4 / 127.5, -1 + 1.6 / 127.5, 7.0]).reshape(1, 2, 2)
    assert np.asarray(codecs.to_image(x)).tolist() == [[0, 1], [2, 255]]


@pytest.mark.parametrize("mode", ["RGB", "L", "P", "CMYK", "RGBA", "LA", "1"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    name = "x.tif" if mode == "CMYK" else "x.png"
    image = codecs.decode(saved(tmp_path, halves((255, 255, 255), (0, 0, 0)).convert(mode), name))
    assert image.mode == "RGB"
    assert [image.getpixel((0, 0)), image.getpixel((7, 0))] == [(255,) * 3, (0,) * 3]


def test_transparency_is_laid_on_white(tmp_path):
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (*RED, 128))
    decoded = codecs.decode(saved(tmp_path, image))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), (255, 127, 127)]
    palette = Image.new("P", (2, 1), 0)
    palette.putpalette([0, 0, 0, *GREEN])
    palette.putpixel((1, 0), 1)
    decoded = codecs.decode(saved(tmp_path, palette, "p.png", transparency=0))
    assert [decoded.getpixel((x, 0)) for x in (0, 1)] == [(255, 255, 255), GREEN]


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 257 * 128, 65535]], dtype=np.uint16)
    image = codecs.decode(saved(tmp_path, Image.fromarray(values)))
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_a_transparent_grey_of_sixteen_bits_is_laid_on_white(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.array([[0, 300]], dtype=np.uint16)), transparency=300)
    assert [codecs.decode(path).getpixel((x, 0))[0] for x in (0, 1)] == [0, 255]


def test_thirty_two_bits_are_refused_where_they_are_more_than_sixteen(tmp_path):
    def decode(value):
        image = Image.fromarray(np.array([[0, value]], dtype=np.int32))
        return codecs.decode(saved(tmp_path, image, "x.tif")).getpixel((1, 0))[0]

    assert decode(65535) == 255
    with pytest.raises(ValueError, match="from 0 to 70000, whose range is unknown"):
        decode(70000)


def test_the_photograph_of_a_phone_is_the_first_picture(tmp_path):
    first, second = halves((200, 0, 0), (0, 0, 200), (16, 16)), Image.new("RGB", (8, 8))
    path = saved(tmp_path, first, "x.jpg", format="MPO", save_all=True, append_images=[second])
    assert codecs.decode(path).size == (16, 16)
    assert codecs.decode(path).getpixel((2, 2))[0] > 150


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_every_orientation_is_turned_as_pillow_does(tmp_path, orientation, kind):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = saved(tmp_path, halves(size=(16, 8)), "x", format=kind, exif=exif)
    with Image.open(path) as image:
        expected = ImageOps.exif_transpose(image).convert("RGB")
    assert np.array_equal(np.asarray(codecs.decode(path)), np.asarray(expected))


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to view
    image = codecs.decode(saved(tmp_path, halves(), exif=exif))
    assert image.size == (4, 8)
    assert [image.getpixel((0, 0)), image.getpixel((0, 7))] == [RED, BLUE]


def broken_files(tmp_path):
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8))
    for name in ("cut.png", "cut.jpg"):
        path = saved(tmp_path, noise, name)
        path.write_bytes(path.read_bytes()[:2000])
    (tmp_path / "text.png").write_text("not an image")
    (tmp_path / "empty.png").touch()
    noise.save(tmp_path / "moving.webp", save_all=True, append_images=[noise.rotate(90)])
    noise.save(tmp_path / "moving.gif", save_all=True, append_images=[noise.rotate(90)])
    noise.save(tmp_path / "portable.png", "PPM")
    Image.fromarray(np.ones((2, 2), np.float32)).save(tmp_path / "float.tif")


def test_broken_files_are_value_errors_with_a_reason(tmp_path):
    broken_files(tmp_path)
    reasons = {
        "cut.png": "broken or truncated",
        "cut.jpg": "broken or truncated",
        "text.png": "not an image",
        "empty.png": "not an image",
        "moving.webp": "2 frames",
        "moving.gif": "several frames",
        "portable.png": "not an image",
        "float.tif": "floating-point",
    }
    assert sorted(reasons) == sorted(path.name for path in tmp_path.iterdir())
    for name, reason in reasons.items():
        with pytest.raises(ValueError, match=reason):
            codecs.decode(tmp_path / name)


def test_many_pages_are_refused_without_counting_them(tmp_path):
    path = saved(tmp_path, halves(), "x.tif", save_all=True, append_images=[halves()] * 3)
    with pytest.raises(ValueError, match="has several pages"):
        codecs.decode(path)


def test_a_tiff_that_lacks_strips_is_refused(tmp_path):
    path = saved(tmp_path, halves(size=(8, 8)), "x.tif")
    data = path.read_bytes()
    at = data.index((257).to_bytes(2, "little"))  # its height
    path.write_bytes(data[: at + 8] + (800).to_bytes(4, "little") + data[at + 12 :])
    with pytest.raises(ValueError, match="truncated"):
        codecs.decode(path)


def test_links_lead_to_files_of_the_folder_alone(tmp_path):
    root, outside = tmp_path / "in", saved(tmp_path, halves())
    (root / "deep").mkdir(parents=True)
    inside = saved(root, halves())
    for name, target in [("out.png", outside), ("up.png", "../x.png"), ("near.png", inside)]:
        os.symlink(target, root / name)
    os.symlink("nowhere", root / "broken.png")
    os.symlink("loop.png", root / "loop.png")
    os.symlink(tmp_path, root / "deep" / "folder")
    os.symlink(root, tmp_path / "also")
    for name in ("out.png", "up.png", "deep/folder/x.png"):
        with pytest.raises(ValueError, match="is a link that leads out of the input folder"):
            codecs.decode(root / name, root)
        assert codecs.decode(root / name).size == (8, 4)
    for name in ("near.png", "deep/folder/in/x.png"):
        assert codecs.decode(tmp_path / "also" / name, tmp_path / "also").size == (8, 4)
    with pytest.raises(ValueError, match="is a link that leads to nothing"):
        codecs.decode(root / "broken.png", root)
    with pytest.raises(ValueError, match="cannot be opened: Too many levels"):
        codecs.decode(root / "loop.png", root)


def test_what_is_no_file_is_refused_and_not_waited_for(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    os.symlink("pipe.png", tmp_path / "link.png")
    for name in ("pipe.png", "link.png"):
        with pytest.raises(ValueError, match="pipe, socket or device"):
            codecs.decode(tmp_path / name)
    with pytest.raises(ValueError, match="is not a file but a pipe"):
        codecs.decode(Path("/dev/zero"))
    with pytest.raises(ValueError, match="is not a file but a folder"):
        codecs.decode(tmp_path)
    with pytest.raises(ValueError, match="cannot be opened: No such file"):
        codecs.decode(tmp_path / "vanished.png")
    path = saved(tmp_path, halves())
    monkeypatch.setattr(effort, "MAX_BYTES", 10)
    with pytest.raises(ValueError, match="bytes, allowed are 10"):
        codecs.decode(path)
    monkeypatch.setattr(
        os, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "Permission denied"))
    )
    with pytest.raises(ValueError, match=r"^cannot be opened: Permission denied$"):
        codecs.decode(path)


def test_a_narrow_image_keeps_a_pixel_when_it_is_padded():
    for size in ((1, 3000), (3000, 1)):
        padded = np.asarray(codecs.fit(Image.new("RGB", size, RED), 16, "pad"))
        assert padded.shape == (16, 16, 3)
        assert (padded == RED).all(axis=2).sum() == 16


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path):
    path = saved(tmp_path, Image.new("1", (20000, 20000)), "bomb.png")
    assert path.stat().st_size < 100_000
    with pytest.raises(ValueError, match="pixels"):
        codecs.decode(path)


def test_fit_crops_pads_or_stretches():
    image = halves(size=(16, 8))
    image.paste(GREEN, (0, 0, 2, 8))  # what a centre crop loses
    crop, pad, stretch = (codecs.fit(image, 8, how) for how in ("crop", "pad", "stretch"))
    assert crop.size == pad.size == stretch.size == (8, 8)
    assert [crop.getpixel((x, 4)) for x in (0, 7)] == [RED, BLUE]
    assert [pad.getpixel((4, y)) for y in (0, 7)] == [(255, 255, 255)] * 2
    red, green, blue = stretch.getpixel((0, 0))
    assert green > 230
    assert max(red, blue) < 25
    square = halves(size=(8, 8))
    assert all(codecs.fit(square, 8, how) is square for how in ("crop", "pad", "stretch"))


def test_fit_takes_any_width_and_height_or_leaves_a_picture_as_it_is():
    image = halves(size=(16, 8))
    assert codecs.fit(image, None, "crop") is image
    assert codecs.fit(image, (16, 8), "pad") is image
    for how in ("crop", "pad", "stretch"):
        assert codecs.fit(image, (5, 9), how).size == (5, 9)
    assert [codecs.fit(image, (4, 8), "crop").getpixel((x, 4)) for x in (0, 3)] == [RED, BLUE]
    padded = codecs.fit(image, (8, 8), "pad")
    assert [padded.getpixel((4, y)) for y in (0, 7)] == [(255, 255, 255)] * 2
    for size, kept in (((1, 3000), (1, 24)), ((3000, 1), (7, 1))):
        padded = np.asarray(codecs.fit(Image.new("RGB", size, RED), (7, 24), "pad"))
        assert (padded == RED).all(axis=2).sum() == max(kept)


def test_png_bytes_are_repeatable_and_hold_the_parameters(tmp_path):
    text = {"parameters": json.dumps({"seed": 3})}
    data = codecs.encode_png(halves(), text)
    assert data == codecs.encode_png(halves(), text)
    (tmp_path / "x.png").write_bytes(data)
    with Image.open(tmp_path / "x.png") as image:
        assert json.loads(image.text["parameters"]) == {"seed": 3}
        assert np.array_equal(np.asarray(image), np.asarray(halves()))


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "gif", "jp2", "webp"])
def test_the_size_of_a_picture_is_seen_without_its_pixels(tmp_path, suffix):
    path = saved(tmp_path, Image.new("RGB", (40, 30)), f"x.{suffix}")
    assert decoder.look(path) == (40, 30)
    path.write_bytes(path.read_bytes()[:20])
    assert decoder.look(path) is None
    assert decoder.look(tmp_path / "gone.png") is None


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exif": b"Exif\0\0"}])
def test_the_size_of_every_kind_of_webp_is_seen(tmp_path, options):
    assert decoder.look(saved(tmp_path, Image.new("RGB", (40, 30)), "x.webp", **options)) == (40, 30)
