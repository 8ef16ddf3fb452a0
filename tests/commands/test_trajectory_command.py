"""--trajectory of both commands: the frames and how long they are shown, and results that stay the same."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import sample_ddib
import sample_sdedit
from tests.commands.command_case import result_bytes
from tests.commands.test_ddib_command import SOLVERS
from tests.commands.test_run import NAMES, pixels
from tests.commands.test_sdedit_command import SAMPLERS, fitted
from utils import codecs

SDEDIT = ["--respace_steps", "10", "--edit_steps"]
DDIB_STEPS = ["--respace_steps", 8]
DDIB = [*DDIB_STEPS, "--class_A", "cat", "--class_B"]


def run(command, case, folder, *words):
    assert command.main([*case.words(folder), *map(str, words)]) == 0
    return result_bytes(folder)


def cut(data):
    """Take a strip of pictures of 16 pixels apart."""
    return [np.asarray(x).astype(int) for x in codecs.cut_strip(Image.open(io.BytesIO(data)), 16)]


def moving(data):
    """Return the frames of an animation, and for how many ms each is shown."""
    with Image.open(io.BytesIO(data)) as image:
        shown, durations = [], []
        for number in range(image.n_frames):
            image.seek(number)
            shown.append(np.asarray(image.convert("RGB")).astype(int))
            durations.append(round(image.info["duration"]))
        return shown, durations


def frames_of(found, name, folder=""):
    """Return the frames of a result's strip; those of its animation are the same, the last is the result."""
    path = f"trajectory/{folder}{name}"
    frames = cut(found[path])
    shown, durations = moving(found[path.replace(".png", ".apng")])
    assert len(shown) == len(frames)
    assert all(np.array_equal(a, b) for a, b in zip(shown, frames, strict=True))
    assert durations[-1] == 1500
    assert sum(durations[:-1]) == pytest.approx(2000, abs=len(frames) / 2)
    assert np.array_equal(frames[-1], pixels(found[f"{folder}{name}"]))
    return frames


def with_strips(names):
    return sorted([*names, *(f"trajectory/{n[:-3]}{suffix}" for n in names for suffix in ("png", "apng"))])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_way_of_an_edit(case, tmp_path, sampler):
    words = [*SDEDIT, 6, *SAMPLERS[sampler], "--comparison"]
    plain = run(sample_sdedit, case, tmp_path / "plain", *words)
    found = run(sample_sdedit, case, tmp_path / "o", *words, "--trajectory", 4)
    assert plain == {name: data for name, data in found.items() if not name.startswith("trajectory/")}
    assert sorted(name for name in found if not name.startswith("comparison/")) == with_strips(NAMES)
    for name in NAMES:
        frames = frames_of(found, name)
        assert len(frames) == 4
        assert np.array_equal(frames[0], cut(found[f"comparison/{name}"])[1])
        assert len({frame.tobytes() for frame in frames}) == 4


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_way_of_a_translation(case, tmp_path, solver):
    words = [*DDIB, "dog", *SOLVERS[solver], "--comparison"]
    plain = run(sample_ddib, case, tmp_path / "plain", *words)
    found = run(sample_ddib, case, tmp_path / "o", *words, "--trajectory", 6)
    assert plain == {name: data for name, data in found.items() if not name.startswith("trajectory/")}
    assert sorted(name for name in found if not name.startswith("comparison/")) == with_strips(NAMES)
    for name in NAMES:
        frames = frames_of(found, name)
        assert len(frames) == 6  # three up, the latent and one more down, the result
        assert np.array_equal(frames[0], fitted(case)[name])
        assert np.array_equal(frames[3], cut(found[f"comparison/{name}"])[1])
        assert len({frame.tobytes() for frame in frames[:-1]}) == 5  # a result may be the input
        changes = [abs(frame - frames[0]).mean() for frame in frames[:4]]
        assert 0 < changes[1] < min(changes[2:])  # upwards, away from the input


@pytest.mark.parametrize(("number", "num_frames"), [(2, 2), (3, 3), (7, 7), (8, 7), (99, 7)])
def test_repeats_are_one_way_and_a_short_one_is_all_kept(case, tmp_path, number, num_frames):
    found = run(sample_sdedit, case, tmp_path / "o", *SDEDIT, 2, "--repeats", 3, "--trajectory", number)
    assert len(frames_of(found, "a.png")) == num_frames  # of 6 states and the result


def test_frames_are_called_by_what_they_are(case, tmp_path, monkeypatch):
    seen, real = [], codecs.labelled_strip
    monkeypatch.setattr(codecs, "labelled_strip", lambda x, names: seen.append(names) or real(x, names))
    run(sample_sdedit, case, tmp_path / "edit", *SDEDIT, 6, "--trajectory", 4)
    assert seen == [["t0 0.6", "t0 0.4", "t0 0.2", "result"]] * 5
    for solver in ("ddim", "cycle-diffusion"):
        seen.clear()
        words = [*DDIB, "dog", *SOLVERS[solver], "--respace_type", "uniform-trailing"]
        run(sample_ddib, case, tmp_path / solver, *words, "--trajectory", 5)
        assert seen == [["input", "t0 0.5", "latent", "t0 0.5", "result"]] * 5


def test_two_frames_of_a_translation_are_input_and_result(case, tmp_path):
    found = run(sample_ddib, case, tmp_path / "o", *DDIB, "dog", "--trajectory", 2)
    frames = frames_of(found, "a.png")
    assert len(frames) == 2
    assert np.array_equal(frames[0], fitted(case)["a.png"])


def test_both_ways_of_a_translation_may_be_short(case, tmp_path):
    found = run(sample_ddib, case, tmp_path / "o", *DDIB, "dog", "--trajectory", 100)
    assert len(cut(found["trajectory/a.png"])) == 8 + 8 + 1


def test_a_mask_is_seen_to_keep(case, tmp_path):
    for path in case.input_dir.rglob("*.*"):
        target = tmp_path / "masks" / path.relative_to(case.input_dir).with_suffix(".png")
        target.parent.mkdir(parents=True, exist_ok=True)
        mask = Image.new("L", Image.open(path).size, 0)
        mask.paste(255, (0, 0, mask.width // 2, mask.height))
        mask.save(target)
    words = [*SDEDIT, 6, "--mask_dir", tmp_path / "masks"]
    plain = run(sample_sdedit, case, tmp_path / "plain", *words)
    found = run(sample_sdedit, case, tmp_path / "o", *words, "--trajectory", 7)
    for name, guide in fitted(case).items():
        assert found[name] == plain[name]
        errors = [abs(frame[:, 8:] - guide[:, 8:]).mean() for frame in frames_of(found, name)]
        assert errors[-1] == 0
        assert errors[0] > errors[-2] > 0  # noised as the rest is, less and less


def test_a_folder_for_each_strength_and_a_name_for_each_sample(case, tmp_path):
    words = ["--respace_steps", 10, "--edit_steps", 3, 6, "--samples", 2]
    found = run(sample_sdedit, case, tmp_path / "o", *words, "--trajectory", 3)
    names = [f"{name[:-4]}_s{sample:02d}.png" for name in NAMES for sample in (0, 1)]
    ways = [name for name in found if name.startswith("trajectory/")]
    assert len(ways) == 2 * 2 * len(names)
    for folder in ("steps_3/", "steps_6/"):
        firsts = [frames_of(found, name, folder)[0] for name in names]
        assert len({frame.tobytes() for frame in firsts}) == len(names)


def test_many_targets_share_the_way_up(case, tmp_path):
    found = run(sample_ddib, case, tmp_path / "o", *DDIB, "dog", "hen", "--trajectory", 6)
    for name in NAMES:
        dog, hen = (frames_of(found, name, folder) for folder in ("to_dog/", "to_hen/"))
        assert all(np.array_equal(a, b) for a, b in zip(dog[:4], hen[:4], strict=True))
        assert not np.array_equal(dog[4], hen[4])


def test_the_way_back_of_a_cycle_is_not_recorded(case, tmp_path):
    words = [*DDIB, "dog", "--trajectory", 5, "--no_metadata"]
    plain = run(sample_ddib, case, tmp_path / "plain", *words)
    assert run(sample_ddib, case, tmp_path / "cycle", *words, "--cycle") == plain


def test_of_latents_the_way_down_alone(case, tmp_path):
    whole = run(sample_ddib, case, tmp_path / "o", *DDIB, "dog", "--save_latents", "--trajectory", 8)
    case.input_dir = tmp_path / "o" / "latents"
    words = [*DDIB_STEPS, "--from_latents", "--class_B", "dog"]
    found = run(sample_ddib, case, tmp_path / "down", *words, "--trajectory", 4)
    for name in NAMES:
        down, both = frames_of(found, name), frames_of(whole, name)
        assert len(down) == 4
        assert all(np.array_equal(a, b) for a, b in zip(down, both[4:], strict=True))


def test_the_files_tell_how_they_were_made_unless_told_not_to(case, tmp_path):
    found = run(sample_sdedit, case, tmp_path / "o", *SDEDIT, 6, "--trajectory", 3)
    texts = [
        Image.open(io.BytesIO(found[name])).text["parameters"]
        for name in ("a.png", "trajectory/a.png", "trajectory/a.apng")
    ]
    assert texts[0] == texts[1] == texts[2]
    found = run(sample_sdedit, case, tmp_path / "bare", *SDEDIT, 6, "--trajectory", 3, "--no_metadata")
    assert Image.open(io.BytesIO(found["trajectory/a.apng"])).text == {}


def test_the_files_are_recorded_and_made_again_where_they_are_lost(case, capsys):
    words = [*SDEDIT, "6", "--trajectory", "3", "--micro_batch", "1"]
    before = run(sample_sdedit, case, case.save_dir, *words)
    [log] = (case.save_dir / ".records").glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    recorded = {path for line in lines for path in line.get("files", ())}
    assert recorded == set(before)
    (case.save_dir / "trajectory/deep/c.apng").unlink()
    assert run(sample_sdedit, case, case.save_dir, *words) == before
    assert "4 of 5 were done before" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["--comparison"], ["--trajectory", "3"]])
def test_inputs_in_a_folder_of_the_name_of_the_strips_are_refused(case, capsys, words):
    flag, folder = words[0], case.input_dir / words[0][2:]
    folder.mkdir()
    Image.new("RGB", (16, 16)).save(folder / "x.png")
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main([*case.words(), *SDEDIT, "6", *words])
    assert caught.value.code == 2
    assert f"{folder}: {flag} saves its strips under this name; rename it" in capsys.readouterr().err
    assert sample_sdedit.main([*case.words(), *SDEDIT, "6"]) == 0
