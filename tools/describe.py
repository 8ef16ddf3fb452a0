"""Print the config of a checkpoint: what its tensors tell, and what they do not, with the usual choice.

For weights of your own: NAME.yaml, written by `python -m tools.describe FILE > NAME.yaml`, is complete
once the lines with comments have been checked. Nothing is printed that does not build a network of
exactly the file's tensors.
"""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

if not __package__:  # python tools/describe.py, in place of python -m tools.describe
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from torch import Tensor

from models import CONFIG_CLASSES, build_empty
from tools.convert import sections_of
from tools.description.fields import Fields, values
from tools.description.networks import NETWORKS, Shapes
from tools.description.process import TABLES, agree, process
from tools.description.text import render
from utils import command, exits
from utils.assemble import trained_alphas
from utils.config import Config, build_section, load_config
from utils.diffusion_config import MAX_TIMESTEPS, DiffusionConfig
from utils.quote import plain
from utils.weights import (
    CONFIGS,
    Checkpoint,
    Shelf,
    describe_mismatch,
    known_networks,
    open_checkpoint,
    read_config,
)


class Found(NamedTuple):
    """A network in a file, and the section of a config that has exactly its tensors."""

    family: str
    fields: Fields
    where: str
    """Wrappers and prefix that it lies under."""


def build_parser() -> command.StrictParser:
    """Return the command line."""
    parser = command.StrictParser(__doc__.splitlines()[0], example="python -m tools.describe model.pt")
    parser.add_argument("file", type=Path, metavar="FILE", help="file of weights, or folder of diffusers")
    parser.add_argument(
        "--image_size",
        type=int,
        metavar="N",
        help="pixels a side, which no tensor tells (default: the usual)",
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command.report_errors(parser):
        print(describe(args.file, args.image_size), end="")
    return exits.DONE


def describe(path: Path, image_size: int | None = None) -> str:
    """Return the config of a file or folder, as YAML.

    Args:
        path: Of the weights.
        image_size: Of the images that the network was trained with, None for the usual.

    Raises:
        ValueError: It is no checkpoint, or of no network or schedule of ours.
        OSError: It cannot be opened.
    """
    checkpoint, shelf = open_checkpoint(path), Shelf(CONFIG_CLASSES, build_empty)
    if path.is_dir():
        config = read_config(shelf.find(checkpoint), CONFIG_CLASSES)
        return render([f"{plain(path)}: as its config.json says."], sections_of(config), [])
    tables = read_tables(checkpoint)
    shipped = _shipped(shelf, checkpoint, image_size, tables)
    if shipped:
        return _say_shipped(path, shipped) + shipped[0].read_text(encoding="utf-8")
    try:
        found = find_network(shelf, checkpoint, image_size)
        return _render_own(path, found, tables)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_tables(checkpoint: Checkpoint) -> dict[str, Tensor]:
    """Return the buffers of a schedule that a file holds, the first of each name, [T]."""
    found: dict[str, Tensor] = {}
    for state in checkpoint.states:
        for key, stored in state.named.items():
            name = key.rpartition(".")[2]
            if name in TABLES and name not in found and len(stored.shape) == 1:
                if not 1 <= stored.shape[0] <= MAX_TIMESTEPS:
                    raise ValueError(f"{checkpoint.path}: {name}: allowed are 1 to {MAX_TIMESTEPS} timesteps")
                found[name] = stored.read()
    return found


def _shipped(
    shelf: Shelf, checkpoint: Checkpoint, image_size: int | None, tables: Mapping[str, Tensor]
) -> list[Path]:
    """Return the shipped configs of exactly these tensors, and not of another size or schedule."""
    paths = []
    for path in shelf.matching(checkpoint):
        config = load_config(path, CONFIG_CLASSES)
        if image_size in (None, config.model.image_size):
            paths += [path] if agree(tables, trained_alphas(config)) else []
    try:
        likely = shelf.find(checkpoint)
    except ValueError:  # they sample differently
        return paths
    return [path for path in paths if path == likely] or paths[:1]


def _say_shipped(path: Path, shipped: list[Path]) -> str:
    names = [found.relative_to(CONFIGS.parent).as_posix() for found in shipped]
    lines = [f"{plain(path)}: has exactly the tensors of {' and '.join(names)}; what follows is {names[0]}."]
    lines += ["They sample differently, and no tensor tells which is right."] if len(shipped) > 1 else []
    lines += ["Of weights of your own, change below diffusion what was otherwise in their training."]
    return "".join(f"# {line}\n" for line in lines)


def find_network(shelf: Shelf, checkpoint: Checkpoint, image_size: int | None) -> Found:
    """Find the section of a config that has exactly the tensors of a network in a file.

    Raises:
        ValueError: None has, or the network is a stranger; the message is without the file's name.
    """
    networks, problems = known_networks(checkpoint), []
    if not networks:
        raise ValueError(f"no config for these weights: {shelf.describe(checkpoint)}")
    for family, shapes in networks:
        for fields in _candidates(family, shapes, image_size):
            try:
                expected = shelf.shapes(build_section(CONFIG_CLASSES[family], values(fields)))
            except ValueError as error:
                problems.append([plain(error)])
                continue
            if places := checkpoint.fits(expected):
                return Found(family, fields, places[0].where)
            problems.append([line.strip() for line in describe_mismatch(shapes, expected)])
    said = "; ".join(min(problems, key=len)) if problems else "its tensors are too few or of another order"
    raise ValueError(f"of the family {networks[0][0]}, but no config of it has exactly these tensors: {said}")


def _candidates(family: str, shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    if family not in NETWORKS:
        raise ValueError(
            f"of the family {family}, whose config is not told by shapes; take the nearest in configs/"
        )
    try:
        yield from NETWORKS[family](shapes, image_size)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"of the family {family}, but incomplete: {plain(error)}") from None


def _render_own(path: Path, found: Found, tables: Mapping[str, Tensor]) -> str:
    """Write the config of a network that none is shipped of."""
    model = values(found.fields)
    learned = model["out_channels"] == 2 * model["in_channels"]
    diffusion = process(found.family, learned, tables)
    Config(  # what is printed is allowed
        model=build_section(CONFIG_CLASSES[found.family], model),
        diffusion=build_section(DiffusionConfig, values(diffusion)),
    )
    under = f", under {plain(found.where, 100)}" if found.where else ""
    head = [
        f"{plain(path)}{under}: a network of the family {found.family}.",
        "Lines without a comment are told by the file. Check the others: wrong ones make bad pictures.",
    ]
    sections = {"model": {"name": found.family, **found.fields}, "diffusion": diffusion}
    return render(head, sections, _classes(model.get("num_classes")))


def _classes(num_classes: int | None) -> list[str]:
    """Return what to add by hand for a network with classes."""
    if num_classes is None:
        return []
    return [
        f"classes: [NAME, ...]  # not told: names of the {num_classes} classes, by index",
        f"null_class: {num_classes - 1}  # not told: only where a label stood for no class, usually the last",
    ]


if __name__ == "__main__":
    sys.exit(main())
