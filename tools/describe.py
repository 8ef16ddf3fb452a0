"""Print the config of a checkpoint: what its tensors tell, and what they do not, with the usual choice.

For weights of your own: NAME.yaml, written by `python -m tools.describe FILE > NAME.yaml`, is complete
once the lines with comments have been checked. Nothing is printed that does not build a network of
exactly the file's tensors.
"""

import sys
from collections.abc import Iterator, Mapping
from math import isclose
from pathlib import Path
from typing import Any, NamedTuple

if not __package__:  # python tools/describe.py, in place of python -m tools.describe
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from torch import Tensor

from models import CONFIG_CLASSES, build_empty
from tools.convert import family_of, sections_of
from tools.description.fields import Fields, Guess, values
from tools.description.networks import NETWORKS
from tools.description.origin import Origin, Told
from tools.description.process import process
from tools.description.schedule import TABLES, agree, noise_ends, of_levels
from tools.description.shapes import Shapes
from tools.description.text import render
from utils import command, exits
from utils.config import Config, build_section, load_config
from utils.diffusion_config import MAX_TIMESTEPS, DiffusionConfig
from utils.quote import plain
from utils.sampling import read_trained, trained_alphas
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
    try:
        origin = Origin(checkpoint)
        tables = read_tables(checkpoint, origin)
        shipped = _shipped(shelf, checkpoint, image_size, tables, origin)
        if shipped:
            return _say_shipped(path, shipped) + shipped[0].read_text(encoding="utf-8")
        found = find_network(shelf, checkpoint, image_size, origin.image_size)
        return _render_own(shelf, checkpoint, found, tables, origin.tell(found.family, found.where))
    except ValueError as error:
        raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def read_tables(checkpoint: Checkpoint, origin: Origin) -> dict[str, Tensor]:
    """Return the buffers of a schedule that a file holds, the first of each name, [T]."""
    found: dict[str, Tensor] = {}
    for state in checkpoint.states:
        for key, stored in state.named.items():
            name = key.rpartition(".")[2]
            is_levels = name == "u" and origin.image_size is not None
            name = "alphas_cumprod" if is_levels else name
            if name in TABLES and name not in found and len(stored.shape) == 1:
                if not 1 <= stored.shape[0] - is_levels <= MAX_TIMESTEPS:
                    raise ValueError(f"{key}: allowed are 1 to {MAX_TIMESTEPS} timesteps")
                found[name] = of_levels(stored.read()) if is_levels else stored.read()
    return found


def _shipped(
    shelf: Shelf, checkpoint: Checkpoint, image_size: int | None, tables: Mapping[str, Tensor], origin: Origin
) -> list[Path]:
    """Return the shipped configs of exactly these tensors, and of no other size, process or heads."""
    paths = []
    for path in shelf.matching(checkpoint):
        config = load_config(path, CONFIG_CLASSES)
        if image_size in (None, config.model.image_size) and _agrees(config, tables):
            places = checkpoint.fits(shelf.shapes(config.model)) if origin.is_described else ()
            told = origin.tell(family_of(config), places[0].where) if places else Told()
            paths += [path] if _is_told(config, tables, told) else []
    try:
        likely = shelf.find(checkpoint)
    except ValueError:  # they sample differently
        return paths
    return [path for path in paths if path == likely] or paths[:1]


def _agrees(config: Config, tables: Mapping[str, Tensor]) -> bool:
    """Whether no table of a file contradicts a config."""
    ends, diffusion = noise_ends(tables), config.diffusion
    if diffusion.prediction == "score" and ends:
        own = (diffusion.sigma_min, diffusion.sigma_max)
        return all(isclose(a, b, rel_tol=1e-3) for a, b in zip(ends, own, strict=True))
    return agree(tables, trained_alphas(config))


def _is_told(config: Config, tables: Mapping[str, Tensor], told: Told) -> bool:
    """Whether a config is what a pickle tells of how its network was made, but for dropout."""
    if told.around is None or told.notes:
        return told.around is None
    section = process(family_of(config), vars(config.model), tables, told)
    around = {key: section.get(key) for key in ("process", "preconditioning")}
    around["process"] = around["process"] or "vp"
    pairs = [(field, getattr(config.model, key)) for key, field in told.fields.items() if key != "dropout"]
    pairs += [(field, getattr(config.diffusion, key)) for key, field in around.items()]
    return all(isinstance(field, Guess) or field in (own, _listed(own)) for field, own in pairs)


def _listed(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _say_shipped(path: Path, shipped: list[Path]) -> str:
    names = [found.relative_to(CONFIGS.parent).as_posix() for found in shipped]
    lines = [f"{plain(path)}: has exactly the tensors of {' and '.join(names)}; what follows is {names[0]}."]
    lines += ["They sample differently, and no tensor tells which is right."] if len(shipped) > 1 else []
    lines += ["Of weights of your own, change below diffusion what was otherwise in their training."]
    return "".join(f"# {line}\n" for line in lines)


def find_network(
    shelf: Shelf, checkpoint: Checkpoint, image_size: int | None, named_size: int | None = None
) -> Found:
    """Find the section of a config that has exactly the tensors of a network in a file.

    Args:
        shelf: Knows the tensors of every config.
        checkpoint: The file.
        image_size: Of the images that the network was trained with, None where not given.
        named_size: The same, where the keys of the file name it.

    Raises:
        ValueError: None has, or the network is a stranger; the message is without the file's name.
    """
    networks, problems = known_networks(checkpoint), []
    if not networks:
        raise ValueError(f"no config for these weights: {shelf.describe(checkpoint)}")
    for family, shapes in networks:
        for fields in _candidates(family, shapes, named_size or image_size):
            try:
                expected = shelf.shapes(build_section(CONFIG_CLASSES[family], values(fields)))
            except ValueError as error:
                problems.append([plain(error)])
                continue
            if places := checkpoint.fits(expected):
                _check_size(fields["image_size"], image_size)
                return Found(family, fields, places[0].where)
            problems.append([line.strip() for line in describe_mismatch(shapes, expected)])
    said = "; ".join(min(problems, key=len)) if problems else "its tensors are too few or of another order"
    raise ValueError(f"of the family {networks[0][0]}, but no config of it has exactly these tensors: {said}")


def _check_size(found: int | Guess, image_size: int | None) -> None:
    if image_size not in (None, found):
        raise ValueError(
            f"--image_size {image_size}: its tensors are of images of {found}; leave the option out"
        )


def _candidates(family: str, shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    if family not in NETWORKS:
        raise ValueError(
            f"of the family {family}, a network for points; configs and commands are of those for images"
        )
    try:
        yield from NETWORKS[family](shapes, image_size)
    except (KeyError, IndexError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f"of the family {family}, but incomplete: {plain(error)}") from None


def _render_own(
    shelf: Shelf, checkpoint: Checkpoint, found: Found, tables: Mapping[str, Tensor], told: Told
) -> str:
    """Write the config of a network that none is shipped of."""
    fields = told.complete(found.fields)
    diffusion = process(found.family, fields, tables, told)
    config = Config(  # what is printed is allowed
        model=build_section(CONFIG_CLASSES[found.family], values(fields)),
        diffusion=build_section(DiffusionConfig, values(diffusion)),
    )
    read_trained(config)
    if not checkpoint.fits(shelf.shapes(config.model)):
        raise ValueError(f"made as it says, a network of the family {found.family} has other tensors")
    under = f", under {plain(found.where, 100)}" if found.where else ""
    head = [
        f"{plain(checkpoint.path)}{under}: a network of the family {found.family}.",
        "Lines without a comment are told by the file. Check the others: wrong ones make bad pictures.",
        *told.notes,
    ]
    sections = {"model": {"name": found.family, **fields}, "diffusion": diffusion}
    return render(head, sections, _classes(config.model))


def _classes(model: Any) -> list[str]:
    """Return what to add by hand for a network with classes."""
    num_classes = getattr(model, "num_classes", None)
    if num_classes is None:
        return []
    names = f"classes: [NAME, ...]  # not told: names of the {num_classes} classes, by index"
    why = "not told: only where a label stood for no class, usually the last"
    null = f"null_class: {num_classes - 1}  # {why}"
    return [names] if getattr(model, "label_optional", False) else [names, null]


if __name__ == "__main__":
    sys.exit(main())
