"""What is known of a field of a config: told by the weights, or guessed and to be checked."""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Guess(NamedTuple):
    """A value that no tensor tells."""

    value: Any
    why: str
    """The comment beside it: what it depends on, and what else is usual."""


Fields = Mapping[str, Any]
"""A section of a config: what a field is, or a Guess of it."""


def values(fields: Fields) -> dict[str, Any]:
    """Return a section as a config has it, guesses as if they were known."""
    return {key: field.value if isinstance(field, Guess) else field for key, field in fields.items()}
