"""Translate points between the six 2-D domains by DDIB: a figure, and tables of what was measured."""

import io
import textwrap
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib import colors
from matplotlib import pyplot as plt
from PIL import Image
from torch import Generator, Tensor

from diffusions import decode, encode
from diffusions.process import Model, Process
from tools.parser import make_parser
from tools.studies.domains_2d import DOMAINS
from tools.studies.points import SAMPLERS, points_process
from tools.studies.train_2d import WEIGHTS, load_networks
from utils.files import write_atomically

FIGURE = Path("assets/ddib_2d.png")
NEAR = 0.05
"""Distance within which a point counts as being in a domain."""


class Translations:
    """All translations between some domains, and back."""

    @torch.inference_mode()
    def __init__(self, process: Process, networks: dict[str, Model], points: dict[str, Tensor]):
        """Encode every domain, decode each latent as every domain, and bring it back the same way.

        Args:
            process: That encodes and decodes.
            networks: Of each domain.
            points: Of each domain, all of shape [N, 2].
        """
        self.points = points
        self.latents = {name: encode(process, networks[name], x) for name, x in points.items()}
        count, latents = len(next(iter(points.values()))), torch.cat(list(self.latents.values()))
        self.results: dict[str, dict[str, Tensor]] = {name: {} for name in points}
        """Of each source, what became of its points in each target."""
        back: dict[str, list[Tensor]] = {name: [] for name in points}
        for target, network in networks.items():
            translated = decode(process, network, latents)
            returned = encode(process, network, translated)
            for i, source in enumerate(points):
                part = slice(i * count, (i + 1) * count)
                self.results[source][target] = translated[part]
                back[source].append(returned[part])
        self.cycles: dict[str, dict[str, Tensor]] = {}
        """Of each source, its points after the way to each target and back."""
        for source, network in networks.items():
            returned = decode(process, network, torch.cat(back[source])).split(count)
            self.cycles[source] = dict(zip(networks, returned, strict=True))

    def cycle_distances(self, source: str, target: str) -> Tensor:
        """Return how far each point is from where it set out, shape [N]."""
        return (self.cycles[source][target] - self.points[source]).norm(dim=1)


def nearest_distance(points: Tensor, others: Tensor) -> Tensor:
    """Return the distance of each point to the nearest of others, shape [N]."""
    return torch.cat([torch.cdist(part, others).amin(dim=1) for part in points.split(500)])


def table(names: list[str], cells: dict[str, dict[str, str]]) -> str:
    """Write a Markdown table, a row a source and a column a target."""
    titles = [name.replace("_", " ") for name in names]
    lines = ["| from \\ to | " + " | ".join(titles) + " |", "|---" * (len(names) + 1) + "|"]
    for name, title in zip(names, titles, strict=True):
        lines.append(f"| {title} | " + " | ".join(cells[name][target] for target in names) + " |")
    return "\n".join(lines)


def place_colors(points: Tensor) -> np.ndarray:
    """Colour points by their place: hue around the origin, paler towards it; RGB, shape [N, 3]."""
    x, y = points.T.numpy()
    hue, radius = np.arctan2(y, x) / (2 * np.pi) % 1, np.hypot(x, y)
    saturation = np.clip(0.25 + 0.75 * radius / 1.5, 0, 1)
    return colors.hsv_to_rgb(np.stack([hue, saturation, np.full_like(hue, 0.85)], axis=1))


def draw(translations: Translations, path: Path, num_points: int) -> None:
    """Draw a row a source: its points, their latents and translations, all in the colours of the points."""
    names = list(translations.points)
    figure, rows = plt.subplots(
        len(names), len(names) + 2, figsize=(1.4 * (len(names) + 2), 1.45 * len(names)), squeeze=False
    )
    for name, row in zip(names, rows, strict=True):
        panels = {"source": translations.points[name], "latent": translations.latents[name]}
        panels |= {f"to {target.replace('_', ' ')}": x for target, x in translations.results[name].items()}
        place = place_colors(translations.points[name][:num_points])
        for (title, x), axes in zip(panels.items(), row, strict=True):
            axes.scatter(*x[:num_points].T.numpy(), s=1.2, c=place, linewidths=0)
            side = 3.3 if title == "latent" else 2.6
            axes.set(xlim=(-side, side), ylim=(-side, side), aspect="equal", xticks=[], yticks=[])
            if name == names[0]:
                axes.set_title(textwrap.fill(title, 14), fontsize=8)
    figure.subplots_adjust(0.003, 0.003, 0.997, 0.93, 0.03, 0.03)
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=110)
    plt.close(figure)
    few = Image.open(drawn).convert("RGB").quantize(128, dither=Image.Dither.NONE)  # a third of the bytes
    data = io.BytesIO()
    few.save(data, "PNG", optimize=True)
    write_atomically(path, data.getvalue())


def main(argv: list[str] | None = None) -> None:
    """Read the options, translate, measure and draw."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--weights", type=Path, default=WEIGHTS, help="what tools.studies.train_2d wrote")
    add("--figure", type=Path, default=FIGURE, help="PNG file to draw")
    add("--points", type=int, default=2000, help="points of each domain")
    add("--sampler", choices=SAMPLERS, default="heun", help="heun calls the network twice a step, ddim once")
    add("--respace_steps", type=int, default=50, help="steps each way")
    add("--seed", type=int, default=1, help="of the points")
    args = parser.parse_args(argv)
    try:
        process = points_process(args.respace_steps, args.sampler)
    except ValueError as error:
        parser.error(str(error))
    matplotlib.use("Agg")
    networks, generator = load_networks(args.weights), Generator().manual_seed(args.seed)
    points = {name: domain.sample(args.points, generator) for name, domain in DOMAINS.items()}
    translations = Translations(process, networks, points)
    names = list(DOMAINS)
    cycle_distances = {a: {b: translations.cycle_distances(a, b) for b in names} for a in names}
    cycles, inside = {}, {}
    fresh = {name: domain.sample(20000, generator) for name, domain in DOMAINS.items()}
    for source in names:
        cycles[source] = {b: f"{d.mean():.4f}, {d.max():.3f}" for b, d in cycle_distances[source].items()}
        near = {
            target: (nearest_distance(translations.results[source][target], fresh[target]) < NEAR)
            for target in names
        }
        inside[source] = {target: f"{100 * part.float().mean():.1f} %" for target, part in near.items()}
    print(f"There and back, distance from the start: mean, largest of {args.points} points\n")
    print(table(names, cycles))
    others = torch.cat([cycle_distances[a][b] for a in names for b in names if a != b])
    print(f"\nOver the pairs of different domains: mean {others.mean():.4f}, largest {others.max():.3f}")
    print(f"\nTranslated points within {NEAR} of the target domain\n")
    print(table(names, inside))
    draw(translations, args.figure, num_points=1500)


if __name__ == "__main__":
    main()
