"""Compare settings of sample_ddib.py on the demo: class reached, error from A to A, error there and back.

Each setting translates the pictures of all classes to all classes, as a user would; a classifier of its own
judges the results. A setting with 200 calls takes about 12 minutes on two cores, mostly for the ways back.
"""

import argparse
import json
import re
import tempfile
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

import sample_ddib
from tools import judge

SETTINGS = [
    "--respace_type uniform --inversion source",
    "--respace_type quad90 --inversion source",
    "--respace_type quad90",
    "--respace_type quad90 --inversion fixed_point",
    "--respace_type quad90 --respace_steps 50 --solver heun",
    "--respace_type quad90 --solver exact",
    "--respace_type quad90 --solver cycle-diffusion",
    "--respace_type quad90 --respace_steps 50 --solver heun --guidance_scale 2",
    "--respace_type quad90 --respace_steps 50 --solver heun --guidance_scale 3",
]


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


def main() -> None:
    """Train the judge, measure every setting, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("settings", nargs="*", default=SETTINGS, help="options of sample_ddib.py, a setting in quotes each")
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--input_dir", type=Path, default=Path("assets/fruits"), help="a folder of pictures for each class")
    add("--save_dir", type=Path, default=Path("out/compare_translations"), help="where pictures go")
    args = parser.parse_args()
    judged, names, _ = judge.load_judge(args.data)
    print("| setting | calls | seconds | class B | A to A: mean | largest | there and back: mean | largest |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for setting in args.settings:
        row = measure(
            judged, names, setting.split(), args.input_dir, args.save_dir / setting.replace(" ", "_")
        )
        errors = " | ".join(f"{e.mean():.4f} | {e.max():.4f}" for e in (row.same, row.cycle))
        print(f"| `{setting}` | {row.calls} | {row.seconds:.2f} | {row.share:.1%} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
