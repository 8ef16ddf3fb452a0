"""Run published networks on the noise for which their owners published numbers, and say how far they are.

Ten networks of google/* have 30 numbers each, from the tests of diffusers (tools/data/published.json).
"""

import json
import sys
from pathlib import Path

if not __package__:  # python tools/check_published.py, in place of python -m tools.check_published
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch
from torch import Tensor

from models import CONFIG_CLASSES, build_empty
from models.precision import cast_network
from utils import command, exits
from utils.quote import plain
from utils.sources import parse
from utils.weights import Shelf, load_weights, open_checkpoint, read_config

PUBLISHED = Path(__file__).resolve().parent / "data" / "published.json"
TOLERANCE = 1e-3
"""That of the tests that the numbers are from; they have four decimals."""
_TOLD = 10
"""Timestep, or sigma of a network that is told sigma."""


def read_published() -> dict[str, list[float]]:
    """Return the numbers of each network, by name."""
    return json.loads(PUBLISHED.read_text())["values"]


def build_parser() -> command.StrictParser:
    """Return the command line."""
    parser = command.StrictParser(__doc__.splitlines()[0])
    say = "published names, or folders on disk that are called like one (default: all, which fetches them)"
    parser.add_argument("networks", nargs="*", metavar="NAME", help=say)
    parser.add_argument(
        "--weights_dir", type=Path, help="folder of downloaded files (default: the hub's cache)"
    )
    return parser


def main(argv: list[str] | None = None) -> int:
    """Check networks one by one; return 0 if all give the published numbers, else 3."""
    parser = build_parser()
    args = parser.parse_args(argv)
    with command.report_errors(parser):
        published = read_published()
        named = {word: find(word, published) for word in args.networks or published}
        far = 0
        for word, name in named.items():
            error = (first_row(word, args.weights_dir) - torch.tensor(published[name])).abs().max().item()
            far += not error <= TOLERANCE
            print(
                f"{word}: at most {error:.1e} from the {len(published[name])} numbers of {name}", flush=True
            )
    print(f"{len(named) - far} of {len(named)} networks within {TOLERANCE:g}")
    return exits.SOME_FAILED if far else exits.DONE


def find(word: str, published: dict[str, list[float]]) -> str:
    """Return the name whose numbers a network must give.

    Raises:
        ValueError: None is known.
    """
    tail = Path(word).name
    found = [name for name in published if name == word or Path(name).name == tail]
    if not found:
        raise ValueError(f"{plain(word)}: no numbers are known of it, but of {', '.join(published)}")
    return found[0]


def first_row(word: str, weights_dir: Path | None) -> Tensor:
    """Return the first 30 numbers that a network gives for the noise of seed 0.

    Raises:
        ValueError: It cannot be had or read.
    """
    shelf = Shelf(CONFIG_CLASSES, build_empty)
    config_path, weights = parse(word, weights_dir).settle(
        None, lambda path, hint: shelf.find(open_checkpoint(path), hint)
    )
    model = read_config(config_path, CONFIG_CLASSES).model
    network = build_empty(model)
    state = load_weights(weights, shelf.shapes(model), shelf.describe)
    network.load_state_dict(state, strict=True, assign=True)
    noise = torch.randn(1, 3, model.image_size, model.image_size, generator=torch.manual_seed(0))
    with torch.inference_mode():
        return cast_network(network, torch.float32)(noise, torch.tensor([_TOLD]))[0, 0, 0, :30]


if __name__ == "__main__":
    sys.exit(main())
