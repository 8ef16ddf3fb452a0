"""Pictures of more than 8 bits: no level is lost between the file, the network and the file."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from tests.utils.arrays import array_files
from tests.utils.arrays.array_files import ramp
from tests.utils.codecs import icc_profiles
from tests.utils.images import xmp
from utils import codecs
from utils.arrays import npy, tiff
from utils.codecs import Original, decoder, icc, icc_tables
from utils.codecs.original import Box

FINE = np.arange(257, dtype=np.uint16).reshape(1, 257, 1) + 30000
"""A ramp within one level of 8 bits."""


def write(path, pixels, profile=None):
    suffix = path.suffix
    photo = Original(pixels, profile, (0.0, 1.0) if pixels.dtype.kind == "f" else None)
    path.write_bytes(codecs.encode(photo, suffix, {}))
    return path


@pytest.mark.parametrize("suffix", [".png", ".tif", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_fine_ramp_stays_distinct_at_the_network_and_back(tmp_path, suffix, channels):
    pixels = np.repeat(FINE, channels, axis=2)
    with codecs.reading_stored(write(tmp_path / f"a{suffix}", pixels)) as photo:
        for network in (1, 3):
            shown = codecs.to_float(photo, None, "crop", network)
            assert (shown.dtype, shown.shape) == (torch.float32, (network, 1, 257))
            assert (shown.diff() > 0).all()
    back = codecs.of_tensor(codecs.to_float(photo, None, "crop", channels), np.dtype(np.uint16))
    assert np.array_equal(back.pixels, pixels)


def test_every_level_comes_back_from_the_network_scale():
    for dtype, ends in ((np.uint16, None), (np.uint8, None), (np.int16, (-32768, 32767))):
        info = np.iinfo(dtype)
        pixels = np.arange(info.min, info.max + 1).astype(dtype).reshape(1, -1, 1)
        shown = codecs.to_float(Original(pixels, None, ends), None, "crop", 1)
        assert (shown.min(), shown.max()) == (-1, 1)
        assert np.array_equal(codecs.of_tensor(shown, np.dtype(dtype), ends).pixels, pixels)


@pytest.mark.parametrize("how", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("size", [(16, 16), (20, 11), (64, 48)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_what_fits_8_bits_is_seen_as_a_picture_of_8_bits(how, size, mode):
    """The same place, the same filter: within what rounding to 8 bits twice may do."""
    chance = np.random.default_rng(0)
    small = chance.integers(90, 160, (29, 37, len(mode)), dtype=np.uint8)  # no overshoot, which 8 bits cut
    found = codecs.to_float(Original(small.astype(np.uint16) * 257), size, how, 3)
    shown = codecs.fit(codecs.to_rgb(Image.fromarray(small.squeeze()), []), size, how)
    assert (found - codecs.to_tensor(shown, 3)).abs().max() * 127.5 < 2.5
    if mode != "RGBA":
        assert (found - codecs.to_tensor(shown, 3)).abs().max() * 127.5 < 1.2


def test_a_square_of_a_photo_is_shown_as_that_of_8_bits():
    small = np.random.default_rng(0).integers(0, 256, (70, 90, 3), dtype=np.uint8)
    box = Box(-10, 20, 96)
    found = codecs.show(Original(small.astype(np.uint16) * 257), box, 96, 3)
    assert torch.equal(
        (found * 127.5).round(), (codecs.to_tensor(Original(small).show(box, 96), 3) * 127.5).round()
    )


def test_transparent_parts_lie_on_white():
    pixels = np.zeros((1, 3, 4), np.uint16)
    pixels[..., 3] = 65535, 32768, 0
    shown = codecs.to_float(Original(pixels), None, "crop", 1)
    assert shown.flatten().tolist() == pytest.approx([-1, 1 - 2 * 32768 / 65535, 1], abs=1e-7)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_upright_as_pillow_turns_them(tmp_path, orientation):
    pixels = ramp(1)[:2, :3]
    data = tiff.encode(pixels, None, "", b"", "")
    at = data.rindex(
        b"\x1c\x01\x03\0"
    )  # planar configuration 1, in the place of which nothing else is needed
    turned = data[:at] + b"\x12\x01\x03\0\1\0\0\0" + bytes([orientation, 0, 0, 0]) + data[at + 12 :]
    (tmp_path / "a.tif").write_bytes(turned)
    method = decoder.UPRIGHT.get(orientation)
    image = Image.fromarray(pixels[..., 0].astype(np.int32))
    wanted = np.asarray(image if method is None else image.transpose(method))
    assert np.array_equal(codecs.read_stored(tmp_path / "a.tif").pixels[..., 0], wanted)
    exif = Image.Exif()
    exif[0x0112] = orientation
    (tmp_path / "a.png").write_bytes(
        array_files.png(pixels, (b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0")))
    )
    assert np.array_equal(codecs.read_stored(tmp_path / "a.png").pixels[..., 0], wanted)


def test_a_colour_profile_is_used_without_steps(tmp_path):
    profile, pixels = icc_profiles.rgb(), np.repeat(FINE, 3, axis=2)
    photo = codecs.read_stored(write(tmp_path / "a.png", pixels, profile))
    assert photo.profile == profile
    shown = codecs.to_float(photo, None, "crop", 3)
    assert (shown.diff() > 0).all()
    by_lcms = icc.to_srgb(Image.new("RGB", (1, 1), (117, 117, 117)), profile).getpixel((0, 0))
    middle = (shown[:, 0, 117 * 257 - 30000] + 1) * 127.5
    assert middle.tolist() == pytest.approx(by_lcms, abs=0.6)


@pytest.mark.parametrize("profile", [icc_profiles.rgb(), icc_profiles.rgb(1.8), icc_profiles.grey(1.8)])
def test_profiles_in_numbers_are_what_littlecms_does_and_lead_back(profile):
    channels = 1 if profile[16:20] == b"GRAY" else 3
    colours = np.random.default_rng(0).integers(0, 256, (64, 64, channels)).astype(np.uint8)
    found = icc_tables.to_srgb(colours.astype(np.float32) / 255, profile)
    image = Image.fromarray(colours.squeeze())
    wanted = np.asarray(icc.to_srgb(image.copy(), profile))[..., :channels]
    assert np.abs(255 * found - wanted).max() < 1.5  # of dark greys, where LittleCMS rounds twice
    greys = np.linspace(0, 1, 65536, dtype=np.float32)[None, :, None].repeat(channels, axis=2)
    there = icc_tables.to_srgb(greys, profile)
    assert np.abs(icc_tables.from_srgb(there, profile) - greys).max() * 65535 < 5


def test_profiles_of_tables_are_used_by_tables(monkeypatch):
    monkeypatch.setattr(icc_tables, "read_curves", lambda profile: None)
    profile = icc_profiles.rgb(1.8)
    greys = np.linspace(0, 1, 65536, dtype=np.float32)[None, :, None].repeat(3, axis=2)
    found = icc_tables.to_srgb(greys, profile)
    wanted = np.asarray(icc.to_srgb(Image.fromarray(np.rint(255 * greys).astype(np.uint8)), profile))
    assert np.abs(255 * found - wanted).max() < 2.5
    assert (np.diff(found, axis=1) > 0).mean() > 0.99
    assert found[0, 0].tolist() == [0, 0, 0]
    assert found[0, -1].tolist() == [1, 1, 1]
    grey = icc_tables.to_srgb(greys[..., :1], icc_profiles.grey(1.8))
    assert np.abs(icc_tables.from_srgb(grey, icc_profiles.grey(1.8)) - greys[..., :1]).max() * 65535 < 5


@pytest.mark.parametrize(
    ("profile", "note"),
    [(b"no profile" * 20, True), (icc_profiles.cmyk(), True), (icc_profiles.rgb(), False)],
)
def test_a_profile_of_no_use_is_left_out_and_said(tmp_path, caplog, profile, note):
    photo = codecs.read_stored(write(tmp_path / "a.png", ramp(3)[:4], profile))
    assert (photo.profile is None) == note
    assert ("its colour profile is broken" in caplog.text) == note
    assert np.array_equal(photo.pixels, ramp(3)[:4])


def test_grey_with_a_profile_of_colours_becomes_colours(tmp_path):
    photo = codecs.read_stored(write(tmp_path / "a.png", ramp(1)[:4], icc_profiles.rgb()))
    assert np.array_equal(photo.pixels, ramp(1)[:4].repeat(3, axis=2))


def save(path, array):
    np.save(path, array)
    return path


def test_numbers_need_their_ends(tmp_path, caplog):
    array = np.linspace(-1, 17, 12, dtype=np.float32).reshape(3, 4)
    path = save(tmp_path / "a.npy", array)
    with pytest.raises(ValueError, match=r"go from -1 to 17, and nothing says.*give --range LOW HIGH"):
        codecs.read_stored(path)
    photo = codecs.read_stored(path, ends=(-1, 17))
    assert np.allclose(codecs.to_float(photo, None, "crop", 1), torch.linspace(-1, 1, 12).reshape(1, 3, 4))
    assert not caplog.text
    cut = codecs.to_float(codecs.read_stored(path, ends=(0, 10)), None, "crop", 1)
    assert (cut.min(), cut.max()) == (-1, 1)
    assert "a.npy: its values go from -1 to 17; the network sees them cut off at 0 and 10" in caplog.text
    array[0, 0] = np.nan
    with pytest.raises(ValueError, match="holds NaN or infinity"):
        codecs.read_stored(save(tmp_path / "b.npy", array), ends=(-1, 17))
    whole = codecs.read_stored(save(tmp_path / "c.npy", np.array([[0, 4095]], np.uint16)), ends=(0, 4095))
    assert codecs.to_float(whole, None, "crop", 1).flatten().tolist() == [-1, 1]


def test_whole_pictures_say_themselves_what_is_white(tmp_path):
    for name in ("a.png", "a.tif"):
        photo = codecs.read_stored(write(tmp_path / name, ramp(1)), ends=(5.0, 6.0))
        assert photo.ends is None


def test_look_and_look_deep_know_files_by_their_heads(tmp_path):
    pixels = ramp(3)[:20, :30]
    known = {
        "a.png": (pixels, "PNG", np.uint16),
        "a.tif": (pixels.astype(np.float32), "TIFF", np.float32),
        "a.npy": (pixels.astype(np.float64), "NPY", np.float64),
        "a.fits": (pixels.astype(np.float32), "FITS", np.float32),
    }
    for name, (values, kind, dtype) in known.items():
        write(tmp_path / name, values)
        assert codecs.look(tmp_path / name) == (30, 20)
        found = codecs.look_deep(tmp_path / name)
        assert (found.kind, found.dtype, found.channels) == (kind, dtype, 3)
        assert not codecs.is_grey(tmp_path / name)
    Image.new("L", (3, 3)).save(tmp_path / "b.jpg")
    assert codecs.look_deep(tmp_path / "b.jpg") is None
    assert codecs.is_grey(tmp_path / "b.jpg")
    assert codecs.look_deep(tmp_path / "nothing.png") is None


def test_limits_hold(tmp_path):
    (tmp_path / "a.npy").write_bytes(
        npy.encode(np.zeros((1, 1, 1)))[:128].replace(b"(1, 1)", b"(65536, 65536)")
    )
    with pytest.raises(ValueError, match="65536x65536 pixels, allowed are 134217728"):
        codecs.read_stored(tmp_path / "a.npy")
    (tmp_path / "a.npy").write_bytes(
        npy.encode(np.zeros((1, 1, 3)))[:128].replace(b"(1, 1, 3)", b"(11000, 11000, 3)")
    )
    with pytest.raises(ValueError, match="11000x11000 pixels of 24 bytes, allowed are 50331648 of these"):
        codecs.read_stored(tmp_path / "a.npy")


def test_numbers_become_other_numbers_by_the_nearest():
    photo = Original(np.array([[[0.0], [0.5], [1.0], [1.5]]], np.float32), None, (0.0, 1.0))
    words = codecs.convert(photo, np.dtype(np.uint16))
    assert words.pixels.ravel().tolist() == [0, 32768, 65535, 65535]
    assert codecs.convert(words, np.dtype(np.uint8)).pixels.ravel().tolist() == [0, 128, 255, 255]
    assert codecs.convert(photo, np.dtype(np.float32), (0.0, 1.0)) is photo
    values = codecs.convert(photo, np.dtype(np.float32), (-1.0, 17.0)).pixels.ravel()
    assert values.tolist() == [-1, 8, 17, 26]


def test_pictures_are_encoded_with_what_made_them():
    mark, text = codecs.make_mark("program", "weights"), {"parameters": '{"a": "b"}'}
    photo = Original((ramp(4) // 257).astype(np.uint8))
    for suffix, mode in ((".jpg", "RGB"), (".webp", "RGBA"), (".tif", "RGBA"), (".png", "RGBA")):
        data = codecs.encode(photo, suffix, text, mark, "program")
        assert data == codecs.encode(photo, suffix, text, mark, "program")
        assert xmp.properties(xmp.packet(data))["xmp:CreatorTool"] == "program"
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.mode == mode
            if suffix in (".jpg", ".webp"):
                assert image.getexif().get_ifd(0x8769)[0x9286] == b'ASCII\0\0\0{"a": "b"}'
            if suffix == ".tif":
                assert (image.tag_v2[270], image.tag_v2[305]) == ('{"a": "b"}', "program")
    with pytest.raises(ValueError, match="20000x1 pixels, and WEBP holds 16383 a side; use --format png"):
        codecs.encode(Image.new("RGB", (20000, 1)), ".webp", {})


def test_a_preview_is_small_and_of_8_bits():
    with Image.open(io.BytesIO(codecs.preview(Original(ramp(3).repeat(9, axis=1))))) as image:
        assert (image.mode, image.size) == ("RGB", (768, 86))
    deep_grey = Original(np.linspace(-1, 17, 4, dtype=np.float32).reshape(1, 4, 1), None, (-1.0, 17.0))
    with Image.open(io.BytesIO(codecs.preview(deep_grey))) as image:
        assert np.asarray(image)[0, :, 0].tolist() == [0, 85, 170, 255]
