"""The study of methods of editing: what it measures is what it says, and every method runs."""

import json

import numpy as np
import pytest
import torch

from tools.studies import compare_edits, edit_methods
from tools.studies.leaning import MIXES

WHITE = torch.ones(1, 3, 64, 64)


def square(left: int, colour: float) -> torch.Tensor:
    picture = WHITE.clone()
    picture[:, :, 20:40, left : left + 20] = colour
    return picture


def test_outlines_are_of_what_is_not_white():
    dark, light, moved = square(20, -1.0), square(20, 0.0), square(24, -1.0)
    assert torch.equal(compare_edits.outline(dark), compare_edits.outline(light))
    assert not torch.equal(compare_edits.outline(dark), compare_edits.outline(moved))
    assert not compare_edits.outline(WHITE).any()


def test_seams_are_what_neighbours_differ_more_across_the_edge():
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., 32:] = 1
    slope = torch.linspace(-1, 1, 64).expand(1, 3, 64, 64)
    assert compare_edits.seams(slope, mask).item() == pytest.approx(0, abs=1e-6)
    assert compare_edits.seams(slope + 0.2 * mask, mask).item() == pytest.approx(0.2, abs=1e-5)


@pytest.mark.parametrize("name", MIXES)
def test_every_way_to_lean_stays_with_the_class_at_scale_1(name):
    generator = torch.Generator().manual_seed(0)
    towards, away = torch.rand(2, 2, 3, 8, 8, generator=generator)
    leaning = MIXES[name](towards, away, 0.5, 1.0)
    torch.testing.assert_close(leaning, towards, rtol=0, atol=1e-6)
    assert not torch.allclose(MIXES[name](towards, away, 0.5, 3.0), towards)


@pytest.fixture
def data(tmp_path):
    """Pictures of noise, ten views of each class that the study asks for."""
    names = ["red_apple", "green_apple", "banana", "orange", "lemon", "lime", "pear", "peach", "plum"]
    names += ["cherry", "strawberry", "raspberry", "huckleberry", "kiwi", "pineapple", "avocado"]
    pictures = np.random.default_rng(0).integers(0, 255, (160, 64, 64, 3), dtype=np.uint8)
    sources = np.array([f"x/{name}/{i}_100.jpg" for name in names for i in range(10)])
    np.savez(
        tmp_path / "d.npz",
        **{"images": pictures, "labels": np.repeat(np.arange(16), 10)},
        **{"class_names": np.array(names), "sources": sources},
    )
    return tmp_path


CALLED = {
    "strokes": ["sdedit", "ilvr8", "restart", "interval"],
    "classes": ["flow", "edit-friendly", "ddib"],
    "masks": ["resample4"],
}


def test_points_are_kept_and_printed(data, monkeypatch, capsys):
    monkeypatch.setattr(compare_edits, "stroke_case", lambda names, seeds: case(names, 2))
    monkeypatch.setattr(compare_edits, "class_case", lambda views, seeds: case(views.names, 2))
    monkeypatch.setattr(compare_edits.judge, "train_judge", lambda images, *rest: (fresh(), 0.5))
    words = ["--data", data / "d.npz", "--save_dir", data / "o", "--t0", 0.5, "--calls", 8, "--seeds", 2]
    for task, methods in CALLED.items():
        given = ["compare_edits", task, *words, "--scale", 2, "--methods", *methods, "--plot", data / "p.png"]
        monkeypatch.setattr("sys.argv", list(map(str, given)))
        compare_edits.main()
        printed = capsys.readouterr().out
        assert all(f"| {name} | 8 | 2.0 | 0.5 | " in printed for name in methods)
        monkeypatch.setattr(compare_edits, "edit_all", None)  # the second time nothing is computed
        compare_edits.main()
        assert capsys.readouterr().out.splitlines()[-1] == printed.splitlines()[-1]
        monkeypatch.undo()
        monkeypatch.setattr(compare_edits, "stroke_case", lambda names, seeds: case(names, 2))
        monkeypatch.setattr(compare_edits, "class_case", lambda views, seeds: case(views.names, 2))
    point = json.loads((data / "o" / "strokes_sdedit_0.5_8_2_2.json").read_text())
    assert point["l2"][0] > 0
    assert (data / "p.png").stat().st_size > 1000


def case(names, count) -> compare_edits.Case:
    return compare_edits.Case(
        square(20, -0.5).repeat(count, 1, 1, 1),
        [str(i) for i in range(count)],
        torch.tensor([names.index("lemon"), names.index("orange")]),
        torch.tensor([names.index("orange"), names.index("lime")]),
    )


def fresh():
    torch.manual_seed(0)
    return compare_edits.judge.judge_network(16)


def test_an_unknown_method_is_told():
    with pytest.raises(SystemExit, match="no method 'x'; choose of sdedit, "):
        edit_methods.find("x")
