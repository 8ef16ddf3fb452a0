"""A classifier of the demo's classes, trained apart from the demo network, to judge its results."""

import contextlib
import io
import itertools
import os
import re
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from tools.demo import fruits
from tools.parser import make_parser

CONFIG, WEIGHTS = "configs/demo/fruits64.yaml", "weights/fruits64.safetensors"


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


def augment(images: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Shrink pictures to 0.5 to 1 of the canvas, put them anywhere on it, flip half of them; white around.

    Args:
        images: In [-1, 1], shape [B, 3, H, H].
        size: Side of the canvas in pixels, at most H.
        generator: Source of all choices.

    Returns:
        Pictures in [-1, 1], shape [B, 3, size, size].
    """
    n = len(images)
    scale, flip, x, y = torch.rand((4, n), generator=generator)
    scale = 0.5 + 0.5 * scale
    affine = torch.zeros(n, 2, 3)
    affine[:, 0, 0] = torch.where(flip < 0.5, -1, 1) / scale
    affine[:, 1, 1] = 1 / scale
    affine[:, :, 2] = (2 * torch.stack([x, y], dim=1) - 1) * ((1 - scale) / scale)[:, None]
    if size != images.shape[-1]:
        images = F.interpolate(images, size=size, mode="area")
    grid = F.affine_grid(affine, [n, 3, size, size], align_corners=False)
    return F.grid_sample(images - 1, grid, align_corners=False) + 1  # outside the picture: 0, hence white


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


def make_judge(data: Path) -> tuple[nn.Module, list[str], float]:
    """Train the judge on the training pictures; return it, the names of its classes and its accuracy."""
    torch.set_num_threads(os.cpu_count() or 1)
    pictures = fruits.read(data)
    judge, accuracy = train_judge(pictures.images, pictures.labels, held_out(pictures.sources))
    return judge, list(pictures.names), accuracy


def run(command: ModuleType, *words: object) -> str:
    """Run a command of this project on the demo in this process, quietly; return what it reported."""
    with contextlib.redirect_stderr(io.StringIO()) as log:
        code = command.main(["-c", CONFIG, "--weights", WEIGHTS, "--micro_batch", "20", *map(str, words)])
    if code:
        raise SystemExit(log.getvalue())
    return log.getvalue()


def main() -> None:
    """Train the judge and save it, for `tools.evaluate --features`."""
    parser = make_parser(__doc__, __spec__)
    parser.add_argument("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    parser.add_argument("--save", type=Path, required=True, help="file for it, .safetensors")
    args = parser.parse_args()
    judge, names, accuracy = make_judge(args.data)
    save_file({key: value.contiguous() for key, value in judge.state_dict().items()}, args.save)
    print(f"{len(names)} classes, {accuracy:.1%} on held-out views: {args.save}")


if __name__ == "__main__":
    main()
