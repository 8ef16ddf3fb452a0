"""What newcomers trip over is answered by what to change; and what they would try works."""

import json

import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import ROOT

STEPS = ("--respace_steps", "10", "--t0", "0.3")


def recorded(path):
    return json.loads(Image.open(path).text["parameters"])


def refusal(capsys, command, *words):
    with pytest.raises(SystemExit) as caught:
        command.main([*map(str, words)])
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_a_class_for_each_picture_by_its_folder_or_a_list(case):
    for name in ("cat", "Dog"):
        (case.input_dir / name).mkdir()
    (case.input_dir / "a.png").rename(case.input_dir / "cat/a.png")
    (case.input_dir / "e.PNG").rename(case.input_dir / "Dog/e.PNG")
    for path in (case.input_dir / "b.jpg", *(case.input_dir / "deep").iterdir()):
        path.unlink()
    words = [*case.words(), *STEPS, "--micro_batch", "1", "--class_label"]
    assert sample_sdedit.main([*words, "folder"]) == 0
    found = {name: case.save_dir / name for name in ("cat/a.png", "Dog/e.png")}
    assert [recorded(path)["class_label"] for path in found.values()] == ["cat", "dog"]
    by_folder = [Image.open(path).tobytes() for path in found.values()]
    (case.input_dir.parent / "list.csv").write_text("cat/a.png,0\nDog/e.PNG,1\n")
    assert sample_sdedit.main([*words, str(case.input_dir.parent / "list.csv"), "--overwrite"]) == 0
    assert [Image.open(path).tobytes() for path in found.values()] == by_folder
    assert sample_sdedit.main([*words, "dog", "--overwrite"]) == 0
    all_dogs = [Image.open(path).tobytes() for path in found.values()]
    assert (all_dogs[0] == by_folder[0], all_dogs[1] == by_folder[1]) == (False, True)


def test_a_picture_whose_class_changes_is_made_again(case, capsys):
    listed = case.input_dir.parent / "list.csv"
    names = ("a.png", "b.jpg", "deep/c.webp", "deep/d.bmp", "e.PNG")
    words = [*case.words(), *STEPS, "--class_label", str(listed)]
    listed.write_text("".join(f"{name},cat\n" for name in names))
    assert sample_sdedit.main(words) == 0
    listed.write_text("".join(f"{name},{'dog' if name == 'e.PNG' else 'cat'}\n" for name in names))
    capsys.readouterr()
    assert sample_sdedit.main(words) == 0
    assert "4 of 5 were done before" in capsys.readouterr().err
    assert recorded(case.save_dir / "e.png")["class_label"] == "dog"


def test_one_image_may_be_the_input(case, capsys):
    words = case.words()
    words[words.index(str(case.input_dir))] = str(case.input_dir / "b.jpg")
    assert sample_sdedit.main([*words, *STEPS]) == 0
    assert [path.name for path in case.save_dir.glob("*.png")] == ["b.png"]
    said = refusal(capsys, sample_sdedit, *words, *STEPS, "--save_dir", case.input_dir)
    assert "--save_dir is the folder of --input_dir, so results would replace inputs" in said


def test_a_dry_run_notices_what_would_fail(case, capsys):
    masks = case.input_dir.parent / "masks"
    masks.mkdir()
    Image.new("L", (16, 16), 255).save(masks / "a.png")
    assert sample_sdedit.main([*case.words(), *STEPS, "--mask_dir", str(masks), "--dry_run"]) == 0
    assert (
        "4 inputs have no mask and would fail: b.jpg, deep/c.webp, deep/d.bmp, ..." in capsys.readouterr().out
    )


@pytest.mark.parametrize("dry", [[], ["--dry_run"]])
def test_a_wrong_config_is_answered_with_the_right_one(case, capsys, dry):
    words = ["-c", ROOT / "configs/openai/guided-diffusion/256x256_diffusion.yaml"]
    words += ["--weights", "demo/fruits64", "--input_dir", case.input_dir, "--save_dir", case.save_dir]
    for command, more in (
        (sample_sdedit, ["--t0", "0.5", "--class_label", "kiwi"]),
        (sample_ddib, ["--class_A", "kiwi", "--class_B", "lime"]),
    ):
        said = refusal(capsys, command, *words, *more, *dry)
        assert "configs/demo/fruits64.yaml" in said
        assert "999" not in said


def test_auto_t0_may_be_compared(case):
    words = ["--respace_steps", "4", "--auto_t0", "--faithfulness", "9", "--comparison"]
    assert sample_sdedit.main([*case.words(), *words]) == 0
    assert {"edit_steps", "difference", "t0"} <= recorded(case.save_dir / "a.png").keys()
    assert (case.save_dir / "comparison/a.png").is_file()


@pytest.mark.parametrize(("command", "more"), [(sample_sdedit, ()), (sample_ddib, ("--class_A", "cat"))])
def test_much_that_is_cropped_is_said_once_and_beforehand(case, capsys, command, more):
    Image.new("RGB", (400, 90)).save(case.input_dir / "wide.png")
    words = [*case.words(), "--respace_steps", "2", *more]
    words += ["--class_B", "dog"] if more else ["--t0", "0.5"]
    said = "note: wide.png is 400x90, of which --fit crop cuts 78 % away, of 3 of 6 more than a third"
    assert command.main([*words, "--dry_run"]) == 0
    assert said in capsys.readouterr().err
    assert command.main(words) == 0
    assert capsys.readouterr().err.count(said) == 1
    for fit in ("pad", "stretch"):
        assert command.main([*words, "--dry_run", "--fit", fit]) == 0
        assert "--fit crop" not in capsys.readouterr().err
