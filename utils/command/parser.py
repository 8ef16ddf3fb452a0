"""A strict command line: flags in full, help that is read, errors of one line that end in an exit code."""

import argparse
import difflib
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from utils import exits, interrupt, log

_WIDTH = 80


class StrictParser(argparse.ArgumentParser):
    """An ArgumentParser without abbreviations, whose -h shows what most people need.

    What stands in a group beyond `basic` is shown by --help_all. An unknown flag is answered with the one
    that was probably meant: by its letters, or by what other programs call it.
    """

    def __init__(
        self,
        description: str,
        basic: tuple[str, ...] = (),
        meanings: Mapping[str, str] | None = None,
        example: str = "",
    ):
        """
        Args:
            description: One line.
            basic: Names of the options that -h shows; empty for all.
            meanings: What other programs call a flag, to its name here, both without dashes.
            example: A command that runs as it is.
        """
        super().__init__(
            description=description, allow_abbrev=False, add_help=False, formatter_class=_Formatter
        )
        self._basic, self._meanings, self._example = basic, meanings or {}, example
        self.add_argument("-h", "--help", action=_Help, help="print this help")
        if basic:
            self.add_argument("--help_all", action=_Help, help="print all options")

    def parse_args(self, args=None, namespace=None):
        words = sys.argv[1:] if args is None else list(args)
        flags = [word.split("=")[0] for word in words if re.match(r"--?[A-Za-z]", word)]
        self._refuse_empty(words)
        # before argparse looks: it would only say that the flag which was misspelt is missing
        unknown = [flag for flag in flags if flag not in self._option_string_actions]
        if unknown:
            self.error("; ".join(self._describe(flag) for flag in unknown))
        return super().parse_args(words, namespace)

    def error(self, message: str):
        """Print what is wrong, in a line, and exit."""
        print(f"{self.prog}: error: {message}", file=sys.stderr)
        raise SystemExit(exits.USAGE)

    def show_help(self, everything: bool) -> str:
        """Return the help: of the basic options, or of all."""
        formatter = self._get_formatter()
        formatter.add_text(self.description)
        for group in self._action_groups:
            shown = [action for action in group._group_actions if everything or self._is_basic(action)]
            if shown:
                formatter.start_section(group.title)
                formatter.add_arguments(shown)
                formatter.end_section()
        return formatter.format_help() + (f"\nfor example:\n  {self._example}\n" if self._example else "")

    def _is_basic(self, action: argparse.Action) -> bool:
        return not self._basic or action.dest in (*self._basic, "help", "help_all")

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
        bare = flag.lstrip("-").replace("-", "_").lower()
        meant = [f"--{self._meanings[bare]}"] if bare in self._meanings else []
        begun = [name for name in flags if name.startswith(flag) or name == f"--{bare}"]
        near = meant or begun or difflib.get_close_matches(flag, flags, n=2, cutoff=0.6)
        return f"unknown flag {flag}" + (f", did you mean {' or '.join(near)}?" if near else "; see -h")


class _Formatter(argparse.HelpFormatter):
    """Of one width everywhere; flags in a column."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=26, width=_WIDTH)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        flags = ", ".join(action.option_strings)
        return flags if action.nargs == 0 else f"{flags} {self._format_args(action, action.metavar)}"


def show(text: str) -> None:
    """Print a text, of which whoever reads it may take only the beginning, as `head` does."""
    try:
        print(text, end="", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left goes nowhere


class _Help(argparse.Action):
    def __init__(self, **options):
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        show(parser.show_help(everything=option_string == "--help_all"))
        parser.exit()


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


def whole_number(text: str) -> int:
    """Parse a whole number from 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def number(text: str) -> float:
    """Parse a number."""
    try:
        return float(text) if "_" not in text else float("x")
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def number_or_word(text: str) -> int | str:
    """Parse a whole number, or leave a word as it is."""
    return text if text.isascii() and text.isalpha() else whole_number(text)


def share(text: str) -> tuple[int, ...]:
    """Parse I/N with 0 <= I < N."""
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    if not match or int(match[1]) >= int(match[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with I from 0 to N - 1, such as 0/4")
    return int(match[1]), int(match[2])
