"""A strict command line: flags in full, arguments that are checked, errors that end in an exit code.

Imports nothing heavy, so that help, typos and missing paths are answered at once.
"""

import argparse
import difflib
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from utils import exits, interrupt, log

AUTO = "auto"


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default is None or action.default is False or action.default == []:
            return action.help
        return super()._get_help_string(action)


class StrictParser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations that suggests the flag which was probably meant."""

    def __init__(self, description: str):
        super().__init__(description=description, allow_abbrev=False, formatter_class=_Formatter)

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        flags = [word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
        self._refuse_empty(words)
        # before argparse looks: it would only say that the flag which was misspelt is missing
        unknown = [flag for flag in flags if flag not in self._option_string_actions]
        if unknown:
            self.error("; ".join(self._describe(flag) for flag in unknown))
        return super().parse_args(words, namespace)

    def _refuse_empty(self, words: list[str]) -> None:
        """Refuse an empty value, which a path would take for the current folder."""
        flag = ""
        for word in words:
            name, has_value, value = word.partition("=")
            flag = name if word.startswith("-") else flag
            if not word.strip() or (word.startswith("--") and has_value and not value.strip()):
                self.error(f"argument {flag}: is empty; give a value (is a variable not set?)")

    def _describe(self, flag: str) -> str:
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        begun = [name for name in flags if name.startswith(flag)]
        near = begun or difflib.get_close_matches(flag, flags, n=2, cutoff=0.6)
        return f"unknown flag {flag}" + (f", did you mean {' or '.join(near)}?" if near else "; see -h")


@contextmanager
def report_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn an error that the user can mend into its message and exit code 2, an interruption into 75."""
    log.start()
    try:
        with interrupt.raised():
            yield
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        raise SystemExit(exits.USAGE) from None
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted before anything was written", file=sys.stderr)
        raise SystemExit(exits.INTERRUPTED) from None


def _whole_number(text: str, least: int) -> int:
    if not text.isascii() or not text.isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    return _whole_number(text, 1)


def frames_int(text: str) -> int:
    """Parse a number of frames, a whole number of at least 2."""
    return _whole_number(text, 2)


def positive_int_or_auto(text: str) -> int | str:
    """Parse a whole number of at least 1, or 'auto'."""
    return text if text == AUTO else positive_int(text)


def seed_int(text: str) -> int:
    """Parse a seed, a whole number of any size from 0."""
    return _whole_number(text, 0)


def shard(text: str) -> tuple[int, int]:
    """Parse i/n with 0 <= i < n."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not i/n with i from 0 to n - 1, such as 0/4")
    return int(match[1]), int(match[2])


def non_negative(text: str) -> float:
    """Parse a number from 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of at least 0")
    return value


def fraction(text: str) -> float:
    """Parse a number above 0 and up to 1."""
    value = non_negative(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a fraction, above 0 and up to 1")
    return value
