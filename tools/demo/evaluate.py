"""Judge the demo weights: are edited strokes and translated fruits the fruits that were meant?

Trains a classifier of its own on the training pictures, runs both commands as a user would, and prints
a table. Takes about 15 minutes on two cores.
"""

import argparse
import shutil
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import sample_sdedit
from tools.demo import fruits, judge, translations
from tools.parser import make_parser

NUM_SAMPLES = 8


def signature(x: Tensor) -> Tensor:
    """Crop pictures [N, 3, H, W] to what is not white and bring them to 24x24, flattened: [N, 1728]."""
    rows = []
    for image in x:
        ink = (image < 0.9).any(0)
        ys, xs = ink.any(1).nonzero().flatten(), ink.any(0).nonzero().flatten()
        if len(ys) and len(xs):
            image = image[:, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]
        rows.append(F.interpolate(image[None], (24, 24), mode="bilinear", antialias=True).flatten())
    return torch.stack(rows)


def nearest(queries: Tensor, pool: Tensor) -> tuple[Tensor, Tensor]:
    """Return the root mean square distance to the nearest row of `pool`, and its index."""
    distance, index = torch.cdist(queries, pool).min(1)
    return distance / queries.shape[1] ** 0.5, index


def judge_sdedit(
    judged: nn.Module, names: list[str], edit: list[str], labelled: bool, out: Path
) -> tuple[float, Tensor]:
    """Edit assets/strokes, 8 samples each; return the share of intended classes, and all pictures."""
    shares, pictures = [], []
    for index, name in enumerate(names):
        folder = out / "strokes" / name  # a folder a class, as a run has one label
        folder.mkdir(parents=True, exist_ok=True)
        for path in Path("assets/strokes").glob(f"{name}*.png"):
            shutil.copy(path, folder)
        results = out / "sdedit" / ("labelled" if labelled else "free") / name
        label = ["--class_label", name] if labelled else []
        given = ["--input_dir", folder, "--save_dir", results, "--samples", NUM_SAMPLES]
        judge.run(sample_sdedit, *given, *edit, *label)
        x = torch.stack(list(judge.read_pictures(results).values()))
        shares.append((judge.classify(judged, x) == index).double().view(-1, NUM_SAMPLES).mean(1))
        print(f"  {name}: {', '.join(f'{share:.0%}' for share in shares[-1].tolist())}", flush=True)
        pictures.append(x)
    return torch.cat(shares).mean().item(), torch.cat(pictures)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--save_dir", type=Path, default=Path("out/evaluate"), help="where pictures go")
    spaced = "--sampler ddpm --respace_type uniform --respace_steps 100"
    add("--edit", default=f"{spaced} --edit_steps 50", help="SDEdit setting to judge")
    add(
        "--labelled",
        default=f"{spaced} --edit_steps 65 --guidance_scale 4",
        help="SDEdit setting to judge with the class label",
    )
    add(
        "--translate",
        default="--solver heun --respace_type quad90 --respace_steps 50",
        help="DDIB setting to judge",
    )
    return parser


def judge_copies(found: dict[str, Tensor], images: Tensor) -> list[tuple[str, str]]:
    """Return rows of the table: how close results, by what made them, are to the training pictures."""
    pool = torch.cat([signature(images), signature(images.flip(3))])
    own = torch.cdist(signature(images[::12]), signature(images))
    own[own < 1e-3] = torch.inf
    near = (own.min(1).values / pool.shape[1] ** 0.5).median().item()
    rows = []
    for name, x in found.items():
        distance, _ = nearest(signature(x), pool)
        closer = (distance < near).double().mean()
        rows.append((f"{name}: median distance to the nearest training picture", f"{distance.median():.3f}"))
        rows.append((f"{name}: closer to one than neighbouring views are ({near:.3f})", f"{closer:.1%}"))
    return rows


def main() -> None:
    """Train the judge, run both commands, print the table."""
    args = build_parser().parse_args()
    judged, names, accuracy = judge.make_judge(args.data)
    print(f"judge: {accuracy:.1%} on held-out views", flush=True)
    sdedit, edited = judge_sdedit(judged, names, args.edit.split(), False, args.save_dir)
    labelled, edited_labelled = judge_sdedit(judged, names, args.labelled.split(), True, args.save_dir)
    folders = Path("assets/fruits"), args.save_dir / "ddib"
    ddib = translations.measure(judged, names, args.translate.split(), *folders)
    rows = [
        ("judge's accuracy on its own split", f"{accuracy:.1%}"),
        (f"SDEdit `{args.edit}`: intended class, {NUM_SAMPLES} samples", f"{sdedit:.1%}"),
        (f"SDEdit `{args.labelled}` with the label: likewise", f"{labelled:.1%}"),
        (f"DDIB `{args.translate}`, all ordered pairs: judged as class B", f"{ddib.share:.1%}"),
        ("DDIB A to A: largest RMSE on [-1, 1]", f"{ddib.same.max():.4f}"),
    ]
    found = {"SDEdit": edited, "SDEdit with the label": edited_labelled, "DDIB": ddib.pictures}
    rows += judge_copies(found, fruits.read(args.data).images)
    print("\n| measure | value |\n|---|---|", *(f"| {a} | {b} |" for a, b in rows), sep="\n")


if __name__ == "__main__":
    main()
