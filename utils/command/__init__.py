"""From argv to settings: flags, what can be checked of them at once, and how errors are said.

Nothing here imports torch, so that help, typos and missing paths are answered at once.
"""

from utils.command.entry import Plan, main, make_parser
from utils.command.options import EDIT_MEANINGS, TRANSLATE_MEANINGS, add_options, wrong_files
from utils.command.parser import StrictParser, report_errors

__all__ = [
    "EDIT_MEANINGS",
    "TRANSLATE_MEANINGS",
    "Plan",
    "StrictParser",
    "add_options",
    "main",
    "make_parser",
    "report_errors",
    "wrong_files",
]
