"""Damaged image files: an image or a reason, never a crash, and the others are done as ever.

The full run: `pytest tests/faults/test_hostile_images.py --hostile_images 500`; another draw of damages with
HOSTILE_SEED=1 in the environment.
"""

import io
import logging
import os
import random
import re
import resource
import struct
import time
import warnings
import zlib
from functools import partial

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sample_sdedit
from tests.commands.command_case import result_bytes
from tests.faults.mutations import mutate
from tests.utils.arrays import array_files
from tests.utils.codecs import icc_profiles
from utils import codecs, log
from utils.arrays import fits, png16, tiff
from utils.codecs import decoder, formats
from utils.images import PICTURES, Saving, map_values, paths

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
SECONDS = 5
PEAK_KIB = 3 * 2**20
GROUP = 50
STEPS = ["--respace_steps", "4", "--edit_steps", "1", "--no_metadata"]


def _pixels(channels, size=(37, 29), dtype=np.uint8):
    """Smooth in one half and noise in the other."""
    rng = np.random.default_rng(channels)
    ramp = np.linspace(0, np.iinfo(dtype).max, size[0])[None, :, None] * np.ones((size[1], 1, channels))
    ramp[:, size[0] // 2 :] = rng.integers(0, np.iinfo(dtype).max, ramp[:, size[0] // 2 :].shape)
    return ramp.astype(dtype).squeeze()


def _saved(image, kind, **options):
    buffer = io.BytesIO()
    image.copy().save(buffer, kind, **options)  # a copy, because Pillow leaves its encoder's settings behind
    return buffer.getvalue()


def _rle_bmp(width=8, height=8):
    rows = b"".join(bytes([width, row]) + b"\0\0" for row in range(height)) + b"\0\1"
    palette = b"".join(bytes([i, 255 - i, i, 0]) for i in range(256))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    offset = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", offset + len(rows), 0, 0, offset) + header + palette + rows


def _exif():
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8769] = 6, "maker", {0x9286: b"comment" * 9}
    return exif


def _told():
    """Texts and a profile, packed and plain."""
    info = PngInfo()
    info.add_text("Comment", "words " * 40, zip=True)
    info.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="3"/>', zip=True)
    info.add(b"gAMA", struct.pack(">I", 100000))
    info.add(b"cICP", bytes([9, 16, 0, 1]))
    return info


def _white_is_zero(data):
    at = data.index(struct.pack("<HHI", 262, 3, 1)) + 8
    return data[:at] + b"\0" + data[at + 1 :]


def make_files():
    """Whole files of every format and mode that we read, by name."""
    rgb, rgba = Image.fromarray(_pixels(3)), Image.fromarray(_pixels(4))
    grey, deep = Image.fromarray(_pixels(1)), Image.fromarray(_pixels(1, dtype=np.uint16))
    palette, cmyk = rgb.convert("P", palette=Image.Palette.ADAPTIVE), rgb.convert("CMYK")
    files = {
        "rgb.png": _saved(rgb, "PNG", exif=_exif()),
        "rgba.png": _saved(rgba, "PNG"),
        "grey.png": _saved(grey, "PNG", transparency=3),
        "la.png": _saved(rgba.convert("LA"), "PNG"),
        "palette.png": _saved(palette, "PNG", transparency=bytes(range(200))),
        "one.png": _saved(grey.convert("1"), "PNG"),
        "deep.png": _saved(deep, "PNG"),
        "moving.png": _saved(rgb, "PNG", save_all=True, append_images=[rgb.rotate(90)]),
        "rgb.jpg": _saved(rgb, "JPEG", exif=_exif()),
        "progressive.jpg": _saved(rgb, "JPEG", progressive=True, icc_profile=b"p" * 200),
        "grey.jpg": _saved(grey, "JPEG"),
        "cmyk.jpg": _saved(cmyk, "JPEG"),
        "phone.jpg": _saved(rgb, "MPO", save_all=True, append_images=[rgb.resize((8, 8))]),
        "rgb.webp": _saved(rgb, "WEBP", exif=_exif()),
        "rgba.webp": _saved(rgba, "WEBP", lossless=True),
        "moving.webp": _saved(rgb, "WEBP", save_all=True, append_images=[rgb.rotate(90)]),
        "rgb.bmp": _saved(rgb, "BMP"),
        "palette.bmp": _saved(palette, "BMP"),
        "one.bmp": _saved(grey.convert("1"), "BMP"),
        "rle.bmp": _rle_bmp(),
        "rgb.tif": _saved(rgb, "TIFF", tiffinfo={0x0112: 6, 0x010F: "maker"}),
        "cmyk.tif": _saved(cmyk, "TIFF"),
        "deep.tif": _saved(deep, "TIFF"),
        "float.tif": _saved(grey.convert("F"), "TIFF"),
        "lab.tif": _saved(Image.merge("LAB", rgb.split()), "TIFF"),
        "pages.tif": _saved(rgb, "TIFF", save_all=True, append_images=[grey]),
        "bits.tif": _saved(grey.convert("1"), "TIFF", compression="group4"),
        "wide.png": _saved(rgb, "PNG", icc_profile=icc_profiles.rgb()),
        "wide.jpg": _saved(rgb, "JPEG", icc_profile=icc_profiles.rgb()),
        "wide.webp": _saved(rgb, "WEBP", icc_profile=icc_profiles.rgb()),
        "grey.tif": _saved(grey, "TIFF", icc_profile=icc_profiles.grey(1.8)),
        "inks.tif": _saved(cmyk, "TIFF", icc_profile=icc_profiles.cmyk()),
        "told.png": _saved(rgb, "PNG", pnginfo=_told(), exif=_exif()),
        "white0.tif": _white_is_zero(_saved(deep, "TIFF")),
        "whole.tif": _saved(Image.fromarray(_pixels(1).astype(np.int32)), "TIFF"),
        "film.jpg": _saved(rgb, "JPEG") + b"\0\0\0\x18ftypmp42" + b"\xff\xda\0\x0c" * 300,
        "rgb.jfif": _saved(rgb, "JPEG"),
        "still.gif": _saved(palette, "GIF", transparency=3),
        "moving.gif": _saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
    }
    if "JPEG2000" in formats.FORMATS:
        files["rgb.jp2"] = _saved(rgb, "JPEG2000")
        files["rgba.j2k"] = _saved(rgba, "JPEG2000", no_jp2=True, tile_size=(16, 16))
        files["deep.jp2"] = _saved(deep, "JPEG2000", quality_layers=[20, 4])
        files["palette.jp2"] = _saved(rgb, "JPEG2000", irreversible=True, precinct_size=(32, 32))
    if "AVIF" in formats.FORMATS:
        files["rgb.avif"] = _saved(rgb, "AVIF", exif=_exif(), icc_profile=icc_profiles.rgb())
        files["rgba.avif"] = _saved(rgba, "AVIF")
        files["moving.avif"] = _saved(rgb, "AVIF", save_all=True, append_images=[rgb.rotate(90)])
    files |= _deep_files()
    for method in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "zstd"):
        files[f"{method}.tif"] = _saved(rgb, "TIFF", compression=method)
    return files


def _deep_files():
    """Whole files of more than 8 bits, by name."""
    words, colours = _pixels(4, dtype=np.uint16), _pixels(3, dtype=np.uint16)
    grey, floats = words[..., :1], colours.astype(np.float32)
    header = "OBJECT  = 'M31'".ljust(80).encode()
    buffers = {"floats.npy": floats, "words.npy": np.asfortranarray(colours)}
    files = {name: io.BytesIO() for name in buffers}
    for name, array in buffers.items():
        np.save(files[name], array)
    return {name: buffer.getvalue() for name, buffer in files.items()} | {
        "words.png": png16.encode(colours, icc_profiles.rgb(), {"parameters": "x"}),
        "opaque.png": png16.encode(words, None, {}),
        "words.tif": tiff.encode(colours, icc_profiles.rgb(1.8), "", b"", ""),
        "floats.tif": tiff.encode(floats, None, "", b"", ""),
        "tiles.tif": array_files.tiled(colours, 16, ">", apart=True),
        "big.tif": array_files.tiled(floats, 16, big=True),
        "lzw16.tif": _saved(Image.fromarray(grey[..., 0]), "TIFF", compression="tiff_lzw"),
        "floats.fits": fits.encode(floats, header),
        "words.fits": fits.encode(grey),
    }


WHOLE = make_files()
NUMBERS = {name for name in WHOLE if name.endswith((".npy", ".fits"))}
REFUSED = {"moving.png", "moving.webp", "moving.gif", "moving.avif", "float.tif", "pages.tif"} & WHOLE.keys()
REFUSED |= {*NUMBERS, "floats.tif", "big.tif"}
"""By `reading`, which brings pictures to 8 bits."""
READ_BY_STORED = NUMBERS | {"float.tif", "floats.tif", "big.tif"}


def _damage(rng, name):
    data = mutate(rng, WHOLE[name])
    return _with_sums(data) if name.endswith(".png") and rng.random() < 0.5 else data


def _with_sums(data):
    """Give the chunks of a damaged PNG the checksums of what they hold now, so that it is read further."""
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 8 + int.from_bytes(out[at : at + 4], "big")
        if end + 4 > len(out):
            break
        out[end : end + 4] = zlib.crc32(out[at + 4 : end]).to_bytes(4, "big")
        at = end + 4
    return bytes(out)


@pytest.fixture(scope="module")
def damaged(request):
    """Damaged files by name, as many of each kind as the option asks for altogether."""
    count, kinds = request.config.getoption("--hostile_images"), sorted(WHOLE)
    rng = random.Random(SEED)
    rng.shuffle(kinds)
    names = [kinds[i % len(kinds)] for i in range(count)]
    return {f"x{i:04d}_{name}": _damage(rng, name) for i, name in enumerate(names)}


def stored_or_reason(path):
    """Read as a run would, of any depth, and as `decode_or_reason`."""

    def read():
        with codecs.reading_stored(path, ends=(0, 65535)) as found:
            for size, how in ((16, "crop"), (16, "pad"), ((9, 7), "stretch")):
                if isinstance(found, codecs.Original):
                    shown = codecs.to_float(found, size, how, 3)
                    assert shown.isfinite().all()
                    assert shown.abs().max() <= 1
            return found.size

    return _or_reason(read)


def decode_or_reason(path, convert=decoder.to_rgb):
    """Decode to 8 bits; fail on anything but an image or a readable reason, on warnings and on delay."""

    def read():
        if convert is decoder.to_rgb and "moving" in path.name:
            for image in codecs.frames(path):
                assert codecs.fit(image, 16, "crop").size == (16, 16)
            codecs.read_timing(path)
        with codecs.reading(path, convert=convert) as image:
            assert image.mode == ("RGB" if convert is decoder.to_rgb else "L")
            for how in ("crop", "pad", "stretch"):
                assert codecs.fit(image, 16, how).size == (16, 16)
            return image.mode, image.size

    return _or_reason(read)


def _or_reason(read):
    start, before = time.thread_time(), _peak()  # a test's machine does other work beside
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            result = read()
    except ValueError as error:
        result = str(error)
        assert 5 < len(result) < 400
        assert result.isprintable()
    assert [str(warning.message) for warning in caught] == []
    assert _peak() < max(PEAK_KIB, before + 1)
    assert time.thread_time() - start < SECONDS
    return result


def _peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.fixture(autouse=True)
def no_messages(monkeypatch):
    """Leave on the terminal what Pillow and its libraries say: messages of our own are in order."""
    monkeypatch.setattr(log.log, "handlers", [logging.NullHandler()])
    monkeypatch.setattr(log.log, "propagate", False)


def test_whole_files_are_read_or_refused_for_what_they_are(tmp_path, capfd):
    for name, data in WHOLE.items():
        (tmp_path / name).write_bytes(data)
        found = decode_or_reason(tmp_path / name)
        assert isinstance(found, str) == (name in REFUSED), (name, found)
        found = stored_or_reason(tmp_path / name)
        assert isinstance(found, str) == (name in REFUSED - READ_BY_STORED), (name, found)
    assert capfd.readouterr() == ("", "")


def test_damaged_files_are_an_image_or_a_reason(tmp_path, capfd, damaged):
    for name, data in damaged.items():
        path = tmp_path / name
        path.write_bytes(data)
        try:
            decode_or_reason(path)
            decode_or_reason(path, map_values.read_mask)
            stored_or_reason(path)
        except BaseException:
            path.rename(tmp_path / f"failed_{name}")
            raise
        path.unlink()
    assert capfd.readouterr() == ("", "")


def test_the_others_are_done_as_if_the_damaged_were_not_there(case, tmp_path, capfd, damaged):
    whole = {path.relative_to(case.input_dir).with_suffix(".png").as_posix() for path in _files(case)}
    assert sample_sdedit.main([*case.words(tmp_path / "alone"), *STEPS]) == 0
    expected = result_bytes(tmp_path / "alone")
    assert set(expected) == whole
    names = list(damaged)
    for start in range(0, len(names), GROUP):
        group, out = names[start : start + GROUP], tmp_path / f"out{start}"
        for name in group:
            (case.input_dir / name).write_bytes(damaged[name])
        found = paths.find_images(case.input_dir, out, PICTURES)
        targets = paths.result_names(found, partial(Saving().suffix, case.input_dir))
        capfd.readouterr()
        code = sample_sdedit.main([*case.words(out), *STEPS])
        said = capfd.readouterr().err
        failed = set(re.findall(r"^failed: (\S+): .{5}", said, re.MULTILINE))
        found = result_bytes(out)
        assert code == (3 if failed else 0)
        assert "Traceback" not in said
        assert "Warning" not in said
        assert failed <= set(group)
        assert {target for name, target in targets.items() if name not in failed} == set(found)
        assert {name: found[name] for name in expected} == expected
        for name in group:
            (case.input_dir / name).unlink()


def _files(case):
    return [path for path in case.input_dir.rglob("*") if path.is_file()]


def _png(width, height, data, *chunks):
    def chunk(kind, body):
        crc = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + crc

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rest = b"".join(chunk(*c) for c in [*chunks, (b"IDAT", zlib.compress(data)), (b"IEND", b"")])
    return b"\x89PNG\r\n\x1a\n" + header + rest


def _scans(width, height, count):
    """A progressive JPEG whose last scan comes again and again."""
    data = _saved(Image.new("L", (width, height)), "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * count + b"\xff\xd9"


def _wide_bmp(width, height):
    data = bytearray(_rle_bmp())
    data[18:26] = struct.pack("<ii", width, height)
    return bytes(data)


def _j2k(width, height):
    """One whose header says that it is huge."""
    data = bytearray(_saved(Image.new("L", (64, 64)), "JPEG2000", no_jp2=True))
    data[8:16] = struct.pack(">II", width, height)
    data[24:32] = struct.pack(">II", width, height)
    return bytes(data)


def _webp(width, height):
    body = b"\x2f" + struct.pack("<I", width - 1 | height - 1 << 14) + bytes(15)
    return b"RIFF" + struct.pack("<I", 12 + len(body)) + b"WEBPVP8L" + struct.pack("<I", len(body)) + body


BOMBS = {
    "many scans": (lambda: _scans(6000, 6000, 4000), "scans of 36000000 pixels"),
    "wide run lengths": (lambda: _wide_bmp(3000, 3000), "run-length encoded"),
    "long": (lambda: _png(37, 3_000_000, b""), "65536 a side"),
    "declared huge": (lambda: _png(2**31 - 1, 2**31 - 1, b""), "too many pixels"),
    "between the limits": (lambda: _png(12000, 12000, b""), "144000000 pixels|12000x12000 pixels"),
    "above Pillow's warning": (lambda: _png(10000, 10000, b""), "truncated"),
    "many chunks": (lambda: _png(1, 1, b"\0\0", *[(b"tEXt", b"")] * 2**20), "more than 1048576 chunks"),
    "many markers": (
        lambda: b"\xff\xd8" + b"\xff\xfe\0\2" * 70000 + _saved(Image.new("L", (9, 9)), "JPEG")[2:],
        "markers",
    ),
    "huge JPEG 2000": (lambda: _j2k(9000, 9000), "81000000 pixels|9000x9000 pixels"),
    "huge WEBP": (lambda: _webp(11500, 11500), "11500x11500 pixels, allowed are 100663296 in WEBP"),
    "no pixels": (lambda: _png(0, 1, b""), "not an image|cannot be read"),
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_soon(tmp_path, capfd, name):
    make, reason = BOMBS[name]
    path = tmp_path / "x.png"
    path.write_bytes(make())
    assert re.search(reason, decode_or_reason(path))
    assert capfd.readouterr() == ("", "")


def test_strange_names_are_done_and_strange_files_fail_alone(case, tmp_path, capfd):
    """Pipes and folders are no images, links that lead out are failures, any name that a file has will do."""
    assert sample_sdedit.main([*case.words(tmp_path / "alone"), *STEPS]) == 0
    expected = result_bytes(tmp_path / "alone")
    picture, folder = WHOLE["rgb.png"], case.input_dir
    names = [
        "\udcff\udcfe.png",
        "\x1b[2Jc.png",
        "new\nline.png",
        "ä日本.png",
        "x" * 240 + ".png",
        "-v.png",
        "%s{0}.png",
    ]
    for name in [*names, "s.jpg.png", "s.jpg", "s.png"]:
        (folder / name).write_bytes(picture)
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "outside.png").write_bytes(picture)
    os.symlink(tmp_path / "outside.png", folder / "out.png")
    os.symlink("a.png", folder / "inside.png")
    os.symlink("nowhere", folder / "dangling.png")
    (folder / "empty.png").touch()
    capfd.readouterr()
    assert sample_sdedit.main([*case.words(), *STEPS]) == 3
    said, found = capfd.readouterr().err, result_bytes(case.save_dir)
    failed = dict(re.findall(r"^failed: ([a-z]+\.png): (.*)$", said, re.MULTILINE))
    assert set(failed) == {"out.png", "dangling.png", "empty.png"}
    assert "leads out of the input folder" in failed["out.png"]
    assert "Traceback" not in said
    strange = {*names, "s.jpg.png.png", "s.jpg.png", "s.png.png", "inside.png"}
    assert set(found) == {*expected, *strange}
    assert {name: found[name] for name in expected} == expected


def test_a_file_that_vanishes_or_closes_is_a_failure(case, capfd, monkeypatch):
    open_file, looked_at = decoder.open_file, set()

    def vanish(path, root=None):
        if path.name == "b.jpg" and path in looked_at:  # before anything was loaded
            path.unlink(missing_ok=True)
        looked_at.add(path)
        if path.name == "e.PNG":
            raise ValueError("cannot be opened: Permission denied")
        return open_file(path, root)

    monkeypatch.setattr(decoder, "open_file", vanish)
    assert sample_sdedit.main([*case.words(), *STEPS]) == 3
    said = capfd.readouterr().err
    assert "failed: b.jpg: cannot be opened: No such file or directory\n" in said
    assert "failed: e.PNG: cannot be opened: Permission denied\n" in said
    assert set(result_bytes(case.save_dir)) == {"a.png", "deep/c.png", "deep/d.png"}
