"""Pairs in .pth files and folders of maps: what is not as expected is refused before it takes memory."""

import logging
import os
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from utils.images import inputs, maps
from utils.settings import Edit

OUT = Path("out")


def pictures(folder, **sizes):
    for name, size in sizes.items():
        Image.new("RGB", size).save(folder / f"{name}.png")
    return sorted(path.name for path in folder.iterdir())


def test_what_a_crop_cuts_off_is_said_of_the_worst(tmp_path):
    names = pictures(
        tmp_path, tall=(90, 400), fine=(100, 100), wide=(301, 200), odd=(299, 200), camera=(96, 64)
    )
    (tmp_path / "broken.png").write_text("no picture")
    names = ["broken.png", "gone.png", "pair.pth", *names]
    assert inputs.describe_cropping(tmp_path, names) == (
        "note: tall.png is 90x400, of which --fit crop cuts 78 % away, of 2 of 5 more than a third; "
        "--fit pad keeps all of a picture"
    )
    assert inputs.describe_cropping(tmp_path, ["fine.png", "wide.png"]) == (
        "note: wide.png is 301x200, of which --fit crop cuts 34 % away; --fit pad keeps all of a picture"
    )
    assert inputs.describe_cropping(tmp_path, ["fine.png", "odd.png"]) is None
    assert inputs.describe_cropping(tmp_path, []) is None
    assert inputs.describe_cropping(tmp_path, ["camera.png"]) is None  # 3 to 2: a third
    assert inputs.describe_cropping(tmp_path, ["wide.png"], 1.5) is None
    assert "fine.png is 100x100, of which --fit crop cuts 50 % away" in (
        inputs.describe_cropping(tmp_path, ["fine.png", "wide.png"], 2.0)
    )


def test_of_many_inputs_a_thousand_are_looked_at(monkeypatch):
    seen = []
    monkeypatch.setattr(inputs.codecs, "look", lambda path, root: seen.append(path.name) or (9, 1))
    said = inputs.describe_cropping(Path("x"), [f"{i:04d}.jpg" for i in range(2001)])
    assert seen == [f"{i:04d}.jpg" for i in range(0, 2001, 3)]
    assert "cuts 89 % away, of 667 of 667 more than a third" in said


@pytest.fixture
def read(tmp_path):
    def read(content):
        torch.save(content, tmp_path / "x.pth")
        return inputs.read_pair(tmp_path / "x.pth", tmp_path)

    return read


def test_a_pair_is_an_image_and_what_may_change(read):
    image = torch.arange(60).reshape(3, 4, 5) / 59
    mask = torch.ones(1, 4, 5)
    mask[0, 1, 2] = 0
    found, editable = read([mask.expand(3, 4, 5), image])
    assert np.array_equal(np.asarray(found), (image * 255).round().permute(1, 2, 0).numpy())
    assert np.argwhere(np.asarray(editable)).tolist() == [[1, 2]]
    assert read((torch.nn.Parameter(mask.expand(3, 4, 5).clone()), image.double()))[0] == found


GOOD = torch.zeros(3, 4, 4)


@pytest.mark.parametrize(
    ("mask", "image", "match"),
    [
        (GOOD, GOOD.to_sparse(), "sparse"),
        (GOOD, GOOD.to(torch.complex64), "nested, sparse, quantized or complex"),
        (GOOD, torch.zeros(3, 4, 4, device="meta"), "meta|not a file of tensors"),
        (GOOD, torch.zeros(1).expand(3, 10**6, 10**6), "a tensor of shape"),
        (torch.zeros(1).expand(3, 9000, 9000), torch.zeros(1).expand(3, 9000, 9000), "repeats few values"),
        (GOOD, torch.zeros(3, 0, 4), "a tensor of shape"),
        (GOOD, torch.zeros(48), "mask"),
        (GOOD[:1], GOOD, "mask"),
        (GOOD, torch.full((3, 4, 4), torch.nan), "goes from nan"),
        (GOOD + torch.inf, GOOD, "mask holds NaN or infinity"),
        (GOOD, GOOD + 2, "goes from 2 to 2"),
        (GOOD, "x", "holds something else"),
        (GOOD, torch.zeros([1] * 64), "mask"),
    ],
)
def test_other_tensors_are_refused(read, mask, image, match):
    with pytest.raises(ValueError, match=match) as caught:
        read([mask, image])
    assert "expected torch.save([mask, image])" in str(caught.value)
    assert len(str(caught.value)) < 300


@pytest.mark.filterwarnings("ignore::UserWarning")  # torch advises against both kinds
def test_quantized_and_nested_tensors_are_refused(read):
    for image in (
        torch.quantize_per_tensor(GOOD, 0.1, 0, torch.quint8),
        torch.nested.nested_tensor([GOOD, GOOD]),
    ):
        with pytest.raises(ValueError, match=r"quantized|not a file of tensors alone"):
            read([GOOD, image])


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path):
    path, bomb = tmp_path / "x.pth", tmp_path / "bomb.pth"
    torch.save([torch.zeros(3, 999, 999)] * 2, path)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    assert bomb.stat().st_size < path.stat().st_size / 100
    inputs.read_pair(path)
    with pytest.raises(ValueError, match="or a broken one"):
        inputs.read_pair(bomb)


def test_pairs_are_opened_as_carefully_as_images(tmp_path):
    (tmp_path / "in").mkdir()
    torch.save([GOOD, GOOD], tmp_path / "x.pth")
    os.symlink(tmp_path / "x.pth", tmp_path / "in" / "x.pth")
    reader = inputs.Inputs(tmp_path / "in", 4, 3, "crop")
    with pytest.raises(ValueError, match="is a link that leads out of the input folder"):
        reader.load("x.pth")
    (tmp_path / "in" / "Y.PTH").write_bytes((tmp_path / "x.pth").read_bytes())
    assert reader.load("Y.PTH")[0]["image"].shape == (3, 4, 4)
    (tmp_path / "in" / "empty.pth").touch()
    with pytest.raises(ValueError, match="or a broken one"):
        reader.load("empty.pth")


def test_maps_do_not_follow_links_out_of_their_folder(tmp_path):
    (tmp_path / "masks").mkdir()
    image = Image.new("RGB", (4, 4))
    image.save(tmp_path / "x.png")
    os.symlink("../x.png", tmp_path / "masks" / "x.png")
    masks = maps.Maps(tmp_path / "masks", tmp_path / "out")
    with pytest.raises(ValueError, match=r"its masks/x.png: is a link that leads out of .*masks"):
        masks.read("x.jpg", image.size, list)


@pytest.fixture
def folders(tmp_path):
    """Settings with a folder of masks beside one of inputs, and what makes a picture in either."""
    for name in ("in", "masks"):
        (tmp_path / name).mkdir()

    def add(name, value=255, split=True):
        image = Image.new("L", (4, 4), value)
        if split:
            image.paste(0, (0, 0, 2, 4))
        image.save(tmp_path / name)

    return Edit(t0=(0.5,), mask_dir=tmp_path / "masks", mask_default="all"), add


def test_a_folder_of_masks_with_other_names_is_refused_with_the_nearest(folders):
    edit, add = folders
    add("masks/photo_mask.png")
    with pytest.raises(ValueError, match=r"photo_mask.png, which has to be named photo.png for photo.jpg"):
        maps.find_masks(edit, OUT, ["other.png", "photo.jpg"])
    edit = replace(edit, strength_dir=edit.mask_dir)
    with pytest.raises(ValueError, match=r"masks: no file belongs to an input by its name; nearest is"):
        maps.find_strengths(edit, OUT, ["photo.jpg"])
    with pytest.raises(ValueError, match="the inputs have masks of their own"):
        maps.find_masks(edit, OUT, ["photo.pth"])


def test_names_are_the_same_in_both_spellings_of_an_accent(folders, caplog):
    caplog.set_level(logging.INFO)
    edit, add = folders
    add("masks/e\u0301.png")
    add("masks/unused.png")
    found = maps.find_masks(edit, OUT, ["\u00e9.jpg"])
    assert found.maps.file("\u00e9.jpg") == "e\u0301.png"
    assert "1 of 2 files in" in caplog.text
    assert "belong to no input: unused.png" in caplog.text


@pytest.mark.parametrize("invert", [False, True])
def test_a_mask_that_lets_all_or_nothing_change_is_said(folders, caplog, invert):
    edit, add = folders
    for name, value, split in (("a", 255, True), ("b", 255, False), ("c", 0, False), ("d", 0, False)):
        add(f"in/{name}.png")
        if name != "d":
            add(f"masks/{name}.png", value, split)
    names = ["a.png", "b.png", "c.png", "d.png"]
    masks = maps.find_masks(replace(edit, mask_invert=invert), OUT, names)
    reader = inputs.Inputs(edit.mask_dir.with_name("in"), 4, 3, "crop", masks)
    for name in names * 2:
        reader.load(name)
    extents = ["nothing", "everything"] if invert else ["everything", "nothing"]
    said = [f"{x}.png: its mask masks/{x}.png lets {extents[x == 'c']} change" for x in "bc"]
    assert [message for message in caplog.messages if "its mask" in message] == said
