"""Files as cameras, phones and programs write them: read as viewers show them, whatever is wrong beside."""

import io
import logging
import struct
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image, ImageCms, PngImagePlugin, features

from tests.utils.codecs import icc_profiles
from utils.codecs import decoder, effort, formats, jpeg2000
from utils.codecs.budget import Budget

GREEN, RED = (60, 200, 60), (255, 0, 0)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
RAMP = np.tile(np.arange(0, 256, 4, dtype=np.uint8), (16, 1))


def encoded(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind, body, broken=False):
    crc = zlib.crc32(kind + body) ^ broken
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", crc)


def with_chunks(*chunks, image=None):
    """A PNG with more chunks before its pixels."""
    data = encoded(image or Image.new("RGB", (8, 4), GREEN), "PNG")
    return data[:33] + b"".join(chunks) + data[33:]


@pytest.fixture
def read(tmp_path, caplog):
    """Read a file, and return its picture and what was said of it."""
    caplog.set_level(logging.WARNING)
    count = 0

    def read(data):
        nonlocal count
        path = tmp_path / f"{(count := count + 1)}.x"
        path.write_bytes(data)
        caplog.clear()
        return decoder.decode(path), caplog.messages

    return read


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
def test_colours_of_a_wide_profile_come_out_in_srgb(read, kind):
    options = {"lossless": True} if kind == "WEBP" else {} if kind in ("PNG", "TIFF") else {"quality": 100}
    data = encoded(Image.new("RGB", (16, 16), GREEN), kind, icc_profile=icc_profiles.rgb(), **options)
    image, said = read(data)
    assert np.abs(np.subtract(image.getpixel((3, 3)), (0, 201, 37))).max() <= 3
    assert said == []


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "LA"])
def test_srgb_and_no_profile_leave_every_byte(read, mode):
    image = Image.merge("RGB", [Image.fromarray(x) for x in (RAMP, RAMP[:, ::-1], RAMP // 2)]).convert(mode)
    plain, said = read(encoded(image, "PNG"))
    tagged, said_too = read(encoded(image, "PNG", icc_profile=SRGB))
    assert np.array_equal(np.asarray(plain), np.asarray(tagged))
    assert said == said_too == []


@pytest.mark.parametrize("mode", ["RGBA", "P", "L", "LA"])
def test_every_mode_is_brought_to_srgb(read, mode):
    image = Image.new("RGB", (8, 8), (128, 128, 128))
    image = image.quantize(4) if mode == "P" else image.convert(mode)
    own = icc_profiles.grey(1.8) if mode in ("L", "LA") else icc_profiles.rgb(1.8)
    expected = round(255 * ImageCmsCurve.inverse((128 / 255) ** 1.8))
    found, said = read(encoded(image, "PNG", icc_profile=own))
    assert np.abs(np.subtract(found.getpixel((0, 0)), expected)).max() <= 2
    assert said == []


class ImageCmsCurve:
    @staticmethod
    def inverse(light):
        return 12.92 * light if light <= 0.0031308 else 1.055 * light ** (1 / 2.4) - 0.055


def test_sixteen_bits_grey_with_a_profile_of_colours_and_cmyk(read):
    deep = Image.fromarray(np.full((4, 4), 128 * 257, np.uint16))
    expected = round(255 * ImageCmsCurve.inverse((128 / 255) ** 1.8))
    for profile in (icc_profiles.grey(1.8), icc_profiles.rgb(1.8)):
        found, said = read(encoded(deep, "TIFF", icc_profile=profile))
        assert abs(found.getpixel((0, 0))[0] - expected) <= 2
        assert said == []
    inks = Image.new("CMYK", (4, 1))
    for x, ink in enumerate([(0, 0, 0, 0), (0, 255, 0, 0), (0, 0, 0, 255), (255, 0, 0, 0)]):
        inks.putpixel((x, 0), ink)
    found, said = read(encoded(inks, "TIFF", icc_profile=icc_profiles.cmyk()))
    levels = [found.getpixel((x, 0)) for x in range(4)]
    assert levels[0] == (255, 255, 255)
    assert levels[2] == (0, 0, 0)
    assert 130 < levels[1][1] < 160 < 220 < levels[3][0]  # magenta of L 60, cyan of L 90, both grey
    assert said == []


@pytest.mark.parametrize(
    ("profile", "reason"),
    [
        (b"p" * 200, "profile is broken"),
        (icc_profiles.rgb()[:300], "profile is broken"),
        (icc_profiles.cmyk(), "profile is one of CMYK pictures"),
        (icc_profiles.grey(1.8), "profile is one of L pictures"),
        (icc_profiles.rgb() + b"mpet", "too complex"),
        (bytes(17 * 2**20), "broken or too large"),
    ],
)
def test_a_profile_that_does_not_fit_is_said_and_the_picture_read(read, profile, reason):
    image, said = read(with_chunks(chunk(b"iCCP", b"x\0\0" + zlib.compress(profile))))
    assert image.getpixel((0, 0)) == GREEN
    assert len(said) == 1
    assert reason in said[0]
    assert "read as sRGB" in said[0]


def test_a_large_profile_and_one_with_a_wrong_checksum(read):
    body = b"x\0\0" + zlib.compress(icc_profiles.rgb() + bytes(2 * 2**20))
    assert read(with_chunks(chunk(b"iCCP", body)))[0].getpixel((0, 0)) == (0, 201, 37)
    image, said = read(with_chunks(chunk(b"iCCP", body, broken=True)))
    assert (image.getpixel((0, 0)), len(said)) == (GREEN, 1)


def test_other_words_about_colours_are_not_obeyed_and_said(read):
    for body, says in ((struct.pack(">I", 45455), 0), (struct.pack(">I", 100000), 1)):
        image, said = read(with_chunks(chunk(b"gAMA", body)))
        assert (image.getpixel((0, 0)), len(said)) == (GREEN, says)
    assert read(with_chunks(chunk(b"gAMA", body), chunk(b"sRGB", b"\0")))[1] == []
    assert "code 12, 13" in read(with_chunks(chunk(b"cICP", bytes([12, 13, 0, 1]))))[1][0]
    assert read(with_chunks(chunk(b"cICP", bytes([1, 13, 0, 1]))))[1] == []
    exif = Image.Exif()
    exif[0x8769] = {0xA001: 65535, 0xA005: {1: "R03"}}
    assert "Adobe RGB" in read(encoded(Image.new("RGB", (8, 8)), "JPEG", exif=exif))[1][0]
    if features.check("avif"):
        data = encoded(Image.new("RGB", (8, 8)), "AVIF")
        assert read(data)[1] == []
        at = data.index(b"colrnclx") + 8
        assert "code 9, 16" in read(data[:at] + bytes([0, 9, 0, 16]) + data[at + 4 :])[1][0]


ASIDE = {
    "long text": chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3 * 2**20))),
    "endless text": chunk(b"iTXt", b"Comment\0\1\0\0\0" + zlib.compress(bytes(10**8))),
    "long plain text": chunk(b"tEXt", b"Comment\0" + b"x" * 3 * 2**20),
    "text of no form": chunk(b"zTXt", b"\xff" * 20),
    "huge XMP": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(bytes(10**8))),
    "huge exif in text": chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(bytes(10**8))),
    "exif in text that is none": chunk(b"tEXt", b"Raw profile type exif\0hello"),
    "broken exif": chunk(b"eXIf", b"\0\x08\0\x02\x01\x12\0\x03"),
    "wrong checksum": chunk(b"tIME", bytes(7), broken=True),
    "wrong checksum of exif": chunk(b"eXIf", b"MM\0*\0\0\0\x08", broken=True),
    "short density": chunk(b"pHYs", b"\0"),
    "short gamma": chunk(b"gAMA", b"\0"),
}


@pytest.mark.parametrize("name", ASIDE)
def test_broken_and_huge_chunks_beside_the_pixels_do_not_matter(read, name):
    image, said = read(with_chunks(ASIDE[name], ASIDE[name]))
    assert (image.size, image.getpixel((0, 0)), said) == ((8, 4), GREEN, [])


def test_what_decides_the_pixels_is_kept_and_checked(read):
    grey = Image.new("L", (8, 4), 3)
    image, _ = read(with_chunks(chunk(b"tRNS", b"\0\3"), image=grey))
    assert image.getpixel((0, 0)) == (255, 255, 255)
    with pytest.raises(ValueError, match="broken"):
        read(with_chunks(chunk(b"tRNS", b"\0\3", broken=True), image=grey))
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (20, 20), np.uint8))
    data = with_chunks(ASIDE["long text"], image=noise)
    with pytest.raises(ValueError, match="broken or truncated"):
        read(data[:-100])
    assert read(with_chunks() + b"a film behind it")[0].size == (8, 4)


@pytest.mark.parametrize("compressed", [False, True])
def test_an_orientation_in_xmp_is_obeyed(read, compressed):
    info = PngImagePlugin.PngInfo()
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>', zip=compressed)
    assert read(encoded(Image.new("RGB", (8, 4)), "PNG", pnginfo=info))[0].size == (4, 8)


def test_a_film_behind_a_photo_is_no_part_of_it(read):
    photo = encoded(Image.new("RGB", (4000, 3000), RED), "JPEG")
    film = b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x0c" * 2000
    assert read(photo + film)[0].size == (4000, 3000)


def tiff_twins(kind, photometric):
    """The same ramp, white being zero or the largest."""
    values = {"1": RAMP > 127, "8": RAMP, "16": RAMP.astype(np.uint16) * 257}[kind]
    image = Image.fromarray(values)
    data = encoded(image, "TIFF")
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    return data[:at] + struct.pack("<H", photometric) + data[at + 2 :]


@pytest.mark.parametrize("kind", ["1", "8", "16"])
def test_white_may_be_zero(read, kind):
    usual, other = (np.asarray(read(tiff_twins(kind, which))[0]) for which in (1, 0))
    assert np.array_equal(other, 255 - usual)
    assert np.array_equal(usual[..., 0], RAMP > 127 if kind == "1" else RAMP) or kind == "1"


def test_twelve_bits_are_scaled(read):
    values = np.array([[0, 4095, 2048, 16]], np.uint16)
    packed = b"".join(bytes([a >> 4, (a & 15) << 4 | b >> 8, b & 255]) for a, b in values.reshape(-1, 2))
    data = encoded(Image.fromarray(values), "TIFF")
    data = data.replace(struct.pack("<HHIHH", 258, 3, 1, 16, 0), struct.pack("<HHIHH", 258, 3, 1, 12, 0))
    at = data.index(values.tobytes())
    found = read(data[:at] + packed + bytes(2) + data[at + 8 :])[0]
    assert [found.getpixel((x, 0))[0] for x in range(4)] == [0, 255, 128, 1]


@pytest.mark.parametrize(("factor", "says"), [(1, None), (257, None), (10, "range is unknown")])
def test_whole_numbers_of_32_bits(read, factor, says):
    data = encoded(Image.fromarray(RAMP.astype(np.int32) * factor), "TIFF")
    if says:
        with pytest.raises(ValueError, match=says):
            read(data)
    else:
        assert np.array_equal(np.asarray(read(data)[0])[..., 0], RAMP)


def test_what_is_not_read_is_told_what_it_is(read):
    data = encoded(Image.new("RGB", (4, 4)), "TIFF")
    at = data.index(struct.pack("<HHI", 339, 3, 3)) if struct.pack("<HHI", 339, 3, 3) in data else None
    bits = data.index(struct.pack("<HHH", 8, 8, 8))
    data = bytearray(data)
    data[bits : bits + 6] = struct.pack("<HHH", 32, 32, 32)
    assert at is None  # Pillow writes no sample format for 8 bits
    for content, reason in (
        (bytes(data), "a TIFF picture of 3 channels of 32 bits"),
        (b"\0\0\0\x18ftypheic" + bytes(50), "a HEIC picture"),
        (b"<!DOCTYPE html>", "text, as of a web page"),
        (b"version https://git-lfs.github.com/spec/v1", "pointer of Git LFS"),
        (b"nothing of all", "not an image in one of the formats PNG"),
    ):
        with pytest.raises(ValueError, match=reason):
            read(content)


@pytest.mark.parametrize(("process", "bits"), [(0xC0, 16), (0xC1, 12), (0xC3, 16), (0xC2, 12)])
def test_a_jpeg_of_more_than_8_bits_is_told_apart_from_a_broken_one(read, process, bits):
    content = bytearray(encoded(Image.new("RGB", (16, 16)), "JPEG"))
    at = content.index(b"\xff\xc0")
    content[at + 1], content[at + 4] = process, bits
    said = f"^a JPEG picture of {bits} bits, of which only those of 8 are read; save it as PNG or TIFF$"
    with pytest.raises(ValueError, match=said):
        read(bytes(content))
    content[at + 4] = 0
    for broken in (content[:at], content[: at + 4], content):
        with pytest.raises(ValueError, match="cannot be read, broken or truncated"):
            read(bytes(broken))


@pytest.mark.parametrize("kind", ["GIF", "AVIF", "JPEG2000"])
def test_more_formats_are_read_where_they_are_still(read, kind):
    if kind not in formats.FORMATS:
        pytest.skip(f"Pillow without {kind}")
    image = Image.new("RGB", (16, 12), (200, 30, 90))
    found = read(encoded(image, kind))[0]
    assert np.abs(np.asarray(found, int) - np.asarray(image)).max() <= 6
    if kind != "JPEG2000":
        with pytest.raises(ValueError, match="frames"):
            read(encoded(image, kind, save_all=True, append_images=[image.rotate(90), image.rotate(180)]))


def test_formats_are_those_of_this_pillow():
    assert (".avif" in formats.SUFFIXES) == features.check("avif")
    assert {".jfif", ".jpe", ".gif", ".png"} <= set(formats.SUFFIXES)


def test_jpeg_2000_in_tiny_parts_is_refused(read, monkeypatch):
    image = Image.fromarray(np.tile(RAMP, (8, 4)))
    data = encoded(image, "JPEG2000", codeblock_size=(4, 4), precinct_size=(32, 32))
    assert np.array_equal(np.asarray(read(data)[0])[..., 0], np.asarray(image))
    monkeypatch.setattr(jpeg2000, "MAX_PARTS", 100)
    with pytest.raises(ValueError, match="cut into"):
        read(data)
    at = data.index(b"\xff\x4f\xff\x51") + 8
    data = data[:at] + struct.pack(">I", 30000) + data[at + 4 :]
    with pytest.raises(ValueError, match="disagree"):
        read(data)


def test_a_webp_is_refused_by_its_header(read):
    for options in ({"lossless": True}, {}, {"exif": b"Exif\0\0"}):
        data = encoded(Image.new("RGB", (300, 200), RED), "WEBP", **options)
        assert effort.webp_size(data) == (300, 200)
        with pytest.raises(ValueError, match="300x200 pixels, allowed are 1000"):
            decoder.decode_bytes(data, 1000)


def test_large_pictures_wait_for_one_another(tmp_path, monkeypatch):
    path = tmp_path / "x.png"
    Image.new("RGB", (100, 100)).save(path)
    monkeypatch.setattr(decoder, "IN_FLIGHT", Budget(25_000))
    lock, now, most = threading.Lock(), 0, 0

    def use(_):
        nonlocal now, most
        with decoder.reading(path):
            with lock:
                now += 1
                most = max(most, now)
            time.sleep(0.01)
            with lock:
                now -= 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(16)))
    assert most == 2
