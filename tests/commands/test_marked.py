"""Every picture that the commands write is marked as made, unless they are told to leave that out."""

import hashlib
import io

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import sample_ddib
import sample_sdedit
from tests.commands.command_case import result_bytes
from tests.utils.images import xmp
from utils import codecs, settings
from utils.jobs.job import Item
from utils.jobs.results import Part, Result, Writer

MADE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
SDEDIT = ["--respace_steps", "10", "--t0", "0.2", "0.3", "--comparison", "--trajectory", "3"]
DDIB = ["--respace_steps", "3", "--class_A", "cat", "--class_B", "dog", "hen", "--comparison"]
DDIB += ["--trajectory", "3", "--save_latents"]
LABELS = {"comparison", "sheets", "trajectory"}


def run(case, command, save_dir, *words):
    assert command.main([*case.words(save_dir), "--micro_batch", "1", *words]) == 0
    return result_bytes(save_dir)


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_results_strips_sheets_and_ways_are_marked(case, tmp_path, command, words):
    found = run(case, command, tmp_path / "o", *words)
    pictures = {name: data for name, data in found.items() if not name.endswith(".safetensors")}
    assert {name.partition("/")[0] for name in pictures} >= LABELS
    assert {name.rpartition(".")[2] for name in pictures} == {"png", "apng"}
    digest = hashlib.sha256(case.weights.read_bytes()).hexdigest()
    for name, data in pictures.items():
        assert xmp.properties(xmp.packet(data)) == {
            "Iptc4xmpExt:DigitalSourceType": MADE,
            "xmp:CreatorTool": settings.PROGRAM,
            "Iptc4xmpExt:AISystemUsed": "tiny.safetensors",
            "Iptc4xmpExt:AISystemVersionUsed": f"sha256 {digest}",
        }, name
    assert run(case, command, tmp_path / "again", *words) == found


@pytest.mark.parametrize(("command", "words"), [(sample_sdedit, SDEDIT), (sample_ddib, DDIB)])
def test_without_metadata_nothing_is_marked(case, tmp_path, command, words):
    for name, data in run(case, command, tmp_path / "o", *words, "--no_metadata").items():
        assert b"xmp" not in data, name
        assert b"digitalsourcetype" not in data, name
        if not name.endswith(".safetensors"):
            assert Image.open(io.BytesIO(data)).text == {}


def test_what_an_input_says_of_itself_is_not_copied_and_its_mark_is_no_trouble(case, tmp_path):
    words = ["--respace_steps", "10", "--t0", "0.3"]
    plain = run(case, sample_sdedit, tmp_path / "plain", *words)
    for name in ("a.png", "deep/c.webp"):
        with Image.open(case.input_dir / name) as image:
            image.load()
        said = xmp.packet(plain["a.png"]).replace(MADE.encode(), b"of Ansel, with a camera")
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", said.decode())
        how = {"pnginfo": info} if name == "a.png" else {"xmp": said, "quality": 80}
        image.save(case.input_dir / name, **how)
        assert xmp.packet(case.input_dir / name) == said
    found = run(case, sample_sdedit, tmp_path / "said", *words)
    assert found["a.png"] == plain["a.png"]
    assert xmp.packet(found["deep/c.png"]) == xmp.packet(plain["a.png"])
    bare = run(case, sample_sdedit, tmp_path / "bare", *words, "--no_metadata")
    assert b"Ansel" not in b"".join(bare.values())
    (case.input_dir / "a.png").write_bytes(plain["b.png"])
    (case.input_dir / "b.jpg").unlink()
    once_more = run(case, sample_sdedit, tmp_path / "twice", *words)
    Image.open(io.BytesIO(plain["b.png"])).save(case.input_dir / "a.png")
    assert xmp.packet(case.input_dir / "a.png") is None
    assert run(case, sample_sdedit, tmp_path / "unmarked", *words) == once_more


def test_two_networks_are_both_named():
    parameters = {"program": "p 1", "weights": "one", "weights_B": "two", "weights_sha256": "0a"}
    result = Result(torch.zeros(3, 4, 4))
    parts, item = [Part(None, [result])], Item("a.png", 0, "a.png")
    files = Writer(False, parameters).encode(item, parts, lambda edited: codecs.to_image(edited[0]), {})
    [data] = files.values()
    found = xmp.properties(xmp.packet(data))
    assert found["Iptc4xmpExt:AISystemUsed"] == "one, two"
    assert found["Iptc4xmpExt:AISystemVersionUsed"] == "sha256 0a"
