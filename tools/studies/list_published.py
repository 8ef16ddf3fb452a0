"""Print the table of published weights that docs/weights.md opens with."""

import re
from collections.abc import Iterator

from models import CONFIG_CLASSES, build_empty
from tools.parser import make_parser
from utils.config import count_classes, load_config
from utils.sources import Entry, read_registry
from utils.weights import Shelf

_HEAD = "| `--weights` | makes | size | classes | parameters | licence |\n|---|---|---|---|---|---|"


def rows() -> Iterator[str]:
    """Yield the head of the table, and a row for each published network."""
    yield _HEAD
    shelf = Shelf(CONFIG_CLASSES, build_empty)
    for entry in read_registry().values():
        yield "| " + " | ".join([f"`{entry.name}`", *_facts(entry, shelf), entry.licence]) + " |"


def _facts(entry: Entry, shelf: Shelf) -> list[str]:
    """Return what an entry's network makes, its size, classes and parameters, as far as its config tells."""
    if entry.config_path is None:
        return [entry.pictures or "a folder of diffusers", "", "", ""]
    model = load_config(entry.config_path, CONFIG_CLASSES).model
    count = sum(shape.numel() for shape in shelf.shapes(model).values())
    size = f"{model.image_size}x{model.image_size}"
    makes = re.sub(rf",? {size}", "", entry.pictures).partition("; ")[0]
    return [makes, size, str(count_classes(model) or ""), f"{count / 1e6:.3g} M"]


def main() -> None:
    """Print the table."""
    make_parser(__doc__, __spec__).parse_args()
    print(*rows(), sep="\n")


if __name__ == "__main__":
    main()
