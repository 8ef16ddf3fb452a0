"""The command line that both commands share: strict flags, early checks, one way to report errors.

Imports nothing heavy, so that help, typos and missing paths are answered at once.
"""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EXIT_DONE, EXIT_USAGE, EXIT_SOME_FAILED, EXIT_INTERRUPTED = 0, 2, 3, 75

RESPACE_TYPES = (
    *("uniform", "uniform-leading", "uniform-linspace", "uniform-trailing"),
    *("quad", "quad90", "none"),
)
VAR_TYPES = ("fixed_small", "fixed_large", "learned_range")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FITS = ("crop", "pad", "stretch")


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
        # before argparse looks: it would only say that the flag which was misspelt is missing
        unknown = [flag for flag in flags if flag not in self._option_string_actions]
        if unknown:
            self.error("; ".join(self._describe(flag) for flag in unknown))
        return super().parse_args(words, namespace)

    def _describe(self, flag: str) -> str:
        flags = [name for name in self._option_string_actions if name.startswith("--")]
        begun = [name for name in flags if name.startswith(flag)]
        near = begun or difflib.get_close_matches(flag, flags, n=2, cutoff=0.6)
        return f"unknown flag {flag}" + (f", did you mean {' or '.join(near)}?" if near else "; see -h")


def positive_int(text: str) -> int:
    """Parse a whole number of at least 1."""
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def seed_int(text: str) -> int:
    """Parse a seed, a whole number of any size from 0."""
    if not text.isascii() or not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def var_type(text: str) -> str:
    """Accept a variance type, also in the spelling of the DDPM programs (fixedsmall, fixedlarge)."""
    return {"fixedsmall": "fixed_small", "fixedlarge": "fixed_large"}.get(text, text)


def add_common_options(parser: argparse.ArgumentParser, steps_help: str, seed_help: str) -> None:
    """Add what both commands take; the helps that they are called with are the command's own."""
    add = parser.add_argument
    add("-c", "--config", type=Path, required=True, help="YAML file of the network and its diffusion")
    add("--weights", type=Path, required=True, help="checkpoint: .safetensors, .pt, .pth or .ckpt")
    add("--input_dir", type=Path, required=True, help="folder of input images, searched recursively")
    add("--save_dir", type=Path, required=True, help="folder for the results, one PNG an input")
    add("--seed", type=seed_int, default=0, help=seed_help)
    add(
        "--respace_type",
        default="uniform",
        help=f"how the timesteps are chosen: {', '.join(RESPACE_TYPES)}; also openai's ddimN or 10,15,20",
    )
    add("--respace_steps", type=positive_int, help=f"number of timesteps to keep (default: {steps_help})")
    add(
        "--micro_batch",
        type=positive_int,
        help="images a network call; changes speed and memory only (default: 4 on a CPU, 16 on a GPU)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the network's convolutions and linear layers; auto follows `accelerate launch`, else fp32",
    )
    add("--cpu", action="store_true", help="run on the CPU even where there is a GPU")
    add("--fit", choices=FITS, default="crop", help="how an image of another size becomes the model's")
    add("--comparison", action="store_true", help="also save strips that show input, noise and result")
    add("--dry_run", action="store_true", help="print what would be done, load no weights, write nothing")
    add(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one config entry, as in --set diffusion.var_type=fixed_large; may be repeated",
    )


def check_paths(args: argparse.Namespace) -> None:
    """Refuse paths that cannot work, all of them in one message.

    Raises:
        ValueError: Something is missing, is of the wrong kind, or would be overwritten.
    """
    problems = []
    for flag, path in (("--config", args.config), ("--weights", args.weights)):
        if not path.is_file():
            problems.append(f"{flag} {path}: {_what_is_there(path)}; give the path of a file")
    if not args.input_dir.is_dir():
        problems.append(f"--input_dir {args.input_dir}: {_what_is_there(args.input_dir)}; give a folder")
    if args.save_dir.exists() and not args.save_dir.is_dir():
        problems.append(f"--save_dir {args.save_dir}: is a file; give a folder, it need not exist yet")
    if args.save_dir.resolve() == args.input_dir.resolve():
        problems.append("--save_dir is the same folder as --input_dir, so results would replace inputs")
    if problems:
        raise ValueError("\n".join(problems))


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "is a folder"
    if path.exists():
        return "is a file"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return "does not exist" + (f" (there is {path.parent / near[0]})" if near else "")


@contextmanager
def report_errors(parser: argparse.ArgumentParser) -> Iterator[None]:
    """Turn an error that the user can mend into its message and exit code 2, without a traceback."""
    try:
        yield
    except (ValueError, OSError) as error:
        print(f"{parser.prog}: error: {error}", file=sys.stderr)
        raise SystemExit(EXIT_USAGE) from None
