"""Give one picture the colours of another by DDIB, with two networks trained on the pixels of the two."""

from pathlib import Path

import torch
from PIL import Image
from torch import Generator, Tensor

from diffusions import translate
from diffusions.process import Model
from models.point_mlp import PointMLP, PointMLPConfig
from tools.parser import make_parser
from tools.studies.points import points_process, train_network
from utils import codecs, settings
from utils.files import write_atomically

CONFIG = PointMLPConfig(in_channels=3, out_channels=3)
TRAIN_STEPS, RESPACE_STEPS = 4000, 25
CHUNK = 8192
"""Colours that a network sees at once."""
MODEL = "two networks trained on the colours of two pictures"
"""What the mark of a result calls it."""


def to_points(image: Image.Image) -> Tensor:
    """Return the colours of an image's pixels, RGB in [-1, 1], shape [H W, 3]."""
    return codecs.to_tensor(image, 3).flatten(1).T


def train_on_colors(points: Tensor, num_steps: int, seed: int) -> PointMLP:
    """Train a network on pixels drawn at random, each spread evenly over its step of the 256.

    Args:
        points: Colours, shape [N, 3].
        num_steps: Steps of the optimizer.
        seed: Of weights and draws.
    """

    def draw(count: int, generator: Generator) -> Tensor:
        index = torch.randint(len(points), (count,), generator=generator)
        return points[index] + (torch.rand(count, 3, generator=generator) - 0.5) / 127.5

    return train_network(draw, CONFIG, num_steps, seed=seed)[0]


@torch.inference_mode()
def translate_colors(points: Tensor, source: Model, reference: Model, num_steps: int) -> Tensor:
    """Translate colours by DDIB, each different one once.

    Args:
        points: Colours, shape [N, 3].
        source: Network of their picture.
        reference: Network of the picture with the wanted colours.
        num_steps: Steps of Heun's method.

    Returns:
        Colours, shape [N, 3], clamped to [-1, 1].
    """
    process = points_process(num_steps)
    different, index = points.unique(dim=0, return_inverse=True)
    parts = [translate(process, source, reference, part) for part in different.split(CHUNK)]
    return torch.cat(parts).clamp(-1, 1)[index]


def transfer(
    source: Image.Image, reference: Image.Image, train_steps: int, respace_steps: int, seed: int
) -> Image.Image:
    """Give one picture the colours of another.

    Args:
        source: Picture to change.
        reference: Picture with the wanted colours.
        train_steps: Steps of the optimizer, for each of the two networks.
        respace_steps: Steps of Heun's method, each way.
        seed: Of the training.

    Returns:
        Picture of the source's size.
    """
    points = to_points(source)
    networks = [train_on_colors(part, train_steps, seed) for part in (points, to_points(reference))]
    colors = translate_colors(points, *networks, respace_steps)
    return codecs.to_image(colors.T.unflatten(1, (source.height, source.width)))


def main(argv: list[str] | None = None) -> None:
    """Read the options and transfer."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("source", type=Path, help="picture that is to have other colours")
    add("reference", type=Path, help="picture that has them")
    add("result", type=Path, help="PNG file to write, of the source's size")
    add("--train_steps", type=int, default=TRAIN_STEPS, help="of each optimizer, on 512 pixels each")
    add("--respace_steps", type=int, default=RESPACE_STEPS, help="of Heun's method, two network calls each")
    add("--seed", type=int, default=0, help="of the training; DDIB itself draws no noise")
    args = parser.parse_args(argv)
    if args.train_steps < 1:
        parser.error(f"--train_steps {args.train_steps}: at least 1")
    pictures = []
    for path in (args.source, args.reference):
        try:
            pictures.append(codecs.decode(path))
        except ValueError as error:
            parser.error(f"{path}: {error}")
    result = transfer(*pictures, args.train_steps, args.respace_steps, args.seed)
    mark = codecs.make_mark(settings.PROGRAM, MODEL)
    write_atomically(args.result, codecs.encode_png(result, {}, mark))


if __name__ == "__main__":
    main()
