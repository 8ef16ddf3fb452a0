"""The config as YAML, with a comment beside all that had to be guessed."""

from collections.abc import Mapping
from typing import Any

import yaml

from tools.description.fields import Fields, Guess

_MOST_IN_LINE, _IN_ROW = 16, 6  # values


def render(head: list[str], sections: Mapping[str, Fields], tail: list[str]) -> str:
    """Return a config as text.

    Args:
        head: Comments before it, without marks.
        sections: By name, in order.
        tail: Comments after it.
    """
    lines = [f"# {line}" for line in head]
    for name, fields in sections.items():
        lines += [f"{name}:", *(f"  {_field(key, field)}" for key, field in fields.items())]
    return "\n".join([*lines, *(f"# {line}" for line in tail)]) + "\n"


def _field(key: str, field: Any) -> str:
    value, why = field if isinstance(field, Guess) else (field, "")
    if isinstance(value, list) and len(value) > _MOST_IN_LINE:
        return f"{key}: [\n{_wrapped(value)}\n  ]"
    text = yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"{key}: {text}" + (f"  # {why}" if why else "")


def _wrapped(values: list) -> str:
    """Write a long list's values over several lines, indented below a field."""
    texts = [yaml.safe_dump(value).removesuffix("...\n").strip() for value in values]
    rows = [texts[i : i + _IN_ROW] for i in range(0, len(texts), _IN_ROW)]
    return "\n".join(f"    {', '.join(row)}," for row in rows)
