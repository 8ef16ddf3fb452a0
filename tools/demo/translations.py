"""Translations between the demo's classes, and how good they are: class reached, errors on the ways back."""

import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

import sample_ddib
from tools.demo import judge


class Row(NamedTuple):
    """What is measured of a setting; errors are root mean squares on [-1, 1]."""

    calls: int
    """Counted network evaluations of one translation."""
    seconds: float
    """Of one translation, without the start of the program."""
    share: float
    """Of translations between different classes, those judged as class B."""
    same: Tensor
    """A to A, [N]."""
    cycle: Tensor
    """A to B to A over different classes, [N]."""
    pictures: Tensor
    """The translations between different classes, [N, 3, 64, 64]."""


def measure(judged: nn.Module, names: list[str], setting: list[str], input_dir: Path, save_dir: Path) -> Row:
    """Translate the pictures in the folders of input_dir to all of these classes, and judge them."""
    classes = sorted(folder.name for folder in input_dir.iterdir() if folder.is_dir())
    given = ["--input_dir", input_dir, "--save_dir", save_dir, "--class_A", "folder", "--cycle"]
    judge.run(sample_ddib, *given, "--class_B", *classes, *setting)
    hits, same, cycle, pictures = [], [], [], []
    for source in classes:
        for target in classes:
            folder = save_dir / f"to_{target}" / source
            notes = [read_notes(path) for path in sorted(folder.glob("*.png"))]
            if source == target:
                same += [note["A_to_A"] for note in notes]
                continue
            x = torch.stack(list(judge.read_pictures(folder).values()))
            hits.append(judge.classify(judged, x) == names.index(target))
            cycle += [note["A_to_B_to_A"] for note in notes]
            pictures.append(x)
    share = torch.cat(hits).double().mean().item()
    return Row(
        *count_calls(setting, input_dir), share, torch.tensor(same), torch.tensor(cycle), torch.cat(pictures)
    )


def count_calls(setting: list[str], input_dir: Path) -> tuple[int, float]:
    """Translate one folder once, and return what the command reports: calls and seconds an image."""
    source, target = sorted(folder for folder in input_dir.iterdir() if folder.is_dir())[:2]
    with tempfile.TemporaryDirectory() as save_dir:
        given = ["--input_dir", source, "--save_dir", save_dir, "--class_A", source.name]
        log = judge.run(sample_ddib, *given, "--class_B", target.name, *setting)
    found = re.search(r"(\d+) images in .*, ([\d.]+) s, ([\d.]+) network evaluations each", log)
    return round(float(found[3])), float(found[2]) / int(found[1])


def read_notes(path: Path) -> dict[str, object]:
    """Return what a result records of how it was made."""
    with Image.open(path) as image:
        return json.loads(image.text["parameters"])
