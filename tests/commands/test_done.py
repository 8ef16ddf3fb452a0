"""What counts as done: what this run recorded last, from inputs that are still the same."""

import json
import os

import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import result_bytes
from utils.files import SCRATCH

SDEDIT = ["--respace_steps", "5", "--edit_steps", "2"]
DDIB = ["--respace_steps", "2", "--class_B", "dog"]


def again(case, capsys, *words, command=sample_sdedit, code=0):
    """Run once more; return the names of the results that changed, and what was said."""
    before = {path: path.stat().st_mtime_ns for path in case.save_dir.rglob("*.png")}
    capsys.readouterr()
    assert command.main([*case.words(), *(SDEDIT if command is sample_sdedit else DDIB), *words]) == code
    after = {path: path.stat().st_mtime_ns for path in case.save_dir.rglob("*.png")}
    made = {path.relative_to(case.save_dir).as_posix() for path in after if before.get(path) != after[path]}
    return made, capsys.readouterr().err


def report(case):
    return json.loads((case.save_dir / "report.json").read_text())


def test_a_seed_and_another_and_the_first_again(case, tmp_path, capsys, monkeypatch):
    # files of one size: so size tells nothing
    monkeypatch.setattr("utils.codecs.encode_png", lambda image, *said: image.resize((4, 4)).tobytes())
    wanted = {}
    for seed in ("1", "2"):
        wanted[seed] = tmp_path / seed
        sample_sdedit.main([*case.words(wanted[seed]), *SDEDIT, "--seed", seed])
    assert again(case, capsys, "--seed", "1")[0]
    for seed in ("2", "1"):
        assert len(again(case, capsys, "--seed", seed, "--overwrite")[0]) == 5
        assert result_bytes(case.save_dir) == result_bytes(wanted[seed])
    assert again(case, capsys, "--seed", "1", "--verify")[0] == set()


def rewrite(path, color):
    """Replace a picture by another of the same size and time."""
    times = path.stat()
    with Image.open(path) as image:
        size = image.size
    Image.new("RGB", size, color).save(path)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def replace_one(case):
    rewrite(case.input_dir / "b.jpg", "red")
    return {"b.png"}, "1 image changed"


def replace_folder(case):
    moved = case.input_dir.with_name("moved")
    case.input_dir.rename(moved)
    for path in moved.rglob("*.*"):
        (case.input_dir / path.relative_to(moved)).parent.mkdir(parents=True, exist_ok=True)
        (case.input_dir / path.relative_to(moved)).write_bytes(path.read_bytes())
    rewrite(case.input_dir / "a.png", "red")
    return {"a.png"}, "1 image changed"


def other_suffix(case):
    (case.input_dir / "deep/d.bmp").unlink()
    Image.new("RGB", (20, 20), "red").save(case.input_dir / "deep/d.webp")
    return {"deep/d.png"}, "1 image changed"


@pytest.mark.parametrize("change", [replace_one, replace_folder, other_suffix])
def test_a_changed_input_is_made_again_and_no_other(case, capsys, change):
    assert len(again(case, capsys)[0]) == 5
    assert again(case, capsys) == again(case, capsys)
    names, reason = change(case)
    made, said = again(case, capsys)
    assert made == names
    assert f"1 of 5 were done before and are made again: {reason}" in said
    assert again(case, capsys, "--verify")[0] == set()


def test_changed_masks_and_strengths_are_noticed(case, tmp_path, capsys):
    folders = {"mask": tmp_path / "masks", "strength": tmp_path / "strengths"}
    for folder in folders.values():
        (folder / "deep").mkdir(parents=True)
        for path in case.input_dir.rglob("*.*"):
            with Image.open(path) as image:
                mask = Image.new("L", image.size)
            mask.paste(255, (0, 0, 5, 5))
            mask.save(folder / path.relative_to(case.input_dir).with_suffix(".png"))
    words = ["--mask_dir", str(folders["mask"]), "--strength_dir", str(folders["strength"])]
    words += ["--mask_default", "all"]
    assert len(again(case, capsys, *words)[0]) == 5
    with Image.open(folders["mask"] / "a.png") as mask:
        mask.transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folders["mask"] / "a.png")
    with Image.open(folders["strength"] / "b.png") as mask:
        mask.point(lambda value: 255 - value).save(folders["strength"] / "b.png")
    (folders["mask"] / "deep/c.png").unlink()
    made, said = again(case, capsys, *words)
    assert made == {"a.png", "b.png", "deep/c.png"}
    assert all(why in said for why in ("1 mask changed", "1 strength changed", "1 mask gone"))


def test_a_changed_class_and_a_changed_latent_are_noticed(case, tmp_path, capsys):
    labels = tmp_path / "labels.csv"
    names = [path.relative_to(case.input_dir).as_posix() for path in case.input_dir.rglob("*.*")]
    labels.write_text("".join(f"{name},cat\n" for name in names))
    words = ["--class_A", str(labels), "--save_latents"]
    assert len(again(case, capsys, *words, command=sample_ddib)[0]) == 5
    labels.write_text(labels.read_text().replace("a.png,cat", "a.png,hen"))
    made, said = again(case, capsys, *words, command=sample_ddib)
    assert made == {"a.png"}
    assert "1 class changed" in said
    latents = case.save_dir / "latents"
    case.input_dir, case.save_dir = latents, tmp_path / "decoded"
    assert len(again(case, capsys, "--from_latents", command=sample_ddib)[0]) == 5
    (latents / "a.safetensors").write_bytes((latents / "b.safetensors").read_bytes())
    made, said = again(case, capsys, "--from_latents", command=sample_ddib)
    assert made == {"a.png"}
    assert "1 latent changed" in said


def test_an_interrupted_remake_is_missing_until_it_is_made(case, capsys, monkeypatch):
    again(case, capsys)
    rewrite(case.input_dir / "a.png", "red")
    with monkeypatch.context() as patched:
        patched.setattr("utils.jobs.run.Run._compute", lambda *_: os.kill(os.getpid(), 15) or [])
        patched.setattr("utils.jobs.job.Job._finish_saving", lambda *_: None)
        patched.setattr("utils.jobs.job.Job._do", lambda self, *_: (os.kill(os.getpid(), 15), self._check()))
        assert again(case, capsys, code=75)[0] == set()
    assert (report(case)["done"], report(case)["missing"]) == (4, 1)
    assert again(case, capsys)[0] == {"a.png"}
    assert report(case)["done"] == 5


DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    "line",
    [
        *("5", "null", "{}", "[]", '"x"', DEEP, '{"item": 5, "files": {}}', '{"stale": 3}', '{"end": 1}'),
        '{"item": "a.png", "files": {"../../x": [1, "0"]}, "made_from": {}, "calls": 1, "seconds": 1, '
        '"precision": "x"}',
        '{"item": "a.png", "files": {"a.png": [1e999, "0"]}, "made_from": {}, "calls": NaN}',
        '{"failed": 1, "item": "a.png"}',
    ],
    ids=lambda line: line[:30],
)
def test_damaged_records_are_passed_over(case, capsys, line):
    again(case, capsys)
    logs = case.save_dir / SCRATCH
    for log in list(logs.glob("*.jsonl")):
        log.write_text(log.read_text() + line + "\n")
        (logs / "first.jsonl").write_text(line + "\n" + log.read_text())
    (logs / "folder.jsonl").mkdir()
    os.mkfifo(logs / "pipe.jsonl")
    assert again(case, capsys)[0] == set()
    assert report(case)["done"] == 5


@pytest.mark.parametrize("text", [DEEP, "5", '{"settings": ' + DEEP + "}"], ids=["deep", "five", "deeper"])
def test_a_damaged_run_json_is_said_to_be(case, capsys, text):
    again(case, capsys)
    (case.save_dir / "run.json").write_text(text)
    with pytest.raises(SystemExit) as end:
        again(case, capsys)
    assert end.value.code == 2
    assert "run.json: is broken; remove it, or start again with --overwrite" in capsys.readouterr().err


def test_records_are_not_followed_out_of_the_folder(case, tmp_path, capsys):
    case.save_dir.mkdir()
    (tmp_path / "elsewhere").mkdir()
    (case.save_dir / SCRATCH).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SystemExit) as end:
        again(case, capsys)
    assert end.value.code == 2
    assert "is a link; remove it" in capsys.readouterr().err
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_item_whose_name_the_disk_does_not_take_fails_alone(case, capsys):
    long = "x" * 249 + ".png"
    Image.new("RGB", (16, 16)).save(case.input_dir / long)
    (case.save_dir / "deep").mkdir(parents=True)
    (case.save_dir / "deep/d_s00.png").mkdir()
    words = ["--samples", "1"]
    made, said = again(case, capsys, *words, code=3)
    assert made == {"a_s00.png", "b_s00.png", "deep/c_s00.png", "e_s00.png"}
    assert "257 bytes; the disk takes 255; give the input a shorter name" in said
    assert "is a folder, in the way of a result; move it" in said
    for more in ([], ["--verify"], ["--overwrite"]):
        assert again(case, capsys, *words, *more, code=3)[0] == set()
    (case.save_dir / "deep/d_s00.png").rmdir()
    (case.input_dir / long).unlink()
    assert again(case, capsys, *words)[0] == {"deep/d_s00.png"}


def test_a_file_where_a_folder_belongs_fails_its_items(case, capsys):
    case.save_dir.mkdir()
    (case.save_dir / "deep").write_text("mine")
    for _ in range(2):
        _, said = again(case, capsys, code=3)
        assert said.count("is a file where a folder belongs; remove it") == 2
    (case.save_dir / "deep").unlink()
    assert again(case, capsys)[0] == {"deep/c.png", "deep/d.png"}


def test_a_folder_that_cannot_be_written_is_said_before_anything_is_done(case, capsys, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device", str(path))

    with monkeypatch.context() as patched:
        patched.setattr("utils.files.write_synced", full)
        with pytest.raises(SystemExit) as end:
            again(case, capsys)
    assert end.value.code == 2
    assert "cannot be written: [Errno 28] No space left" in capsys.readouterr().err
    with monkeypatch.context() as patched:
        patched.setattr("os.access", lambda *_: False)
        with pytest.raises(SystemExit) as end:
            again(case, capsys)
    assert end.value.code == 2
    assert "cannot be written to; give another folder" in capsys.readouterr().err
    assert again(case, capsys)[0]


@pytest.mark.parametrize("flag", ["--input_dir", "--save_dir", "--mask_dir", "--weights", "--set"])
@pytest.mark.parametrize("joined", [False, True])
def test_an_empty_value_is_refused_by_its_flag(case, capsys, flag, joined):
    with pytest.raises(SystemExit) as end:
        sample_sdedit.main([*case.words(), *SDEDIT, *([f"{flag}="] if joined else [flag, ""])])
    assert end.value.code == 2
    assert f"argument {flag}: is empty; give a value" in capsys.readouterr().err


def test_a_signal_is_heard_between_images_that_cannot_be_read(case, capsys, monkeypatch):
    for i in range(50):
        (case.input_dir / f"broken{i:02d}.png").write_bytes(b"no image")
    seen = []

    def counted(run, item, reason):
        seen.append(item)
        if len(seen) == 5:
            os.kill(os.getpid(), 15)

    monkeypatch.setattr("utils.jobs.run.Run._fail", counted)
    again(case, capsys, code=75)
    assert len(seen) <= 6
