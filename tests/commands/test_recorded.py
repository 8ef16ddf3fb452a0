"""What a PNG file records suffices to make its picture again, and is read without this program."""

import hashlib
import json

import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import ROOT

OF_EDIT = ("sampler", "var_type", "repeats", "class_label", "edit_steps", "guidance_scale")
OF_MASKS = ("mask_noise", "mask_feather", "mask_invert")
OF_TRANSLATION = ("solver", "inversion", "class_A", "class_B", "guidance_scale")
COMMON = ("seed", "respace_type", "fit")


def recorded(path):
    with Image.open(path) as image:
        return json.loads(image.text["parameters"])


def flags(found, names):
    """Return the options that a record names, as words."""
    words = ["--respace_steps", found["timesteps"]]
    for change in found.get("set", ()):
        words += ["--set", change]
    for name in names:
        if found.get(name) is True:
            words.append(f"--{name}")
        elif found.get(name) not in (None, False):
            words += [f"--{name}", found[name]]
    return [str(word) for word in words]


def make_again(case, command, found, names, *more):
    """Follow a record with nothing but its input, under its name, and return the picture."""
    alone, save_dir = case.input_dir.parent / "alone", case.save_dir.parent / "again"
    (alone / found["input"]).parent.mkdir(parents=True)
    (case.input_dir / found["input"]).rename(alone / found["input"])
    words = ["-c", case.config, "--weights", case.weights, "--input_dir", alone, "--save_dir", save_dir]
    assert command.main([*map(str, words), "--cpu", *flags(found, names), *more]) == 0
    [path] = save_dir.rglob("*.png")
    return path


def test_an_edit_is_made_again_from_its_record(case, tmp_path):
    (tmp_path / "masks/deep").mkdir(parents=True)
    mask = Image.new("L", (20, 20))
    mask.paste(255, (0, 0, 9, 20))
    mask.save(tmp_path / "masks/deep/d.png")
    masks = ["--mask_dir", str(tmp_path / "masks"), "--mask_default", "all"]
    words = (
        "--seed 3 --respace_type uniform --respace_steps 9 --t0 0.5 --fit pad --class_label 2 --samples 2 "
    )
    words += "--guidance_scale 2 --repeats 2 --mask_invert --mask_feather 2 --set diffusion.clip=2"
    assert sample_sdedit.main([*case.words(), *words.split(), *masks, "--micro_batch", "1"]) == 0
    result = case.save_dir / "deep/d_s00.png"
    found = recorded(result)
    assert (found["method"], found["input"], found["sample"]) == ("SDEdit", "deep/d.bmp", 0)
    assert (found["weights"], found["config"]) == ("tiny.safetensors", "tiny.yaml")
    assert found["weights_sha256"] == hashlib.sha256(case.weights.read_bytes()).hexdigest()
    assert found["class_label"] == "hen"
    names = (*COMMON, *OF_EDIT, *OF_MASKS)
    again = make_again(case, sample_sdedit, found, names, *masks)
    assert Image.open(again).tobytes() == Image.open(result).tobytes()
    assert recorded(again) == found


def test_a_translation_is_made_again_from_its_record(case):
    words = ["--respace_steps", "6", "--class_A", "0", "--class_B", "dog", "--inversion", "fixed_point"]
    assert sample_ddib.main([*case.words(), *words, "--guidance_scale", "2", "--micro_batch", "1"]) == 0
    found = recorded(case.save_dir / "b.png")
    assert (found["method"], found["input"], found["class_A"]) == ("DDIB", "b.jpg", "cat")
    assert not {"weights_B", "config_B", "set"} & found.keys()
    again = make_again(case, sample_ddib, found, (*COMMON, *OF_TRANSLATION))
    assert Image.open(again).tobytes() == Image.open(case.save_dir / "b.png").tobytes()


def test_a_second_network_and_a_guide_are_named(case):
    words = [*case.words(), "--respace_steps", "2", "--class_A", "cat", "--class_B", "dog"]
    words += ["--weights_B", str(case.weights), "--config_B", str(case.config)]
    words += ["--guidance_scale", "2", "--unconditional", str(case.config), str(case.weights)]
    assert sample_ddib.main(words) == 0
    found = recorded(case.save_dir / "a.png")
    assert (found["config_B"], found["weights_B"]) == ("tiny.yaml", "tiny.safetensors")
    assert found["unconditional"] == "tiny.safetensors"


def test_published_weights_are_recorded_by_their_name(case):
    for path in list(case.input_dir.rglob("*.*"))[1:]:
        path.unlink()
    words = ["--weights", "fruits64", "--input_dir", case.input_dir, "--save_dir", case.save_dir, "--cpu"]
    words += ["--respace_steps", "2", "--t0", "0.5"]
    assert sample_sdedit.main([*map(str, words)]) == 0
    [path] = case.save_dir.rglob("*.png")
    assert recorded(path)["weights"] == "demo/fruits64"


@pytest.mark.parametrize("more", [[], ["--corrector_steps", "2", "--snr", "0.1"]])
def test_the_corrector_is_recorded_where_there_is_one(case, more):
    words = ["-c", ROOT / "configs/demo/fruits64_ve.yaml", "--weights", ROOT / "weights/fruits64.safetensors"]
    words += ["--input_dir", case.input_dir, "--save_dir", case.save_dir, "--cpu"]
    for path in list(case.input_dir.rglob("*.*"))[1:]:
        path.unlink()
    assert sample_sdedit.main([*map(str, words), "--respace_steps", "2", "--edit_steps", "1", *more]) == 0
    [path] = case.save_dir.rglob("*.png")
    found = recorded(path)
    assert {key: found[key] for key in ("corrector_steps", "snr") if key in found} == (
        {"corrector_steps": 2, "snr": 0.1} if more else {}
    )
