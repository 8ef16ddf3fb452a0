"""Configs of diffusers: JSON files of modest size, and the sections that are built of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from utils.config import build_section
from utils.quote import plain, quote

_MOST_JSON, _LARGEST_NUMBER = 2**20, 1e300


def build(path: Path, section: type, read: Callable[[], dict[str, Any]]) -> Any:
    """Build a section of a config of what a file says.

    Args:
        path: The file, for messages.
        section: Its dataclass.
        read: Returns its fields.

    Raises:
        ValueError: The file says too little, or something that is not allowed.
    """
    try:
        return build_section(section, read())
    except (TypeError, KeyError) as error:
        raise ValueError(f"{path}: incomplete or of another kind ({error})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_json(path: Path) -> dict[str, Any]:
    """Read a config of diffusers.

    Raises:
        ValueError: It is no JSON object of a modest size, or holds a number that is none.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_JSON + 1)
        if len(data) > _MOST_JSON:
            raise ValueError(f"more than {_MOST_JSON} bytes")
        facts = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not readable as JSON ({plain(error)})") from None
    if not isinstance(facts, dict):
        raise ValueError(f"{path}: expected an object with fields, found a {type(facts).__name__}")
    for key, value in facts.items():
        if isinstance(value, int | float) and not abs(value) <= _LARGEST_NUMBER:  # nor is NaN
            raise ValueError(
                f"{path}: {plain(key, 60)} {quote(value)}: expected a number of at most 1e300 in size"
            )
    return facts
