"""What others wrote, for people: on one line, with nothing in it that moves a cursor, without secrets."""

import os
import re
import shlex
from collections.abc import Iterable
from typing import Any

MAX_CHARS = 80
MAX_BITS = 256
_ADDRESS = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]{0,20}://)(?:[^/?#]*@)?(?P<place>[^?#]*)[^\n]*")


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


def command_line(words: Iterable[str]) -> str:
    """Return words as a shell takes them, to be copied; addresses without secrets."""
    return " ".join(_shell_word(without_secrets(word)) for word in words)


def without_secrets(text: str) -> str:
    """Return a text without what an address in it holds beside its place: user, password, query, fragment."""
    return _ADDRESS.sub(r"\g<scheme>\g<place>", text)


def _shell_word(word: str) -> str:
    if word.isprintable():
        return shlex.quote(word)
    # $'...' of bash: nothing in it is hidden, not even bytes that are no text
    return "$'{}'".format("".join(_shell_byte(byte) for byte in os.fsencode(word)))


def _shell_byte(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b"\\'" else f"\\x{byte:02x}"


def _items(value: Any, limit: int) -> str:
    if isinstance(value, dict):
        inside = ", ".join(f"{quote(key, limit)}: {quote(item, limit)}" for key, item in value.items())
        return f"{{{inside}}}"
    inside = ", ".join(quote(item, limit) for item in value)
    return f"[{inside}]" if isinstance(value, list) else f"({inside})"
