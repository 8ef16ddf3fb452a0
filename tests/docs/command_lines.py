"""Command lines of the pages: completed, taken out of their launchers, parsed, and run in this process."""

import argparse
import importlib
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

LAUNCHERS = ("accelerate-launch", "torchrun")
SCRIPTS = ("sample_sdedit", "sample_ddib")


class Parsed(BaseException):
    """Raised in place of going on once a command has parsed its arguments; holds the parser."""


@contextmanager
def stopped_after_parsing() -> Iterator[list[argparse.ArgumentParser]]:
    """Let programs parse their arguments and do nothing more; yields the parsers that did."""
    original, parsers = argparse.ArgumentParser.parse_args, []

    def parse_args(self, args=None, namespace=None):
        original(self, args, namespace)
        parsers.append(self)
        raise Parsed

    argparse.ArgumentParser.parse_args = parse_args
    try:
        yield parsers
    except Parsed:
        pass
    finally:
        argparse.ArgumentParser.parse_args = original


@contextmanager
def _arguments(module: str, words: list[str]) -> Iterator[None]:
    before, sys.argv = sys.argv, [module, *words]
    try:
        yield
    finally:
        sys.argv = before


def _main(module: str) -> Callable[[], int | None]:
    """Return the main function of a module or, as python -m does, of a room's __main__."""
    found = importlib.import_module(module)
    return (importlib.import_module(f"{module}.__main__") if hasattr(found, "__path__") else found).main


def call(module: str, words: list[str]) -> None:
    """Run a command of the project in this process; it must end well."""
    with _arguments(module, words):
        assert not _main(module)(), (module, words)


def parse(module: str, words: list[str]) -> argparse.ArgumentParser:
    """Let a command of the project parse its arguments, and return its parser."""
    main = _main(module)
    with _arguments(module, words), stopped_after_parsing() as parsers:
        main()
    return parsers[0]


def alternatives(command: str) -> list[str]:
    """Write out a synopsis: one line for each of (A | B), with all that is optional."""
    parts = re.split(r"(?<!\$)\(([^()]*\|[^()]*)\)", command)
    choices = [part.split("|") if i % 2 else [part] for i, part in enumerate(parts)]
    lines = ["".join(choice) for choice in itertools.product(*choices)]
    return [line.replace(" [options]", "").replace("[", "").replace("]", "") for line in lines]


def complete(command: str, stand_ins: Mapping[str, str], usual: list[str]) -> list[str]:
    """Return the words of a line, with something real in place of what only stands for it.

    Args:
        command: A line without alternatives.
        stand_ins: By word, also for variables, which begin with $.
        usual: Arguments of a script that is followed by dots, or not named at all.
    """
    for name, value in stand_ins.items():
        if name.startswith("$"):
            command = command.replace(name, value)
    words = shlex.split(command)
    if words[0] in LAUNCHERS and not any(word.endswith(".py") for word in words):
        words += ["sample_sdedit.py", "..."]
    full: list[str] = []
    for word in words:
        if word != "...":
            full.append(stand_ins.get(word, word))
        elif full[-1].endswith(".py"):
            full += usual
    unknown = [word for word in full if re.fullmatch(r"[A-Z][A-Z_0-9]*", word) or "$" in word]
    assert not unknown, f"{unknown} of {command!r}: no stand-in for it; add one to the table of this test"
    return full


def launcher_parsers() -> list[argparse.ArgumentParser]:
    """Return the parsers of the launchers themselves."""
    from accelerate.commands.launch import launch_command_parser
    from torch.distributed.run import get_args_parser

    return [launch_command_parser(), get_args_parser()]


def unwrap(words: list[str]) -> tuple[str, list[str]]:
    """Return what a line calls in the end, and its arguments; launchers parse their own on the way.

    Returns:
        A module for a Python program, as in tools.convert for python tools/convert.py, else the program.
    """
    program, *rest = words
    if re.match(r"[A-Z_]+=", program) or program in ("exec", "srun"):
        return unwrap(rest)
    if program in LAUNCHERS:
        args = launcher_parsers()[LAUNCHERS.index(program)].parse_args(rest)
        return unwrap(["python", args.training_script, *args.training_script_args])
    if program == "python" and rest[0] == "-m":
        return rest[1], rest[2:]
    if program == "python":
        return rest[0].removesuffix(".py").replace("/", "."), rest[1:]
    return program, rest


def fewer(words: list[str]) -> list[str]:
    """Return the words of sample_sdedit.py or sample_ddib.py with a tenth of the steps or calls, on the CPU.

    At least ten are kept, or what was asked for if that is less, so that fractions of them differ; three of
    DDIB, which takes no fractions.
    """
    num_steps = 3 if "--class_B" in words else 10
    flag, found, least = "", [], {"--respace_steps": num_steps, "--edit_steps": 1, "--samples": 2}
    least["--calls"] = 12 if "--class_B" in words else 5
    for word in words:
        flag = word if word.startswith("-") else flag
        counts = flag in least and word != flag
        found.append(str(max(min(int(word), least[flag]), int(word) // 10)) if counts else word)
    if not {"--respace_steps", "--calls"} & set(found):
        found += ["--respace_steps", str(num_steps)]
    return [*found, "--cpu"]
