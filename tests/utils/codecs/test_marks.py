"""Marks: found in files of every kind, well-formed whatever they say, no trouble to readers of pictures."""

import io
import re
from xml.sax.saxutils import unescape

import numpy as np
import pytest
from PIL import Image, features

from tests.commands.command_case import ROOT
from tests.utils.images import xmp
from utils import codecs, files, settings
from utils.codecs import decoder, marks

MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
MARK = codecs.make_mark("sdedit-ddib 0.1.0", "demo/fruits64", "sha256 0a1b")
SAID = {
    "Iptc4xmpExt:DigitalSourceType": MADE,
    "xmp:CreatorTool": "sdedit-ddib 0.1.0",
    "Iptc4xmpExt:AISystemUsed": "demo/fruits64",
    "Iptc4xmpExt:AISystemVersionUsed": "sha256 0a1b",
}
PAGE = (ROOT / "docs/responsible.md").read_text()
KINDS = ["PNG", "JPEG", "WEBP", "TIFF"] + ["AVIF"] * features.check("avif")


def picture():
    image = Image.new("RGB", (8, 4), (200, 90, 40))
    image.paste((0, 0, 255), (4, 0, 8, 4))
    return image


def encoded(kind, mark=MARK, image=None, **options):
    buffer = io.BytesIO()
    (image or picture()).save(buffer, kind, **options, **(marks.mark_options(kind, mark) if mark else {}))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_each_kind_holds_its_mark(kind):
    data = encoded(kind)
    assert xmp.packet(data) == MARK
    assert xmp.properties(xmp.packet(data)) == SAID
    assert data == encoded(kind)
    plain, marked = (np.asarray(Image.open(io.BytesIO(x))) for x in (encoded(kind, b""), data))
    assert np.array_equal(plain, marked)
    assert xmp.packet(encoded(kind, b"")) is None


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate"])
def test_a_packed_tiff_holds_it_too(compression):
    assert xmp.packet(encoded("TIFF", compression=compression)) == MARK


def test_png_and_apng_hold_it_beside_the_parameters_and_as_it_is():
    frames = [picture(), picture().rotate(180)]
    text = {"parameters": "{}"}
    for write in (
        lambda mark: codecs.encode_png(frames[0], text, mark),
        lambda mark: codecs.encode_apng(frames, codecs.Timing([100, 100], 0), text, mark),
    ):
        data = write(MARK)
        assert data == write(MARK)
        with Image.open(io.BytesIO(data)) as image:
            assert list(image.text) == ["XML:com.adobe.xmp", "parameters"]
            assert image.text["XML:com.adobe.xmp"].encode() == MARK
        assert b"iTXtXML:com.adobe.xmp\0\0\0\0\0" + MARK in data  # not compressed, as XMP must be there
        assert write(b"") == write(b"")
        assert xmp.packet(write(b"")) is None


def test_other_kinds_of_files_are_refused():
    with pytest.raises(ValueError, match="a BMP file cannot be marked; save as PNG, JPEG, WEBP, AVIF or"):
        marks.mark_options("BMP", MARK)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("a<b>&c;]]>&amp;", "a<b>&c;]]>&amp;"),
        ("\"quoted\" 'twice'", "\"quoted\" 'twice'"),
        ("Früchte 水果 🍓 {properties}", "Früchte 水果 🍓 {properties}"),
        ("a\0b\x1bc\nd\re\tf", "a\ufffdb\ufffdc\ufffdd\ufffde\ufffdf"),
        ("no text: \udcff\ufffe\uffff", "no text: \ufffd\ufffd\ufffd"),
        ("--><?xpacket end='r'?><!--", "--><?xpacket end='r'?><!--"),
    ],
)
def test_any_name_leaves_it_well_formed(name, said):
    """Also one of bytes that are no UTF-8, which Python holds as lone surrogates."""
    found = xmp.properties(codecs.make_mark(name, name, name))
    assert found == {"Iptc4xmpExt:DigitalSourceType": MADE, **dict.fromkeys([*SAID][1:], said)}


def test_what_is_not_known_is_not_said():
    found = xmp.properties(codecs.make_mark("p", "m"))
    assert found == {
        "Iptc4xmpExt:DigitalSourceType": MADE,
        "xmp:CreatorTool": "p",
        "Iptc4xmpExt:AISystemUsed": "m",
    }


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
@pytest.mark.parametrize("name", ["demo/fruits64", 'tiff:Orientation="6"', "<tiff:Orientation>6<"])
def test_a_marked_input_is_read_as_one_without(tmp_path, kind, name):
    path = tmp_path / f"x.{kind.lower()}"
    for mark in (codecs.make_mark(name, name), b""):
        path.write_bytes(encoded(kind, mark))
        read = codecs.decode(path)
        assert read.size == decoder.look(path) == (8, 4)
        if mark:
            marked = read
    assert np.array_equal(np.asarray(marked), np.asarray(read))


def test_the_page_shows_what_an_edit_on_the_demo_weights_says():
    digest = files.sha256(ROOT / "weights/fruits64.safetensors")
    mark = codecs.make_mark(settings.PROGRAM, "demo/fruits64", f"sha256 {digest}").decode()
    [shown] = re.findall(r"```xml\n(.*?)```", PAGE, flags=re.S)
    assert shown in mark
    assert unescape(shown) == shown
    assert shown.count("\n") == len(SAID)


@pytest.mark.parametrize("kind", KINDS)
def test_the_page_says_how_to_read_it(tmp_path, kind):
    [code] = re.findall(r"```python\n([^`]*def read_xmp.*?)```", PAGE, flags=re.S)
    names = {}
    exec(compile(code, "responsible.md", "exec"), names)
    for mark in (MARK, b""):
        (tmp_path / "x").write_bytes(encoded(kind, mark))
        found = names["read_xmp"](tmp_path / "x")
        assert found == (mark.decode() if kind == "PNG" else mark) if mark else found is None
