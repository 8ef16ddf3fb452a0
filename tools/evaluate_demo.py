"""Judge the demo weights: are edited strokes and translated fruits the fruits that were meant?

Trains a classifier of its own on the training pictures, runs both commands as a user would, and prints
a table. Takes about 15 minutes on two cores.
"""

import argparse
import contextlib
import io
import itertools
import os
import re
import shutil
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

import sample_ddib
import sample_sdedit
from tools.train_demo import augment, read_data

CONFIG, WEIGHTS = "configs/demo/fruits64.yaml", "weights/fruits64.safetensors"
NUM_SAMPLES = 8


def judge_network(num_classes: int) -> nn.Sequential:
    """A small convolutional classifier of 64x64 pictures."""
    widths = (3, 32, 64, 128, 192)
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Conv2d(a, b, 3, stride=2, padding=1), nn.BatchNorm2d(b), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(widths[-1], num_classes))


def held_out(sources: np.ndarray) -> Tensor:
    """Choose the judge's own test pictures: every sixth run of 20 neighbouring turntable views."""
    views = [int(re.search(r"(\d+)_\d+\.\w+$", source)[1]) for source in sources]
    return torch.tensor([view // 20 % 6 == 3 for view in views])


def train_judge(images: Tensor, labels: Tensor, test: Tensor, epochs: int = 12) -> tuple[nn.Module, float]:
    """Train on what is not held out; return the judge and its accuracy on what is."""
    torch.manual_seed(0)
    judge = judge_network(int(labels.max()) + 1).to(memory_format=torch.channels_last)
    x, y = images[~test], labels[~test]
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.01)
    steps = epochs * (len(x) // 64)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 3e-3, total_steps=steps)
    for _ in range(steps):
        index = torch.randint(len(x), (64,), generator=generator)
        batch = augment(x[index], 64, generator)
        batch = batch + 0.05 * torch.randn(batch.shape, generator=generator)
        loss = F.cross_entropy(judge(batch), y[index], label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judge.eval()
    shrunk = augment(images[test], 64, generator)
    return judge, (classify(judge, shrunk) == labels[test]).double().mean().item()


@torch.no_grad()
def classify(judge: nn.Module, x: Tensor) -> Tensor:
    """Return the class of each picture [B, 3, 64, 64]."""
    return torch.cat([judge(part).argmax(1) for part in x.split(256)])


def read_pictures(folder: Path) -> dict[str, Tensor]:
    """Read the pictures of a folder as [3, H, W] in [-1, 1], by stem, in order."""
    paths = sorted(folder.glob("*.png"))
    return {p.stem: torch.from_numpy(np.array(Image.open(p))).permute(2, 0, 1) / 127.5 - 1 for p in paths}


def run(command, *words: str) -> None:
    """Run a command of this project in this process, quietly."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        code = command.main(["-c", CONFIG, "--weights", WEIGHTS, "--micro_batch", "20", *map(str, words)])
    if code:
        raise SystemExit(log.getvalue())


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
    judge: nn.Module, names: list[str], edit: list[str], labelled: bool, out: Path
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
        run(
            sample_sdedit,
            "--input_dir",
            folder,
            "--save_dir",
            results,
            "--samples",
            NUM_SAMPLES,
            *edit,
            *label,
        )
        x = torch.stack(list(read_pictures(results).values()))
        shares.append((classify(judge, x) == index).double().view(-1, NUM_SAMPLES).mean(1))
        print(f"  {name}: {', '.join(f'{share:.0%}' for share in shares[-1].tolist())}", flush=True)
        pictures.append(x)
    return torch.cat(shares).mean().item(), torch.cat(pictures)


def judge_ddib(
    judge: nn.Module, names: list[str], translate: list[str], out: Path
) -> tuple[float, float, Tensor]:
    """Translate assets/fruits between all its classes.

    Returns:
        Share judged as class B over ordered pairs; worst A -> A root mean square error; all translations.
    """
    folders = sorted(folder for folder in Path("assets/fruits").iterdir() if folder.is_dir())
    hits, errors, pictures = [], [], []
    for source, target in itertools.product(folders, folders):
        folder = out / "ddib" / f"{source.name}-to-{target.name}"
        classes = ["--class_A", source.name, "--class_B", target.name]
        run(sample_ddib, "--input_dir", source, "--save_dir", folder, *classes, *translate)
        x = torch.stack(list(read_pictures(folder).values()))
        if source == target:
            error = (x - torch.stack(list(read_pictures(source).values()))).square().mean((1, 2, 3)).sqrt()
            errors += error.tolist()
            continue
        hit = classify(judge, x) == names.index(target.name)
        print(f"  {source.name} to {target.name}: {hit.double().mean():.0%}")
        hits.append(hit)
        pictures.append(x)
    print(f"  A to A RMSE: mean {np.mean(errors):.4f}, largest {max(errors):.4f}")
    return torch.cat(hits).double().mean().item(), max(errors), torch.cat(pictures)


def main() -> None:
    """Train the judge, run both commands, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    parser.add_argument("--save_dir", type=Path, default=Path("out/evaluate"), help="where pictures go")
    parser.add_argument(
        "--edit", default="--respace_steps 100 --edit_steps 50", help="SDEdit setting to judge"
    )
    parser.add_argument(
        "--labelled",
        default="--respace_steps 100 --edit_steps 65 --guidance_scale 4",
        help="SDEdit setting to judge with the class label",
    )
    parser.add_argument(
        "--translate",
        default="--solver heun --respace_type quad90 --respace_steps 50",
        help="DDIB setting to judge",
    )
    args = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    images, labels, names, sources = read_data(args.data)
    test = held_out(sources)
    judge, accuracy = train_judge(images, labels, test)
    print(f"judge: {accuracy:.1%} on {int(test.sum())} held-out views of {len(test)}", flush=True)
    sdedit, edited = judge_sdedit(judge, names, args.edit.split(), False, args.save_dir)
    labelled, edited_labelled = judge_sdedit(judge, names, args.labelled.split(), True, args.save_dir)
    ddib, error, translated = judge_ddib(judge, names, args.translate.split(), args.save_dir)
    pool = torch.cat([signature(images), signature(images.flip(3))])
    own = torch.cdist(signature(images[::12]), signature(images))
    own[own < 1e-3] = torch.inf
    near = (own.min(1).values / pool.shape[1] ** 0.5).median().item()
    rows = [("judge's accuracy on its own split", f"{accuracy:.1%}")]
    rows += [(f"SDEdit `{args.edit}`: intended class, {NUM_SAMPLES} samples", f"{sdedit:.1%}")]
    rows += [(f"SDEdit `{args.labelled}` with the label: likewise", f"{labelled:.1%}")]
    rows += [(f"DDIB `{args.translate}`, all ordered pairs: judged as class B", f"{ddib:.1%}")]
    rows += [("DDIB A to A: largest RMSE on [-1, 1]", f"{error:.4f}")]
    for name, x in (("SDEdit", edited), ("SDEdit with the label", edited_labelled), ("DDIB", translated)):
        distance, _ = nearest(signature(x), pool)
        rows += [
            (f"{name}: median distance to the nearest training picture", f"{distance.median():.3f}"),
            (
                f"{name}: closer to one than neighbouring views are ({near:.3f})",
                f"{(distance < near).double().mean():.1%}",
            ),
        ]
    print("\n| measure | value |\n|---|---|", *(f"| {a} | {b} |" for a, b in rows), sep="\n")


if __name__ == "__main__":
    main()
