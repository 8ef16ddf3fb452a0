"""Draw the two landscapes of assets/scenes, between which docs/DDIB.md exchanges the colours."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from tools.parser import make_parser

HEIGHT, WIDTH = 120, 160
Color = tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """What tells one landscape from the other; lists of colours run from far to near or from top down."""

    seed: int
    horizon: float
    """Share of the height that lies above the hills' feet."""
    sky: tuple[Color, ...]
    clouds: Color
    hills: tuple[Color, ...]
    ground: tuple[Color, ...]
    stretch: int
    """How many times wider than high the flecks of the ground are."""


SCENES = {
    "day": Scene(
        seed=3,
        horizon=0.6,
        sky=((58, 120, 196), (112, 172, 224), (196, 222, 238)),
        clouds=(250, 250, 250),
        hills=((112, 152, 184), (52, 96, 116)),
        ground=((132, 190, 210), (40, 120, 160), (12, 50, 88)),
        stretch=6,
    ),
    "evening": Scene(
        seed=8,
        horizon=0.68,
        sky=((52, 32, 84), (148, 58, 104), (234, 112, 70), (252, 200, 104)),
        clouds=(104, 44, 92),
        hills=((126, 62, 88), (58, 30, 56)),
        ground=((222, 130, 82), (120, 58, 84), (34, 22, 52)),
        stretch=12,
    ),
}


def fleck(height: int, width: int, generator: torch.Generator) -> np.ndarray:
    """Return smooth noise of some cells, brought to the picture's size; values about 0, shape [H, W]."""
    cells = torch.randn(1, 1, height, width, generator=generator)
    return F.interpolate(cells, size=(HEIGHT, WIDTH), mode="bicubic")[0, 0].numpy()


def blend(colors: tuple[Color, ...], place: np.ndarray) -> np.ndarray:
    """Mix colours along a line, the first at place 0 and the last at 1; shape of place, and 3."""
    stops = np.linspace(0, 1, len(colors))
    return np.stack([np.interp(place, stops, channel) for channel in zip(*colors, strict=True)], axis=-1)


def draw(scene: Scene) -> Image.Image:
    """Draw sky with clouds, two ridges of hills, and ground, all with some noise."""
    generator = torch.Generator().manual_seed(scene.seed)
    y = np.linspace(0, 1, HEIGHT)[:, None].repeat(WIDTH, axis=1)
    picture = blend(scene.sky, y / scene.horizon)
    clouds = fleck(7, 4, generator) + 0.5 * fleck(18, 10, generator)
    cover = np.clip(clouds - 0.4, 0, 0.8)[..., None]
    picture += cover * (np.array(scene.clouds) - picture)
    for i, color in enumerate(scene.hills):
        top = scene.horizon - 0.16 + 0.08 * i - 0.05 * fleck(1, 5 + 3 * i, generator)
        shade = 1 + 0.12 * fleck(30, 40, generator)[..., None]
        picture = np.where((y > top)[..., None], np.array(color) * shade, picture)
    near = (y - scene.horizon) / (1 - scene.horizon)
    flecks = fleck(60, 60 // scene.stretch, generator) + fleck(24, 24 // scene.stretch, generator)
    picture = np.where((near > 0)[..., None], blend(scene.ground, near + 0.12 * flecks), picture)
    picture += torch.randn(HEIGHT, WIDTH, 3, generator=generator).numpy()
    return Image.fromarray(picture.round().clip(0, 255).astype(np.uint8))


def main(argv: list[str] | None = None) -> None:
    """Read the options and draw."""
    parser = make_parser(__doc__, __spec__)
    parser.add_argument("--save_dir", type=Path, default=Path("assets/scenes"), help="folder for the two")
    save_dir = parser.parse_args(argv).save_dir
    save_dir.mkdir(parents=True, exist_ok=True)
    for name, scene in SCENES.items():
        draw(scene).save(save_dir / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
