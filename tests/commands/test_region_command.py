"""--region mask: the photo comes back, edited where the mask is, whatever its size."""

import json

import numpy as np
import pytest
from PIL import Image, ImageDraw

import sample_sdedit
from tests.commands.command_case import result_bytes
from utils.assemble import Editor

WORDS = ["--region", "mask", "--t0", "0.5", "--respace_steps", "4", "--seed", "3"]
SPOTS = {"wide.png": [(5, 5, 15, 15), (70, 20, 80, 35)], "tall.jpg": [(0, 30, 40, 45)], "kept.png": []}


@pytest.fixture
def photos(case, tmp_path):
    """Three photos larger than the network, with two marked parts, one and none."""
    for path in list(case.input_dir.rglob("*.*")):
        path.unlink()
    (tmp_path / "masks").mkdir()
    chance = np.random.default_rng(0)
    for name, spots in SPOTS.items():
        size = (40, 90) if name == "tall.jpg" else (90, 40)
        image = Image.fromarray(chance.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8))
        image.save(case.input_dir / name)
        mask = Image.new("L", size)
        for spot in spots:
            ImageDraw.Draw(mask).ellipse(spot, fill=255)
        mask.convert("RGB").save(tmp_path / f"masks/{name.partition('.')[0]}.png")
    return case


def run(case, folder, *words):
    masks = case.input_dir.with_name("masks")
    return sample_sdedit.main([*case.words(folder), *WORDS, "--mask_dir", str(masks), *words])


def opened(folder):
    return {path.name: Image.open(path) for path in sorted(folder.glob("*.png"))}


def test_photos_come_back_edited_where_the_masks_are(photos, tmp_path, capfd):
    assert run(photos, tmp_path / "o", "--comparison", "--trajectory", "3") == 0
    said = capfd.readouterr().err
    assert "wide.png: 16x16 pixels from 2,2 are edited\n" in said
    assert "tall.jpg: 60x60 pixels from -10,8 are edited, and enlarged 3.75 times" in said
    assert "kept.png: its mask lets nothing change; the photo is returned as it is" in said
    for name, spots in SPOTS.items():
        stem = name.partition(".")[0]
        before = np.asarray(Image.open(photos.input_dir / name))
        after = Image.open(tmp_path / f"o/{stem}.png")
        kept = np.asarray(Image.open(tmp_path / f"masks/{stem}.png").convert("L")) == 0
        assert np.array_equal(before[kept], np.asarray(after)[kept])
        assert not spots or (np.asarray(after)[~kept] != before[~kept]).mean() > 0.5
        assert ("XML:com.adobe.xmp" in after.info) == bool(spots)  # of what no model made nothing says so
        assert (tmp_path / f"o/comparison/{stem}.png").exists() == bool(spots)
        assert (tmp_path / f"o/trajectory/{stem}.apng").exists() == bool(spots)
    report = json.loads((tmp_path / "o/report.json").read_text())
    assert report["network_evaluations"] == 3 * 2  # three parts from level 2
    recorded = json.loads(Image.open(tmp_path / "o/wide.png").text["parameters"])
    assert (recorded["region"], recorded["region_margin"]) == ("mask", 0.25)


def test_batches_and_python_make_the_same_photos(photos, tmp_path):
    run(photos, tmp_path / "one", "--micro_batch", "1")
    run(photos, tmp_path / "four", "--micro_batch", "4")
    one, four = opened(tmp_path / "one"), opened(tmp_path / "four")
    for name in one:
        difference = np.subtract(*(np.asarray(x[name], np.int16) for x in (one, four)))
        assert np.abs(difference).max() <= 1
    editor = Editor.load(photos.weights, config=photos.config, cpu=True, micro_batch=1)
    names = ["wide.png", "kept.png"]
    pictures = [photos.input_dir / name for name in names]
    masks = [tmp_path / "masks" / name for name in names]
    options = {"region": "mask", "t0": 0.5, "respace_steps": 4, "seed": 3}
    for name, result in zip(names, editor(pictures, mask=masks, **options), strict=True):
        assert np.array_equal(np.asarray(result), np.asarray(one[name]))
    content = editor.encode(pictures[0], "wide.png", masks[0], **options)
    assert result_bytes(tmp_path / "one")["wide.png"] == content


def test_several_levels_and_samples_leave_the_photo_as_large_as_it_was(photos, tmp_path):
    assert run(photos, tmp_path / "o", "--t0", "0.25", "0.75", "--samples", "2") == 0
    sizes = {path: image.size for path, image in opened(tmp_path / "o/t0_0.25").items()}
    assert sizes == {
        **{f"wide_s0{i}.png": (90, 40) for i in range(2)},
        **{f"tall_s0{i}.png": (40, 90) for i in range(2)},
        **{f"kept_s0{i}.png": (90, 40) for i in range(2)},
    }
    again = run(photos, tmp_path / "o", "--t0", "0.25", "0.75", "--samples", "2", "--verify")
    assert again == 0
    assert json.loads((tmp_path / "o/report.json").read_text())["done"] == 6


def test_a_photo_that_changes_while_it_is_edited_is_a_failed_item(photos, tmp_path, monkeypatch, capfd):
    from utils.images import RegionInputs

    real = RegionInputs.finish

    def finish(self, name, edited, suffix):
        if name == "wide.png":
            Image.new("RGB", (90, 40), "red").save(photos.input_dir / name)
        return real(self, name, edited, suffix)

    monkeypatch.setattr(RegionInputs, "finish", finish)
    assert run(photos, tmp_path / "o") == 3
    assert "failed: wide.png: it, or its mask, changed while it was edited" in capfd.readouterr().err
    assert not (tmp_path / "o/wide.png").exists()


def test_a_region_without_masks_is_refused(photos, capsys):
    with pytest.raises(SystemExit, match="2"):
        sample_sdedit.main([*photos.words(), *WORDS])
    assert "--region mask: what may change is not said; give --mask_dir" in capsys.readouterr().err
    editor = Editor.load(photos.weights, config=photos.config, cpu=True)
    with pytest.raises(ValueError, match="region: what may change is not said; give mask="):
        editor(photos.input_dir / "wide.png", region="mask")
