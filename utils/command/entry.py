"""What both commands do: parse, plan, then say it or run it."""

import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from utils import exits, interrupt, quote, threads
from utils.command import options
from utils.command.parser import StrictParser, report_errors
from utils.running import Running
from utils.settings import Method, Network


class Started(Protocol):
    """A run that has its folder, and knows what is missing."""

    def do(self) -> int:
        """Do it, and return the exit code."""


class Plan(Protocol):
    """What would be done, checked."""

    def describe(self) -> str:
        """Say it."""

    def start(self, command: str) -> Started:
        """Load the networks, and take the folder of the results; record the command line."""


def make_parser(
    doc: str, kind: type[Method], basic: Sequence[str], meanings: dict[str, str], example: str
) -> StrictParser:
    """Return the command line of a method, whose command has this docstring."""
    parser = StrictParser(doc.splitlines()[0], tuple(basic), meanings, example)
    options.add_options(parser, Network, kind, Running)
    return parser


def main(parser: StrictParser, argv: list[str] | None, kind: type[Method], plan: Callable[..., Plan]) -> int:
    """Run a command and return its exit code.

    Args:
        parser: Its command line.
        argv: Words, None for those of the process.
        kind: Settings of its method.
        plan: Takes the settings of network, method and run; imports torch no sooner than it is called.
    """
    args = parser.parse_args(argv)
    interrupt.outlive_terminal()
    with report_errors(parser):
        asked = options.read(args, kind)
        threads.prepare()
        planned = plan(*asked)
        if asked.running.dry_run:
            print(planned.describe())
            return exits.DONE
        started = planned.start(_as_typed(argv, plan))
    return started.do()


def _as_typed(argv: list[str] | None, plan: Callable[..., Plan]) -> str:
    """Return the command line, for a shell."""
    words = sys.argv if argv is None else [f"{plan.__module__}.py", *argv]
    return quote.command_line(["python", *words])
