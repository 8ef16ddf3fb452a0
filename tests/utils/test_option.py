"""Options as data: what is allowed, what is refused, and what decides a run."""

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from utils.option import Checked, Number, OneOf, Size, make, option, refuse_unknown, width_height
from utils.running import Place, Running
from utils.settings import Edit, Translate


@dataclass(frozen=True, kw_only=True)
class Some(Checked):
    mode: str = option("slow", "how", OneOf(("slow", "fast")))
    parts: tuple[int, ...] = option((), "which", Number(1, 9, whole=True))
    folder: Path | None = option(None, "where", changes_result=False)


def test_values_are_brought_to_their_fields():
    some = make(Some, {"parts": 3, "folder": "a/b", "other": 1})
    assert some == Some(parts=(3,), folder=Path("a/b"))
    assert make(Some, {"parts": [1, 2]}).parts == (1, 2)
    assert make(Some, {"parts": None}).parts == ()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"mode": "fats"}, "--mode fats: allowed is slow, fast; did you mean fast?"),
        ({"parts": (1, 10)}, "--parts 10: allowed is a whole number from 1 to 9"),
        ({"parts": (True,)}, "--parts True: allowed is"),
        ({"parts": (1.5,)}, "--parts 1.5: allowed is"),
        ({"parts": ("1",)}, "--parts 1: allowed is"),
    ],
)
def test_what_is_not_allowed_is_refused_as_it_is_made(given, message):
    with pytest.raises(ValueError, match="allowed") as caught:
        make(Some, given)
    assert message in str(caught.value)


def test_a_size_is_a_width_and_a_height_or_a_word():
    size = Size(words=("input",))
    assert all(size.holds(x) for x in ("1x1", "192x128", "16384x9", "input"))
    wrong = ("", "192", "0x5", "05x5", "5x5x5", "-4x4", "4 x 4", "4x16385", "inputs", "\u0664x4", 4, (4, 4))
    assert not any(size.holds(x) for x in wrong)
    assert width_height("192x128") == (192, 128)


def test_a_copy_is_checked_too():
    with pytest.raises(ValueError, match="--mode"):
        replace(Some(), mode="none")


def test_what_decides_a_run():
    assert Some(folder=Path("x")).deciding() == {"mode": "slow", "parts": ()}
    deciding = {**Edit(t0=(0.5,)).deciding(), **Running().deciding()}
    assert {"seed", "t0", "mask_dir", "compile", "no_metadata"} <= deciding.keys()
    places = ("input_dir", "save_dir", "micro_batch", "cpu", "shard", "verify", "overwrite", "dry_run")
    assert not deciding.keys() & {*places, "no_report"}
    assert "offload" not in Translate(class_B=("a",)).deciding()


def test_what_differs_from_its_default():
    assert Some().changed() == {}
    assert Some(parts=(2,), folder=Path("x")).changed() == {"parts": (2,), "folder": Path("x")}


def test_unknown_names_are_told_the_nearest():
    with pytest.raises(ValueError, match=r"^unknown option respace_step; did you mean respace_steps\?$"):
        refuse_unknown(["seed", "respace_step"], (Edit, Place))
