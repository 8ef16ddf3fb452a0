"""The command line of a tool: its flags in full, their defaults, and the name by which it is started."""

import argparse
from importlib.machinery import ModuleSpec


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default only where there is one to show."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        nothing = action.default in (None, []) or action.default is False
        return action.help if nothing else super()._get_help_string(action)


def make_parser(doc: str, spec: ModuleSpec | None) -> argparse.ArgumentParser:
    """Return a command line without options.

    Args:
        doc: `__doc__` of the tool, whose first line describes it.
        spec: Its `__spec__`, None where it runs as a file. argparse itself would name the file even of a
            module that does not run as one.
    """
    return argparse.ArgumentParser(
        prog=spec and f"python -m {spec.name}",
        description=doc.splitlines()[0],
        formatter_class=_Formatter,
        allow_abbrev=False,
    )
