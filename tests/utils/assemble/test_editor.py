"""Editor and Translator: the pictures, files, checks and messages of the commands."""

import io
import json
import re

import pytest
import torch
from PIL import Image

import sample_ddib
import sample_sdedit
from utils.assemble import Editor, Translator
from utils.assemble.edit_batch import EditBatch

NAMES = ("a.png", "b.jpg", "deep/c.webp", "deep/d.bmp", "e.PNG")
STEPS = {"respace_steps": 10, "t0": 0.3}


@pytest.fixture
def editor(case):
    return Editor.load(case.weights, config=case.config, cpu=True, micro_batch=1, **STEPS)


def run(case, command, *words):
    assert command.main([*case.words(), "--micro_batch", "1", *map(str, words)]) == 0
    return {
        path.relative_to(case.save_dir).as_posix(): Image.open(path)
        for path in sorted(case.save_dir.rglob("*.png"))
    }


def stem(name):
    return name.rpartition(".")[0]


def test_pictures_are_those_of_the_command(case, editor):
    wanted = run(case, sample_sdedit, "--respace_steps", 10, "--t0", 0.3, "--class_label", "Dog", "--seed", 5)
    steps = []
    paths = [case.input_dir / name for name in NAMES]
    found = editor(
        paths,
        names=NAMES,
        class_label="dog",
        seed=5,
        callback=lambda *told: steps.append(told),
    )
    for name, picture in zip(NAMES, found, strict=True):
        assert picture.tobytes() == wanted[f"{stem(name)}.png"].tobytes()
    assert steps == [(i, 3 * len(NAMES)) for i in range(3 * len(NAMES))]
    alone = editor(str(paths[0]), class_label="1", seed=5)
    assert alone.tobytes() == found[0].tobytes()
    from_memory = editor(Image.open(paths[0]), names=[NAMES[0]], class_label="dog", seed=5)
    assert from_memory.tobytes() == found[0].tobytes()


def test_levels_and_samples_are_lists(case, editor):
    words = ("--respace_steps", 10, "--t0", 0.2, 0.4, "--samples", 2, "--sampler", "ddim")
    wanted = run(case, sample_sdedit, *words)
    rows = editor([case.input_dir / "a.png"], t0=[0.2, 0.4], samples=2, sampler="ddim")
    assert [len(row) for row in rows] == [4]
    names = [f"{level}/a_s0{sample}.png" for sample in range(2) for level in ("t0_0.2", "t0_0.4")]
    assert [x.tobytes() for x in rows[0]] == [wanted[name].tobytes() for name in names]


@pytest.mark.parametrize("changes", [{}, {"mask_invert": True}, {"mask_feather": 2.0}])
def test_masks_are_those_of_the_command(case, editor, tmp_path, changes):
    (tmp_path / "masks").mkdir()
    size = Image.open(case.input_dir / "a.png").size
    mask = Image.new("L", size)
    mask.paste(255, (0, 0, size[0] // 2, size[1]))
    mask.save(tmp_path / "masks/a.png")
    flags = [word for key, value in changes.items() for word in (f"--{key}", value) if word is not True]
    words = ("--mask_dir", tmp_path / "masks", "--mask_default", "all", *flags)
    wanted = run(case, sample_sdedit, "--respace_steps", 10, "--t0", 0.3, *words)["a.png"]
    for given in (mask, tmp_path / "masks/a.png"):
        edited = editor(case.input_dir / "a.png", mask=given, **changes)
        assert edited.tobytes() == wanted.tobytes()
    half = editor(case.input_dir / "a.png", strength=mask)
    assert half.tobytes() != editor(case.input_dir / "a.png").tobytes()


def test_the_file_is_that_of_the_command(case, editor):
    wanted = run(case, sample_sdedit, "--respace_steps", 10, "--t0", 0.3, "--class_label", "2")["a.png"]
    found = editor.encode(case.input_dir / "a.png", "a.png", class_label="2")
    assert found == (case.save_dir / "a.png").read_bytes()
    recorded = json.loads(Image.open(io.BytesIO(found)).text["parameters"])
    assert recorded["class_label"] == "hen"
    assert recorded == json.loads(wanted.text["parameters"])


def test_a_callback_that_raises_ends_the_call(case, editor):
    seen = []

    def stop(done, total):
        seen.append(done)
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        editor([case.input_dir / "a.png"], t0=0.5, callback=stop)
    assert seen == [0, 1, 2]


def test_what_is_not_finite_in_half_precision_is_done_again_in_float32(case, editor, monkeypatch):
    """Unlike a run, nobody watches the calls of the networks here."""
    wanted = editor(case.input_dir / "a.png", class_label="dog")
    half = Editor.load(case.weights, config=case.config, cpu=True, precision="bf16", **STEPS)
    edit, precisions = EditBatch.__call__, []

    def spoil_half(batch, items, tensors):
        rows = edit(batch, items, tensors)
        precisions.append(batch.guide.launch.dtype)
        if precisions[-1] == torch.bfloat16:
            rows[0][0].image.fill_(torch.nan)
        return rows

    monkeypatch.setattr(EditBatch, "__call__", spoil_half)
    found = half(case.input_dir / "a.png", class_label="dog")
    assert precisions == [torch.bfloat16, torch.float32]
    assert found.tobytes() == wanted.tobytes()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"t0": 2}, "--t0 2: allowed is above 0 to 1"),
        ({"sampler": "dimm"}, "did you mean ddim?"),
        ({"respace_step": 3}, "unknown option respace_step; did you mean respace_steps?"),
        ({"class_label": "cow"}, "unknown class 'cow'"),
        ({"edit_steps": 11}, "only 10 timesteps are kept"),
        ({"guidance_scale": 3}, "guidance leads to a class"),
        ({"mask_dir": "x"}, "a call takes pictures as mask= and strength="),
        ({"names": ["a", "b"]}, "2 names for 1 pictures"),
        ({"mask": [Image.new("L", (4, 4))] * 2}, "2 of mask for 1 pictures"),
        ({"mask": Image.new("L", (3, 4), 255)}, "the mask is 3x4 and the picture"),
    ],
)
def test_mistakes_are_told_as_by_the_command(case, editor, options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        editor([case.input_dir / "a.png"], **options)


def test_wrong_options_are_refused_before_weights_are_read(tmp_path):
    with pytest.raises(ValueError, match="--sampler x: allowed is"):
        Editor.load(tmp_path / "none.pt", sampler="x")
    with pytest.raises(ValueError, match="unknown option save_dir"):
        Editor.load(tmp_path / "none.pt", save_dir="x")
    with pytest.raises(ValueError, match="no such file or folder"):
        Editor.load(tmp_path / "none.pt")


def test_translations_are_those_of_the_command(case):
    words = ("--class_A", "cat", "--class_B", "dog", "hen", "--respace_steps", 6, "--solver", "heun")
    wanted = run(case, sample_ddib, *words)
    load = {"config": case.config, "cpu": True, "micro_batch": 1, "respace_steps": 6, "solver": "heun"}
    translator = Translator.load(case.weights, class_A="cat", **load)
    steps = []
    rows = translator(
        [case.input_dir / "a.png"],
        class_B=["dog", "hen"],
        callback=lambda *told: steps.append(told),
    )
    names = ("to_dog/a.png", "to_hen/a.png")
    assert [x.tobytes() for x in rows[0]] == [wanted[name].tobytes() for name in names]
    assert steps == [(i, 18) for i in range(18)]
    assert translator(case.input_dir / "a.png", class_B="hen").tobytes() == rows[0][1].tobytes()
    with pytest.raises(ValueError, match=r"none.png: cannot be opened"):
        translator(case.input_dir / "none.png", class_B="hen")
    with pytest.raises(ValueError, match="give --class_B"):
        translator(case.input_dir / "a.png")
    with pytest.raises(ValueError, match="cycle: only for the command"):
        translator(case.input_dir / "a.png", class_B="hen", cycle=True)
