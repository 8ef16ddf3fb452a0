"""Draw the stroke paintings of assets/strokes: flat, few colours, rough, as a person would with a mouse.

A file is named after the fruit that it means, so that tools/demo/evaluate.py can judge the result.
"""

import math
import random
from pathlib import Path

from PIL import Image, ImageDraw

from tools.parser import make_parser

RED, DARK_RED, CRIMSON, GREEN, LEAF = (
    (196, 40, 38),
    (104, 14, 28),
    (214, 44, 62),
    (158, 176, 88),
    (70, 110, 40),
)
YELLOW, GOLD, ORANGE, PEACH, BLUSH = (
    (206, 172, 40),
    (240, 186, 40),
    (232, 120, 24),
    (224, 150, 74),
    (196, 84, 48),
)
PEAR, LIME, AVOCADO, PLUM, MAGENTA = (
    (188, 176, 84),
    (134, 172, 80),
    (44, 56, 28),
    (58, 24, 36),
    (160, 50, 170),
)
BLUE, NAVY, KIWI, BROWN, TAN, STEM = (
    (32, 84, 146),
    (18, 44, 96),
    (148, 112, 66),
    (110, 74, 48),
    (196, 144, 70),
    (70, 50, 34),
)

# name: (width, height, shapes). Coordinates are fractions of the height, from the picture's centre.
# ("blob", colour, x, y, radius_x, radius_y, lean) or ("line", colour, thickness, x0, y0, x1, y1, ...)
PICTURES = {
    "red_apple": (
        128,
        128,
        [("blob", RED, 0, 0.03, 0.4, 0.38, 0), ("line", STEM, 0.04, 0, -0.3, 0.05, -0.44)],
    ),
    "red_apple_left": (
        160,
        120,
        [("blob", RED, -0.18, 0.1, 0.26, 0.25, 0), ("blob", DARK_RED, -0.3, 0.12, 0.06, 0.14, 0)],
    ),
    "green_apple": (
        256,
        256,
        [("blob", GREEN, 0, 0.02, 0.42, 0.4, 0), ("line", STEM, 0.035, 0, -0.25, 0.06, -0.44)],
    ),
    "banana": (192, 128, [("line", YELLOW, 0.17, -0.34, -0.02, -0.2, 0.14, 0, 0.18, 0.2, 0.1, 0.34, -0.08)]),
    "banana_small": (
        96,
        96,
        [
            ("line", YELLOW, 0.12, -0.3, 0.12, -0.1, 0.2, 0.1, 0.14, 0.26, -0.04),
            ("line", STEM, 0.05, 0.26, -0.04, 0.29, -0.12),
        ],
    ),
    "orange": (128, 128, [("blob", ORANGE, 0, 0, 0.42, 0.41, 0)]),
    "orange_corner": (200, 200, [("blob", ORANGE, 0.16, 0.17, 0.29, 0.28, 0)]),
    "lemon": (120, 160, [("blob", GOLD, 0, 0, 0.28, 0.36, 0.3)]),
    "lime": (128, 128, [("blob", LIME, 0, 0, 0.41, 0.39, 0), ("blob", LEAF, 0.12, 0.16, 0.16, 0.1, 0.4)]),
    "pear": (
        150,
        200,
        [
            ("blob", PEAR, 0, 0.14, 0.27, 0.27, 0),
            ("blob", PEAR, 0, -0.14, 0.14, 0.22, 0),
            ("line", STEM, 0.03, 0, -0.3, 0.04, -0.43),
        ],
    ),
    "peach": (128, 128, [("blob", PEACH, 0, 0, 0.42, 0.4, 0), ("blob", BLUSH, -0.16, 0.05, 0.2, 0.3, 0)]),
    "plum": (144, 144, [("blob", PLUM, 0, 0, 0.38, 0.4, 0)]),
    "cherry": (
        100,
        100,
        [("blob", CRIMSON, 0, 0.06, 0.4, 0.36, 0), ("line", STEM, 0.04, 0, -0.2, 0.04, -0.46)],
    ),
    "strawberry": (
        128,
        160,
        [
            ("blob", CRIMSON, 0, -0.06, 0.26, 0.2, 0),
            ("blob", CRIMSON, 0, 0.1, 0.17, 0.26, 0),
            ("line", LEAF, 0.07, -0.16, -0.26, 0, -0.22, 0.16, -0.26),
        ],
    ),
    "raspberry": (
        128,
        128,
        [("blob", MAGENTA, 0, 0, 0.38, 0.4, 0), ("blob", (110, 40, 150), 0.1, 0.16, 0.16, 0.14, 0)],
    ),
    "huckleberry": (
        180,
        140,
        [("blob", BLUE, 0, 0, 0.4, 0.38, 0), ("line", NAVY, 0.06, -0.12, -0.3, 0, -0.26, 0.12, -0.3)],
    ),
    "kiwi": (128, 96, [("blob", KIWI, 0, 0, 0.36, 0.42, 0)]),
    "pineapple": (
        160,
        160,
        [
            ("blob", BROWN, 0, 0, 0.36, 0.42, 0),
            *[("line", TAN, 0.03, x, -0.3, x + 0.12, 0.3) for x in (-0.22, -0.06, 0.1)],
        ],
    ),
    "avocado": (112, 144, [("blob", AVOCADO, 0, 0, 0.27, 0.37, 0.15)]),
    "avocado_right": (224, 160, [("blob", AVOCADO, 0.16, -0.08, 0.2, 0.28, -0.3)]),
}


def outline(shape: tuple, hand: random.Random) -> list[tuple[float, float]]:
    """Trace an ellipse as an unsteady hand does: radius_x, radius_y and lean in radians."""
    _, _, x, y, radius_x, radius_y, lean = shape
    points, wobble = [], [hand.uniform(-0.03, 0.03) for _ in range(12)]
    for i in range(72):
        angle, radius = 2 * math.pi * i / 72, 1 + wobble[i // 6]
        dx, dy = radius_x * radius * math.cos(angle), radius_y * radius * math.sin(angle)
        points.append(
            (x + dx * math.cos(lean) - dy * math.sin(lean), y + dx * math.sin(lean) + dy * math.cos(lean))
        )
    return points


def paint(name: str) -> Image.Image:
    """Paint one of PICTURES."""
    width, height, shapes = PICTURES[name]
    image = Image.new("RGB", (width, height), "white")
    draw, hand = ImageDraw.Draw(image), random.Random(name)

    def place(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(width / 2 + x * height, height / 2 + y * height) for x, y in points]

    for shape in shapes:
        if shape[0] == "blob":
            draw.polygon(place(outline(shape, hand)), fill=shape[1])
        else:
            _, colour, thickness, *flat = shape
            points = list(zip(flat[::2], flat[1::2], strict=True))
            draw.line(place(points), fill=colour, width=round(thickness * height), joint="curve")
            for x, y in place([points[0], points[-1]]):  # round ends
                r = thickness * height / 2
                draw.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return image


def main() -> None:
    """Write every picture."""
    parser = make_parser(__doc__, __spec__)
    parser.add_argument("--save_dir", type=Path, default=Path("assets/strokes"), help="folder to write to")
    save_dir = parser.parse_args().save_dir
    save_dir.mkdir(parents=True, exist_ok=True)
    for name in PICTURES:
        paint(name).save(save_dir / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
