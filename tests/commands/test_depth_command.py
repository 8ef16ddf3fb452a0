"""Pictures of more than 8 bits through both commands: what is kept keeps its bits, and its format."""

import io
import json

import numpy as np
import pytest
import yaml
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import CONFIG, result_bytes
from tests.utils.arrays.array_files import ramp
from tests.utils.codecs import icc_profiles
from utils import codecs
from utils.arrays import fits
from utils.assemble import Editor, Translator
from utils.codecs import Original

STEPS = ["--respace_steps", "4", "--edit_steps", "2"]
FINE = (np.arange(256, dtype=np.uint16).reshape(16, 16, 1) + 30000).repeat(3, axis=2)
"""A ramp within one level of 8 bits, of the network's size."""


@pytest.fixture
def photos(case, tmp_path):
    """An input folder without anything, and one of masks."""
    for path in list(case.input_dir.rglob("*.*")):
        path.unlink()
    (tmp_path / "masks").mkdir()
    return case


def write(path, pixels, profile=None, ends=None):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(codecs.encode(Original(pixels, profile, ends), path.suffix, {}))


def stored(path, ends=None):
    return codecs.read_stored(path, ends=ends)


def mask_of(case, stem, size, box):
    mask = np.zeros(size[::-1], np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(case.input_dir.with_name("masks") / f"{stem}.png")
    return mask == 0


def masked(case, folder, *words):
    masks = case.input_dir.with_name("masks")
    return sample_sdedit.main([*case.words(folder), *STEPS, "--mask_dir", str(masks), *words])


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_all_levels_are_kept_outside_the_mask(photos, tmp_path, suffix, channels):
    pixels = ramp(channels)
    write(photos.input_dir / f"a{suffix}", pixels, icc_profiles.rgb() if channels == 3 else None)
    kept = mask_of(photos, "a", (256, 256), (100, 90, 140, 120))
    assert masked(photos, tmp_path / "o", "--region", "mask") == 0
    found = stored(tmp_path / f"o/a{suffix}")
    assert (found.pixels.dtype, found.pixels.shape) == (np.uint16, pixels.shape)
    assert np.array_equal(found.pixels[kept], pixels[kept])
    assert (found.pixels[~kept] != pixels[~kept]).any(axis=1).mean() > 0.9
    assert len(np.unique(found.pixels[~kept])) > 1000  # more than 8 bits hold
    assert (found.profile is not None) == (channels == 3)


def test_numbers_keep_every_value_outside_the_mask(photos, tmp_path, capfd):
    values = (ramp(1)[:64, :64] / 3641 - 1).astype(np.float32)
    np.save(photos.input_dir / "a.npy", values[..., 0].astype(np.float64))
    write(photos.input_dir / "b.tif", values, ends=(-1, 17))
    (photos.input_dir / "c.fits").write_bytes(fits.encode(values, "OBJECT  = 'M31'".ljust(80).encode()))
    kept, *_ = (mask_of(photos, stem, (64, 64), (20, 20, 40, 40)) for stem in "abc")
    assert masked(photos, tmp_path / "o", "--region", "mask", "--range", "-1", "17") == 0
    assert "cut off" not in capfd.readouterr().err
    array = np.load(tmp_path / "o/a.npy")
    assert (array.dtype, array.shape) == (np.float64, (64, 64))
    for found in (
        array[..., None],
        *(stored(tmp_path / f"o/{x}", (-1, 17)).pixels for x in ("b.tif", "c.fits")),
    ):
        assert np.array_equal(found[kept], values[kept])
        assert not np.array_equal(found[~kept], values[~kept])
    assert b"OBJECT  = 'M31'" in (tmp_path / "o/c.fits").read_bytes()


def test_kept_pixels_of_whole_pictures_keep_their_bits(photos, tmp_path):
    write(photos.input_dir / "a.png", FINE)
    write(photos.input_dir / "b.tif", FINE[..., :1])
    kept, _ = (mask_of(photos, stem, (16, 16), (3, 3, 8, 8)) for stem in "ab")
    assert masked(photos, tmp_path / "o") == 0
    assert np.array_equal(stored(tmp_path / "o/a.png").pixels[kept], FINE[kept])
    assert np.array_equal(
        stored(tmp_path / "o/b.tif").pixels[kept], FINE[kept]
    )  # in colours, as the network's


def test_batches_and_shares_change_nothing(photos, tmp_path):
    chance = np.random.default_rng(0)
    for i in range(3):
        write(photos.input_dir / f"{i}.png", chance.integers(0, 65536, (20, 30, 3)).astype(np.uint16))
    one, two = tmp_path / "one", tmp_path / "two"
    assert sample_sdedit.main([*photos.words(one), *STEPS, "--micro_batch", "1"]) == 0
    for share in ("0/2", "1/2"):
        assert sample_sdedit.main([*photos.words(two), *STEPS, "--micro_batch", "1", "--shard", share]) == 0
    assert result_bytes(one) == result_bytes(two)
    assert sample_sdedit.main([*photos.words(tmp_path / "four"), *STEPS, "--micro_batch", "4"]) == 0
    for i in range(3):
        alone, together = (stored(x / f"{i}.png").pixels.astype(int) for x in (one, tmp_path / "four"))
        assert np.abs(alone - together).max() <= 2


def names(folder):
    return sorted(name for name in result_bytes(folder))


def test_results_have_the_format_of_deep_inputs_and_png_for_others(photos, tmp_path):
    Image.new("RGB", (20, 20), "red").save(photos.input_dir / "a.tif")
    Image.new("RGB", (20, 20), "red").save(photos.input_dir / "b.jpg")
    write(photos.input_dir / "c.tif", FINE)
    write(photos.input_dir / "d.png", FINE)
    np.save(photos.input_dir / "e.npy", FINE)
    np.save(photos.input_dir / "f.npy", FINE.astype(np.uint8))
    out = tmp_path / "o"
    assert sample_sdedit.main([*photos.words(out), *STEPS, "--comparison", "--trajectory", "2"]) == 0
    results = ["a.png", "b.png", "c.tif", "d.png", "e.npy", "f.npy"]
    strips = [f"comparison/{x}.png" for x in "abcdef"]
    ways = [f"trajectory/{x}.{suffix}" for x in "abcdef" for suffix in ("apng", "png")]
    assert names(out) == sorted([*results, *strips, *ways])
    assert [stored(out / name).pixels.dtype.name for name in results] == [
        *("uint8", "uint8", "uint16", "uint16", "uint16", "uint8")
    ]
    previews = sorted(path.name for path in (out / ".records/previews").iterdir())
    assert previews == ["c.tif.png", "e.npy.png", "f.npy.png"]
    shown = {path.name: Image.open(path) for path in (out / ".records/inputs").iterdir()}
    assert sorted(shown) == ["a.png.png", "c.tif.png", "e.npy.png", "f.npy.png"]
    fine = np.asarray(shown["c.tif.png"]).astype(float) * 257
    assert np.abs(fine - np.broadcast_to(FINE.reshape(*FINE.shape[:2], -1), fine.shape)).max() <= 257
    page = (out / "report.html").read_text()
    assert '"shown":[".png",".jpg",".webp"]' in page
    assert '["c.tif",0,"d",{},".tif"]' in page
    assert '"a.tif"' in page
    assert (
        sample_sdedit.main([*photos.words(out), *STEPS, "--comparison", "--trajectory", "2", "--verify"]) == 0
    )
    report = json.loads((out / "report.json").read_text())
    assert (report["done"], [one["done"] for one in report["processes"]]) == (6, [6, 0])


@pytest.mark.parametrize(
    ("words", "suffix", "kind"),
    [
        (["--format", "png"], ".png", "uint16"),
        (["--format", "png", "--bits", "8"], ".png", "uint8"),
        (["--bits", "8"], ".png", "uint8"),
        (["--format", "tiff"], ".tif", "uint16"),
        (["--format", "tiff", "--bits", "8"], ".tif", "uint8"),
        (["--format", "npy"], ".npy", "uint16"),
        (["--format", "npy", "--range", "0", "1"], ".npy", "float32"),
        (["--format", "jpg"], ".jpg", "uint8"),
        (["--format", "webp"], ".webp", "uint8"),
    ],
)
def test_a_format_and_bits_are_what_was_asked_for(photos, tmp_path, words, suffix, kind):
    write(photos.input_dir / "a.png", FINE)
    assert sample_sdedit.main([*photos.words(), *STEPS, *words, "--samples", "2"]) == 0
    assert names(photos.save_dir) == [f"a_s00{suffix}", f"a_s01{suffix}"]
    found = stored(photos.save_dir / f"a_s00{suffix}", (0, 1) if kind == "float32" else None)
    assert (found.pixels.dtype.name, found.pixels.shape) == (kind, (16, 16, 3))
    if kind == "float32":
        assert 0 <= found.pixels.min() < found.pixels.max() <= 1


def test_8_bits_become_16_of_the_result_itself(photos, tmp_path):
    Image.new("RGB", (16, 16), (90, 120, 30)).save(photos.input_dir / "a.png")
    assert sample_sdedit.main([*photos.words(), *STEPS, "--bits", "16"]) == 0
    assert sample_sdedit.main([*photos.words(tmp_path / "8"), *STEPS]) == 0
    deep, small = stored(photos.save_dir / "a.png").pixels, stored(tmp_path / "8/a.png").pixels
    assert np.array_equal(np.rint(deep / 257), small)
    assert (deep % 257 != 0).mean() > 0.4  # where black and white are not cut off


def test_what_made_them_is_in_every_format(photos, tmp_path):
    write(photos.input_dir / "a.png", FINE)
    for kind in ("png", "jpg", "webp", "tiff"):
        out = tmp_path / kind
        assert sample_sdedit.main([*photos.words(out), *STEPS, "--format", kind]) == 0
        [(name, data)] = result_bytes(out).items()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            comment = image.getexif().get_ifd(0x8769).get(0x9286, b"")
            text = image.info.get("parameters") or (image.tag_v2[270] if kind == "tiff" else comment[8:])
        assert json.loads(text)["edit_steps"] == 2, name
        assert b"compositeWithTrainedAlgorithmicMedia" in data
        bare = tmp_path / f"bare_{kind}"
        assert sample_sdedit.main([*photos.words(bare), *STEPS, "--format", kind, "--no_metadata"]) == 0
        [data] = result_bytes(bare).values()
        assert b"edit_steps" not in data
        assert b"Algorithmic" not in data


def test_grey_pictures_come_back_grey_on_request(photos, tmp_path):
    write(photos.input_dir / "a.png", FINE[..., :1])
    Image.new("L", (20, 20), 90).save(photos.input_dir / "b.jpg")
    Image.new("RGB", (20, 20), "red").save(photos.input_dir / "c.png")
    assert sample_sdedit.main([*photos.words(), *STEPS]) == 0
    assert sample_sdedit.main([*photos.words(tmp_path / "g"), *STEPS, "--channels", "input"]) == 0
    for name, channels in (("a.png", 1), ("b.png", 1), ("c.png", 3)):
        assert stored(photos.save_dir / name).pixels.shape[2] == 3
        assert stored(tmp_path / "g" / name).pixels.shape[2] == channels


def refused(command, words, capsys):
    with pytest.raises(SystemExit, match="2"):
        command.main(words)
    return capsys.readouterr().err


def test_options_that_do_not_go_together_are_refused(photos, capsys):
    write(photos.input_dir / "a.png", FINE)
    words = [*photos.words(), *STEPS]
    said = refused(sample_sdedit, [*words, "--format", "jpg", "--bits", "16"], capsys)
    assert "--bits 16: jpg files have 8; give --format png, tiff or npy" in said
    said = refused(sample_sdedit, [*words, "--range", "1", "0"], capsys)
    assert "--range 1 0: give two numbers, black below white" in said
    said = refused(sample_sdedit, [*words, "--range", "0", "1"], capsys)
    assert "--range: only for inputs of .npy .fits" in said
    assert "--bits 12: allowed is 8, 16" in refused(sample_sdedit, [*words, "--bits", "12"], capsys)
    said = refused(sample_sdedit, [*words, "--format", "tif"], capsys)
    assert "allowed is auto, png, jpg, webp, tiff, npy; did you mean tiff?" in said


def test_numbers_without_a_range_and_broken_ones_fail_alone(photos, capfd):
    write(photos.input_dir / "a.png", FINE)
    np.save(photos.input_dir / "b.npy", np.linspace(-1, 17, 400).reshape(20, 20))
    (photos.input_dir / "c.fits").write_bytes(b"SIMPLE  =" + bytes(100))
    assert sample_sdedit.main([*photos.words(), *STEPS]) == 3
    said = capfd.readouterr().err
    assert "failed: b.npy: its values go from -1 to 17, and nothing says which are black and white" in said
    assert "failed: c.fits: cannot be read, broken or truncated: its FITS header has no end" in said
    assert names(photos.save_dir) == ["a.png"]


def test_the_range_of_a_config_is_that_of_files(photos, tmp_path):
    """As of galaxygrad's networks, whose pixels reach from -1 to 17."""
    process = {"process": "vp_sde", "beta": 9.0, "t_min": 1e-3, "t_max": 1.0, "num_timesteps": 20}
    process |= {"prediction": "score", "clip": None, "image_range": [-1, 17]}
    photos.config.write_text(yaml.safe_dump({**CONFIG, "diffusion": process}))
    values = np.linspace(-1, 17, 256, dtype=np.float32).reshape(16, 16)
    np.save(photos.input_dir / "a.npy", values)
    kept = mask_of(photos, "a", (16, 16), (3, 3, 8, 8))
    assert masked(photos, tmp_path / "o", "--respace_steps", "4") == 0
    found = np.load(tmp_path / "o/a.npy")
    assert (found.dtype, found.shape) == (np.float32, (16, 16, 3))
    assert np.allclose(found[kept], values[kept][:, None], atol=1e-5)


def test_ddib_reads_and_writes_them_too(photos, tmp_path):
    words = ["--class_A", "cat", "--class_B", "dog", "--respace_steps", "3"]
    write(photos.input_dir / "a.tif", FINE)
    np.save(photos.input_dir / "b.npy", FINE.astype(np.float32))
    out = tmp_path / "o"
    assert sample_ddib.main([*photos.words(out), *words, "--range", "0", "65535", "--save_latents"]) == 0
    assert names(out) == ["a.tif", "b.npy", "latents/a.safetensors", "latents/b.safetensors"]
    assert stored(out / "a.tif").pixels.dtype == np.uint16
    assert np.abs(np.load(out / "b.npy") - stored(out / "a.tif").pixels).max() <= 0.51
    latents = case_words(photos, out / "latents", tmp_path / "d")
    assert sample_ddib.main([*latents, *words[2:], "--from_latents", "--bits", "16"]) == 0
    assert np.array_equal(stored(tmp_path / "d/a.png").pixels, stored(out / "a.tif").pixels)


def case_words(case, input_dir, save_dir):
    words = case.words(save_dir)
    words[words.index("--input_dir") + 1] = str(input_dir)
    return words


def test_python_reads_them_without_a_step_of_8_bits_and_encodes_16(photos, tmp_path):
    write(photos.input_dir / "a.png", FINE)
    assert sample_sdedit.main([*photos.words(), *STEPS, "--micro_batch", "1"]) == 0
    editor = Editor.load(photos.weights, config=photos.config, cpu=True, micro_batch=1)
    options = {"edit_steps": 2, "respace_steps": 4}
    content = editor.encode(photos.input_dir / "a.png", "a.png", **options)
    assert content == result_bytes(photos.save_dir)["a.png"]
    shown = editor(photos.input_dir / "a.png", **options)
    deep = stored(photos.save_dir / "a.png").pixels
    assert np.array_equal(np.asarray(shown), np.rint(deep / 257))
    np.save(tmp_path / "x.npy", FINE.astype(np.float32) / 65535)
    again = editor(tmp_path / "x.npy", range=(0, 1), **options)
    assert again.size == (16, 16)
    with pytest.raises(ValueError, match="give --range LOW HIGH"):
        editor(tmp_path / "x.npy", **options)
    translator = Translator.load(photos.weights, config=photos.config, cpu=True, class_A="cat", class_B="dog")
    assert translator(photos.input_dir / "a.png", respace_steps=2).size == (16, 16)


def test_results_of_every_format_are_evaluated(photos, tmp_path, capsys):
    from tools import evaluate

    write(photos.input_dir / "a.png", FINE)
    np.save(photos.input_dir / "b.npy", FINE.astype(np.float32))
    for kind in ("auto", "tiff", "npy", "jpg"):
        out = tmp_path / kind
        words = ["--format", kind, "--range", "0", "65535", "--samples", "2"]
        assert sample_sdedit.main([*photos.words(out), *STEPS, *words]) == 0
        evaluate.main(
            [str(photos.input_dir), str(out), "--metrics", "l2", "--json", str(tmp_path / "l2.json")]
        )
        [line] = json.loads((tmp_path / "l2.json").read_text())["rows"]
        assert (line["images"], line["missing"]) == (4, 0)
