"""What others wrote, in messages: short, on one line, with nothing in it that moves a cursor."""

from typing import Any

MAX_CHARS = 80
MAX_BITS = 256


def plain(text: object, limit: int = 200) -> str:
    """Return a text on one line, control characters escaped, at most `limit` characters."""
    kept = str(text)[: limit + 1]  # the rest of a huge one is not even looked at
    line = "".join(c if c.isprintable() else repr(c)[1:-1] for c in " ".join(kept.split()))
    return line if len(line) <= limit else f"{line[: limit - 3]}..."


def quote(value: Any, limit: int = MAX_CHARS) -> str:
    """Return the repr of what YAML may hold, shortened without building all of a huge one."""
    if isinstance(value, int) and value.bit_length() > MAX_BITS:
        return f"a whole number of {value.bit_length()} bits"  # Python refuses to print the largest
    if isinstance(value, str | bytes):
        value = value[: limit + 1]
    elif isinstance(value, dict | list | tuple | set) and len(value) > limit:
        return f"{len(value)} values"
    elif isinstance(value, dict | list | tuple | set):
        return plain(_items(value, limit), limit)
    return plain(repr(value), limit)


def _items(value: Any, limit: int) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{quote(key, limit)}: {quote(item, limit)}" for key, item in value.items())
        return f"{{{inside}}}"
    inside = ", ".join(quote(item, limit) for item in value)
    return f"[{inside}]" if isinstance(value, list) else f"({inside})"
