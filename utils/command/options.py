"""The options of both commands, and what can be checked of them at once.

Imports nothing heavy, as `utils.command.command_line`.
"""

import argparse
import difflib
import os
from pathlib import Path

from utils.command.command_line import (
    AUTO,
    fraction,
    frames_int,
    non_negative,
    positive_int,
    positive_int_or_auto,
    seed_int,
    shard,
)

RESPACE_TYPES = (
    *("uniform", "uniform-leading", "uniform-linspace", "uniform-trailing"),
    *("quad", "quad90", "none"),
)
VAR_TYPES = ("fixed_small", "fixed_large", "learned_range")
PRECISIONS = ("auto", "fp32", "bf16", "fp16")
FITS = ("crop", "pad", "stretch")
SOLVERS = ("ddim", "heun", "dpm-solver++", "exact", "cycle-diffusion")
INVERSIONS = ("target", "source", "fixed_point")
SAMPLERS = ("ddpm", "ddim", "dpm-solver++", "sde-dpm-solver++")


class _ListWeights(argparse.Action):
    def __init__(self, **options):
        super().__init__(nargs=0, default=argparse.SUPPRESS, **options)

    def __call__(self, parser, namespace, values, option_string=None):
        from utils import sources

        print(sources.table(getattr(namespace, "weights_dir", None)))
        parser.exit()


def var_type(text: str) -> str:
    """Accept a variance type, also in the spelling of the DDPM programs (fixedsmall, fixedlarge)."""
    return {"fixedsmall": "fixed_small", "fixedlarge": "fixed_large"}.get(text, text)


def add_network_options(parser: argparse.ArgumentParser) -> None:
    """Add what names a network and its weights, and whether it stays on the CPU."""
    add = parser.add_argument
    add("-c", "--config", type=Path, help="YAML file of the network (default: what the weights imply)")
    add(
        "--weights",
        required=True,
        help="published name (see --list_weights), file, diffusers folder, or http(s):// or hf:// address",
    )
    add(
        "--weights_dir", type=Path, help="where downloaded weights are kept (default: the cache of torch.hub)"
    )
    add("--list_weights", action=_ListWeights, help="print the published names and which are on disk")
    add(
        "--set",
        dest="overrides",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        help="override one config entry, as in --set diffusion.var_type=fixed_large; may be repeated",
    )
    add("--cpu", action="store_true", help="run on the CPU even where there is a GPU")


def add_common_options(
    parser: argparse.ArgumentParser, spacing: str, steps_help: str, seed_help: str
) -> None:
    """Add what both commands take; spacing and helps are the command's own."""
    add_network_options(parser)
    add = parser.add_argument
    add("--input_dir", type=Path, required=True, help="folder of input images, searched recursively")
    add("--save_dir", type=Path, required=True, help="folder for the results, one PNG an input")
    add("--seed", type=seed_int, default=0, help=seed_help)
    add(
        "--respace_type",
        default=spacing,
        help=f"how the timesteps are chosen: {', '.join(RESPACE_TYPES)}; also openai's ddimN or 10,15,20",
    )
    add("--respace_steps", type=positive_int, help=f"number of timesteps to keep (default: {steps_help})")
    add(
        "--micro_batch",
        type=positive_int_or_auto,
        help="images a network call, or auto for the fastest number that fits; changes speed and memory only "
        "(default: 4 on a CPU, 16 on a GPU)",
    )
    add(
        "--precision",
        choices=PRECISIONS,
        default="auto",
        help="of the network's convolutions and linear layers; auto follows `accelerate launch`, else fp32",
    )
    add(
        "--compile",
        action="store_true",
        help="translate the network with torch.compile first, which takes a minute; for long runs on a GPU",
    )
    add("--fit", choices=FITS, default="crop", help="how an image of another size becomes the model's")
    add("--comparison", action="store_true", help="also save strips that show input, noise and result")
    add(
        "--trajectory",
        type=frames_int,
        metavar="N",
        help="also save the way to each result, at least 2 frames of it, as a strip and an animated PNG",
    )
    add(
        "--shard",
        type=shard,
        metavar="I/N",
        help="do only the I-th of N shares of the images, I from 0, as for the jobs of an array",
    )
    add(
        "--verify", action="store_true", help="compare results of before with their hashes; mend what differs"
    )
    add("--overwrite", action="store_true", help="replace what another run left in save_dir")
    add("--no_metadata", action="store_true", help="do not record in the PNG files how they were made")
    add("--no_report", action="store_true", help="do not write report.html, the page that shows the run")
    add("--dry_run", action="store_true", help="print what would be done, load no weights, write nothing")


def add_edit_options(parser: argparse.ArgumentParser) -> None:
    """Add how far SDEdit goes, how, and how often."""
    group = parser.add_argument_group("how far to go, one of these").add_mutually_exclusive_group(
        required=True
    )
    group.add_argument(
        "--edit_steps",
        type=positive_int,
        nargs="+",
        default=argparse.SUPPRESS,
        help="steps to noise and denoise, of the --respace_steps that are kept: 1 (hardly a change) to all "
        " of them (a new image); several numbers make a folder each, and a contact sheet an input",
    )
    group.add_argument(
        "--t0",
        type=fraction,
        nargs="+",
        default=argparse.SUPPRESS,
        help="the same as fractions of the process, above 0 (hardly a change) to 1 (a new image), to the "
        "nearest timestep that is kept; try 0.3 to 0.6",
    )
    group.add_argument("--auto_t0", action="store_true", help="each image as far as --faithfulness lets it")
    add = parser.add_argument_group("editing").add_argument
    add(
        "--faithfulness",
        type=non_negative,
        metavar="L2",
        help="for --auto_t0: largest root mean square difference from the guide, on [-1, 1]",
    )
    add("--class_label", help="class of the results: an index, or a name of the config (default: no class)")
    add("--samples", type=positive_int, help="this many results an input, named _s00 and so on")
    add("--repeats", type=positive_int, default=1, help="times that the result is edited, in all")
    add("--sampler", choices=SAMPLERS, default="ddpm", help="how to step down")
    add(
        "--var_type",
        type=var_type,
        choices=VAR_TYPES,
        help="variance of a DDPM step (default: the config's)",
    )
    add("--corrector_steps", type=positive_int, help="ve: Langevin steps before each step (default: none)")
    add("--snr", type=non_negative, default=0.16, help="ve: signal-to-noise ratio of the Langevin steps")


def add_mask_options(parser: argparse.ArgumentParser) -> None:
    """Add where SDEdit may change an image, and how much."""
    add = parser.add_argument_group("masks").add_argument
    add(
        "--mask_dir",
        type=Path,
        help="folder of masks, one for each input of the same relative stem: white may change, black is kept",
    )
    add("--mask_invert", action="store_true", help="masks are the other way round: white is kept")
    add(
        "--mask_feather",
        type=non_negative,
        default=0.0,
        metavar="PX",
        help="soften the edge inside what may change, over so many of the model's pixels",
    )
    add(
        "--mask_default",
        choices=("fail", "all"),
        default="fail",
        help="an input without a mask is a failed item, or may change everywhere",
    )
    add(
        "--mask_noise",
        choices=("fresh", "fixed"),
        default="fresh",
        help="noise of what is kept: new at every level (paper) or that of the start (released program)",
    )
    add(
        "--strength_dir",
        type=Path,
        help="folder of grey pictures, likewise: each pixel goes that share of the way, white all of it",
    )


def add_translate_options(parser: argparse.ArgumentParser) -> None:
    """Add what DDIB translates from and to, and how."""
    add = parser.add_argument_group("translation").add_argument
    add(
        "--class_A",
        help="class of the inputs: an index, a name of the config, 'folder' for the name of the folder that "
        "each is in, or a .csv file of path,class lines (default: none, for networks without classes)",
    )
    add(
        "--class_B",
        nargs="+",
        help="classes of the results, likewise by index or name; several make a folder each, encoded once",
    )
    add("--weights_B", help="another network to decode with, as for --weights (default: that of A)")
    add("--config_B", type=Path, help="its config (default: what its weights imply)")
    add(
        "--offload",
        action="store_true",
        help="two networks on a GPU: keep there only the one that is at work",
    )
    add(
        "--solver",
        choices=SOLVERS,
        default="ddim",
        help="how to follow the ODE both ways; cycle-diffusion replays DDPM's noise instead",
    )
    add(
        "--inversion",
        choices=INVERSIONS,
        help="ddim: how to encode; target mirrors each step down, source is openai's, fixed_point solves "
        "for the exact inverse (default: target)",
    )
    add("--cycle", action="store_true", help="also go back: measure A to A and A to B to A, and the latent")
    add("--save_latents", action="store_true", help="also save the latents, below save_dir in latents/")
    add("--from_latents", action="store_true", help="input_dir holds saved latents: only decode them")


def check_translate_options(args: argparse.Namespace) -> None:
    """Refuse options of DDIB that do not go together.

    Raises:
        ValueError: Such options.
    """
    if args.config_B and not args.weights_B:
        raise ValueError("--config_B: give its weights too, with --weights_B")
    if args.class_B is None and args.weights_B is None:
        raise ValueError("give --class_B, the class of the results, or another network with --weights_B")
    if args.inversion and args.solver != "ddim":
        raise ValueError(f"--inversion: only for --solver ddim, not {args.solver}")
    if args.offload and args.weights_B is None:
        raise ValueError("--offload: only with --weights_B")
    if args.from_latents and (args.cycle or args.save_latents):
        raise ValueError("--from_latents: not together with --cycle or --save_latents")
    if args.solver == "cycle-diffusion" and (args.from_latents or args.save_latents or args.weights_B):
        raise ValueError("--solver cycle-diffusion: not together with latents in files or --weights_B")


def check_edit_options(args: argparse.Namespace) -> None:
    """Refuse options of SDEdit that do not go together.

    Raises:
        ValueError: Such options.
    """
    if args.auto_t0 != (args.faithfulness is not None):
        raise ValueError("--auto_t0 and --faithfulness go together: give both, or --edit_steps or --t0")
    if args.auto_t0 and (args.strength_dir or args.comparison or args.trajectory):
        raise ValueError("--auto_t0: not together with --strength_dir, --comparison or --trajectory")


def add_guidance_options(parser: argparse.ArgumentParser) -> None:
    """Add what makes a result lean further towards its class."""
    add = parser.add_argument_group("guidance").add_argument
    add(
        "--guidance_scale",
        type=non_negative,
        default=1.0,
        help="classifier-free: 1 is none, 2 to 4 lean further towards the class, at twice the cost",
    )
    add(
        "--unconditional",
        nargs="+",
        metavar=("[CONFIG] WEIGHTS", ""),
        help="a network without classes to lean away from, in place of the config's null_class",
    )
    add(
        "--classifier",
        nargs="+",
        metavar=("[CONFIG] WEIGHTS", ""),
        help="a classifier of noised images whose gradient leads to the class",
    )
    add("--classifier_scale", type=non_negative, default=1.0, help="how strongly the classifier leads")


def check_paths(args: argparse.Namespace) -> None:
    """Refuse paths that cannot work, all of them in one message; turn the weights into their sources.

    Raises:
        ValueError: Something is missing, is of the wrong kind, or would be overwritten.
    """
    problems = missing_files(args)
    if args.compile and args.micro_batch == AUTO:
        problems.append("--compile: for one size of batch alone; give --micro_batch a number, not auto")
    for flag in ("input_dir", "mask_dir", "strength_dir"):
        path = getattr(args, flag, None)
        if path is not None and not path.is_dir():
            problems.append(f"--{flag} {path}: {_what_is_there(path)}; give a folder")
    if args.save_dir.exists() and not args.save_dir.is_dir():
        problems.append(f"--save_dir {args.save_dir}: is a file; give a folder, it need not exist yet")
    elif (reason := _why_not_writable(args.save_dir)) and not args.dry_run:
        problems.append(f"--save_dir {args.save_dir}: {reason}; give another folder")
    for flag in ("input_dir", "mask_dir", "strength_dir"):
        path = getattr(args, flag, None)
        if path is not None and args.save_dir.resolve() == path.resolve():
            problems.append(f"--save_dir is the same folder as --{flag}, so results would replace inputs")
    if problems:
        raise ValueError("\n".join(problems))


def missing_files(args: argparse.Namespace) -> list[str]:
    """Turn the weights into their sources; say which of the files that the options name are not there."""
    from utils import sources

    problems = []

    def parse(flag: str, text: str) -> sources.Source | None:
        try:
            return sources.parse(text, args.weights_dir)
        except ValueError as error:
            problems.append(f"--{flag} {error}")

    def check(flag: str, path: Path) -> Path:
        if not path.is_file():
            problems.append(f"--{flag} {path}: {_what_is_there(path)}; give the path of a file")
        return path

    for end in ("", "_B"):
        if text := getattr(args, f"weights{end}", None):
            setattr(args, f"weights{end}", parse(f"weights{end}", text))
        if path := getattr(args, f"config{end}", None):
            check(f"config{end}", path)
    for flag in ("unconditional", "classifier"):
        words = getattr(args, flag, None)
        if words and len(words) > 2:
            problems.append(f"--{flag} {' '.join(words)}: {len(words)} words; give [CONFIG] WEIGHTS")
        elif words:
            config = check(flag, Path(words[0])) if len(words) == 2 else None
            setattr(args, flag, [config, parse(flag, words[-1])])
    return problems


def _why_not_writable(folder: Path) -> str:
    """Say why nothing can be written to a folder, which need not exist yet; '' where something can."""
    for place in (folder, *folder.absolute().parents):
        if os.path.lexists(place):
            if not place.is_dir():
                return f"{place} is a file" if place.exists() else f"{place} is a link that leads to nothing"
            return "" if os.access(place, os.W_OK | os.X_OK) else f"{place} cannot be written to"
    return ""


def _what_is_there(path: Path) -> str:
    if path.is_dir():
        return "is a folder"
    if path.exists():
        return "is a file"
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, siblings, n=1)
    return "does not exist" + (f" (there is {path.parent / near[0]})" if near else "")
