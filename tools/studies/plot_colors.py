"""Draw the figure of the colour transfer: pictures, and their pixels as points in the cube of colours."""

import io
from pathlib import Path

import matplotlib
import torch
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from PIL import Image

from tools.parser import make_parser
from tools.studies.transfer_colors import RESPACE_STEPS, TRAIN_STEPS, to_points, transfer
from utils import codecs
from utils.files import write_atomically

FIGURE, FOLDER = Path("assets/ddib_colors.png"), Path("assets")
PAIRS = (
    ("scenes/day", "scenes/evening"),
    ("scenes/evening", "scenes/day"),
    ("fruits/lime/2", "fruits/orange/3"),
)
NUM_POINTS = 1500


def draw_pixels(axes: Axes, picture: Image.Image) -> None:
    """Draw some of a picture's pixels at their red, green and blue, in their own colours."""
    points = to_points(picture)
    points = points[torch.randperm(len(points), generator=torch.Generator().manual_seed(0))[:NUM_POINTS]]
    axes.scatter(*points.T.numpy(), s=2, c=(points / 2 + 0.5).numpy(), linewidths=0, depthshade=False)
    axes.set(xlim=(-1, 1), ylim=(-1, 1), zlim=(-1, 1), xticks=[], yticks=[], zticks=[])
    for axis, color in ((axes.xaxis, "red"), (axes.yaxis, "green"), (axes.zaxis, "blue")):
        axis.line.set_color(color)


def main() -> None:
    """Read the options, transfer and draw."""
    parser = make_parser(__doc__, __spec__)
    parser.add_argument("--figure", type=Path, default=FIGURE, help="PNG file to draw")
    path = parser.parse_args().figure
    matplotlib.use("Agg")
    figure = plt.figure(figsize=(9.6, 1.65 * len(PAIRS)))
    for row, names in enumerate(PAIRS):
        source, reference = (codecs.decode(FOLDER / f"{name}.png") for name in names)
        result = transfer(source, reference, TRAIN_STEPS, RESPACE_STEPS, seed=0)
        titled = {"source": source, "reference": reference, "result": result}
        for column, (title, picture) in enumerate(titled.items()):
            axes = figure.add_subplot(len(PAIRS), 6, 6 * row + 2 * column + 1)
            axes.imshow(picture)
            axes.axis("off")
            if row == 0:
                axes.set_title(title, fontsize=8, loc="left")
            draw_pixels(figure.add_subplot(len(PAIRS), 6, 6 * row + 2 * column + 2, projection="3d"), picture)
    figure.subplots_adjust(0.005, 0.02, 0.98, 0.93, 0.05, 0.08)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    write_atomically(path, drawn.getvalue())


if __name__ == "__main__":
    main()
