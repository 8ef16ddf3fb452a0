"""Measure methods of editing on one footing: realism against faithfulness, at equal calls of the network.

`strokes`: paintings become fruits. Realism is the share of results that a classifier takes for what the
painting means, and KID between its features of the results and of real views; faithfulness is the root
mean square difference from the painting, as a whole and of both at 8x8 (where colours lie). The tint is how
far the white frame is from white. `classes`: real views of a fruit become another; what is to stay is what it
shares with the result, its outline: the difference of the edges of what is not white. `masks`: half of a view
is painted anew; neighbours are to differ across the edge as they do beside it (the seam is what they differ
more), and the class is to stay.

Each point is written to SAVE_DIR as it is found, and read from there by the next call.
"""

import argparse
import json
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffusions import distance
from tools.demo import fruits, judge
from tools.evaluation.distances import kid
from tools.parser import make_parser
from tools.studies import edit_methods
from tools.studies.compare_samplers import read_guides
from utils import jobs, sampling
from utils.jobs import ImageNoise

CLASSES = ("red_apple", "lemon", "lime", "orange", "pear", "strawberry")
BATCH = 40
FRAME = torch.zeros(64, 64, dtype=torch.bool)
FRAME[[0, 1, -2, -1]] = FRAME[:, [0, 1, -2, -1]] = True


Setting = tuple[str, int, float, float]
"""Method, calls, scale of guidance, t0."""


class Case(NamedTuple):
    """What is edited."""

    pictures: Tensor
    """[N, 3, 64, 64] on [-1, 1]."""
    names: list[str]
    """On which their noise depends."""
    sources: Tensor
    """Class of each, [N]."""
    targets: Tensor
    """Class that its result is to have, [N]."""
    masks: Tensor | None = None
    """What may change, [N, 1, 64, 64]; None for everything."""


class Bench(NamedTuple):
    """What measures."""

    network: sampling.Network
    judged: nn.Module
    real: Tensor
    """Features of real views."""
    save_dir: Path


def stroke_case(names: tuple[str, ...], seeds: int) -> Case:
    """Return the paintings, each `seeds` times."""
    files = sorted(path.name for path in Path("assets/strokes").glob("*.png"))
    meant = [max((name for name in names if file.startswith(name)), key=len) for file in files]
    pictures = read_guides(Path("assets/strokes"), files, 64).repeat(seeds, 1, 1, 1)
    labels = torch.tensor([names.index(name) for name in meant]).repeat(seeds)
    return Case(pictures, [f"{file}/{i}" for i in range(seeds) for file in files], labels, labels)


def class_case(pictures: fruits.Fruits, views: int) -> Case:
    """Return held-out views of six classes, each to become each other one."""
    chosen, sources, targets, names = [], [], [], []
    labels = [pictures.names.index(name) for name in CLASSES]
    for source in labels:
        own = (pictures.labels == source).nonzero().flatten()
        own = own[torch.linspace(0, len(own) - 1, views).round().long()]
        shrunk = shrink(pictures.images[own], source)
        for target in labels:
            if target != source:
                chosen.append(shrunk)
                sources += [source] * views
                targets += [target] * views
                names += [f"{source}_{target}_{i}" for i in range(views)]
    return Case(torch.cat(chosen), names, torch.tensor(sources), torch.tensor(targets))


def mask_case(pictures: fruits.Fruits, count: int) -> Case:
    """Return held-out views of which half is taken away: upper, lower, left or right."""
    chosen = pictures.part(np.linspace(0, len(pictures.images) - 1, count).round().astype(int))
    shrunk, masks = shrink(chosen.images, 2), torch.zeros(count, 1, 64, 64)
    for i, mask in enumerate(masks):
        half = slice(0, 32) if i % 2 else slice(32, 64)
        mask[:, half if i % 4 < 2 else slice(None), slice(None) if i % 4 < 2 else half] = 1
    white = torch.where(masks > 0, 1.0, shrunk)
    return Case(white, [f"half_{i}" for i in range(count)], chosen.labels, chosen.labels, masks)


def seams(x: Tensor, masks: Tensor) -> Tensor:
    """Return how much more neighbours differ across the edges of masks than beside them, [N]."""
    found = []
    for dim in (2, 3):
        length = x.shape[dim] - 1
        step = (x.narrow(dim, 1, length) - x.narrow(dim, 0, length)).abs().mean(1, keepdim=True)
        edge = (masks.narrow(dim, 1, length) - masks.narrow(dim, 0, length)).abs()
        near = F.max_pool2d(edge, 7, 1, 3) - edge  # the three neighbours on each side
        sums = [(step * part).sum((1, 2, 3)) for part in (edge, near)]
        found.append([*sums, edge.sum((1, 2, 3)), near.sum((1, 2, 3))])
    across, beside, num_across, num_beside = (sum(parts) for parts in zip(*found, strict=True))
    return across / num_across - beside / num_beside


def shrink(images: Tensor, seed: int) -> Tensor:
    """Put pictures on white as the network knows them, of any size and anywhere."""
    return fruits.augment(images, 64, torch.Generator().manual_seed(seed), change=False)[0]


def outline(x: Tensor) -> Tensor:
    """Return how strongly what is not white ends at each pixel of pictures [N, 3, H, W]: [N, 1, H, W]."""
    ink = ((1 - x.amin(1, keepdim=True)) * 4).clamp(0, 1)
    dy, dx = ink[..., 1:, :-1] - ink[..., :-1, :-1], ink[..., :-1, 1:] - ink[..., :-1, :-1]
    return F.pad((dx.square() + dy.square()).sqrt(), (0, 1, 0, 1))


def measure(bench: Bench, case: Case, results: Tensor) -> dict[str, tuple[float, float]]:
    """Return each number with its standard error."""
    small = [F.avg_pool2d(x, 8) for x in (results, case.pictures)]
    found = {
        "reached": (judge.classify(bench.judged, results) == case.targets).double(),
        "l2": distance(results, case.pictures),
        "layout": distance(*small),
        "tint": (1 - results[:, :, FRAME]).abs().mean(2).amax(1),
        "outline": distance(outline(results), outline(case.pictures)),
    }
    if case.masks is not None:
        found["seam"] = seams(results, case.masks)
    values = {key: x.double() for key, x in found.items()}
    rows = {key: (x.mean().item(), x.std().item() / len(x) ** 0.5) for key, x in values.items()}
    rows["kid"] = kid(features(bench.judged, results), bench.real)
    return rows


@torch.inference_mode()
def features(judged: nn.Module, x: Tensor) -> Tensor:
    """Return what the classifier sees before it decides, [N, D]."""
    return torch.cat([judged[:-1](part) for part in x.split(256)])


@torch.inference_mode()
def edit_all(bench: Bench, case: Case, method: Callable, t0: float, calls: int, scale: float) -> Tensor:
    """Edit everything, in batches of pictures that are told classes of their own."""
    trained = bench.network.trained
    results = []
    for index in torch.arange(len(case.pictures)).split(BATCH):
        pictures, names = case.pictures[index], [case.names[i] for i in index]
        noise = ImageNoise(0, [(name, 0) for name in names], pictures.shape[1:], pictures.device)
        task = edit_methods.Task(
            *(bench.network, trained, pictures, case.sources[index], case.targets[index], noise),
            *(None if case.masks is None else case.masks[index], t0, calls, scale),
        )
        results.append(method(task).clamp(-1, 1))
    return torch.cat(results)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("task", choices=("strokes", "classes", "masks"), help="what is edited")
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--config", type=Path, default=Path("configs/demo/fruits64.yaml"), help="network")
    add("--weights", type=Path, default=Path("weights/fruits64.safetensors"), help="its weights")
    add("--save_dir", type=Path, default=Path("out/compare_edits"), help="where points are kept")
    add("--methods", nargs="+", required=True, help=f"of {', '.join(edit_methods.METHODS)}")
    add("--t0", nargs="+", type=float, default=[0.3, 0.4, 0.5, 0.6, 0.7], help="where edits start")
    add("--calls", nargs="+", type=int, default=[20], help="network evaluations of each edit")
    add("--scale", nargs="+", type=float, default=[1.0], help="guidance towards the class")
    add(
        "--seeds",
        type=int,
        default=10,
        help="edits of each painting, views of each pair of classes, or halves",
    )
    add("--plot", type=Path, help="also draw the points, needs matplotlib")
    return parser


def make_bench(args: argparse.Namespace) -> tuple[Bench, Case]:
    """Load the network, train the classifier or read it from SAVE_DIR, and choose what is edited."""
    place = jobs.start(cpu=True, precision="fp32")
    network = sampling.load_network(sampling.read_config(args.config), args.weights, place)
    pictures = fruits.read(args.data)
    apart = fruits.held_out(pictures.sources)
    cache, judged = args.save_dir / "judge.safetensors", judge.judge_network(len(pictures.names))
    if not cache.exists():
        trained, accuracy = judge.train_judge(pictures.images, pictures.labels, torch.from_numpy(apart))
        print(f"judge: {accuracy:.1%} on views that it never saw", flush=True)
        save_file({key: value.contiguous() for key, value in trained.state_dict().items()}, cache)
    judged.load_state_dict(load_file(cache))
    judged.eval()
    views = pictures.part(apart)
    make = {"strokes": partial(stroke_case, pictures.names), "classes": partial(class_case, views)}
    case = (make | {"masks": partial(mask_case, views)})[args.task](args.seeds)
    real = views.part(torch.isin(views.labels, case.targets).numpy())
    return Bench(network, judged, features(judged, shrink(real.images, 1)), args.save_dir), case


def find_point(bench: Bench, case: Case, task: str, setting: Setting) -> dict[str, list[float]]:
    """Return each number of a point with its error, from SAVE_DIR or measured."""
    name, calls, scale, t0 = setting
    path = bench.save_dir / f"{task}_{name}_{t0}_{calls}_{scale:g}_{len(case.pictures)}.json"
    if not path.exists():
        results = edit_all(bench, case, edit_methods.find(name), t0, calls, scale)
        path.write_text(json.dumps(measure(bench, case, results)))
    return json.loads(path.read_text())


def plot(found: dict[Setting, dict[str, list[float]]], target: Path) -> None:
    """Draw how often the class is reached over the difference from the picture, a line a method."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    for name in dict.fromkeys(setting[0] for setting in found):
        rows = [point for setting, point in found.items() if setting[0] == name]
        (x, dx), (y, dy) = (zip(*[row[key] for row in rows], strict=True) for key in ("l2", "reached"))
        axes.errorbar(x, y, dy, dx, marker="o", label=name)
    axes.set(xlabel="root mean square difference from the picture", ylabel="class reached")
    axes.legend()
    figure.savefig(target)


def main() -> None:
    """Read the options, measure what is missing, print the table."""
    args = build_parser().parse_args()
    args.save_dir.mkdir(parents=True, exist_ok=True)
    bench, case = make_bench(args)
    columns = ["reached", "l2", "layout", "tint", "outline"]
    columns += ["seam", "kid"] if args.task == "masks" else ["kid"]
    print(f"| {' | '.join(['method', 'calls', 'scale', 't0', *columns])} |\n|" + "---|" * (4 + len(columns)))
    found = {}
    for setting in product(args.methods, args.calls, args.scale, args.t0):
        found[setting] = point = find_point(bench, case, args.task, setting)
        numbers = [f"{value:.4f} ± {error:.4f}" for value, error in (point[key] for key in columns)]
        print(f"| {' | '.join(map(str, setting))} | {' | '.join(numbers)} |", flush=True)
    if args.plot:
        plot(found, args.plot)


if __name__ == "__main__":
    main()
