"""Measure edits: faithful to their guides (L2, LPIPS), and realistic beside real pictures (KID, FID).

Sub-folders of a sweep (t0_0.3/, steps_35/, to_lime/) are a row each. See docs/SDEdit.md.
"""

import argparse
import sys
from functools import partial
from pathlib import Path

if not __package__:  # python tools/evaluate.py, in place of python -m tools.evaluate
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import torch

from tools.evaluation import networks, pictures
from tools.evaluation.distances import CONVENTIONS
from tools.evaluation.measure import (
    FAITHFUL,
    METRICS,
    REALISTIC,
    add_realism,
    load_instruments,
    measure,
    summarise,
)
from tools.evaluation.rows import find_rows
from tools.evaluation.table import format_table, plot, write_json
from tools.parser import make_parser
from utils import images


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("guides", type=Path, help="INPUT_DIR of the run")
    add("results", type=Path, help="its SAVE_DIR")
    add("--masks", type=Path, help="MASK_DIR of the run: white may change")
    add("--mask_invert", action="store_true", help="masks are the other way round")
    add("--reference", type=Path, help="folder of real pictures, for kid and fid")
    add(
        "--against", type=Path, nargs="+", default=[], metavar="RESULTS", help="other results of these guides"
    )
    add("--metrics", nargs="+", choices=METRICS, help="default: l2 and lpips, with --reference all")
    add("--lpips_net", choices=("alex", "vgg", "squeeze"), default="alex", help="network of LPIPS")
    add(
        "--features",
        default="2048",
        help=f"for kid and fid: a layer of Inception, {', '.join(networks.LAYERS)}, or a .safetensors file "
        "of tools.demo.judge",
    )
    add("--weights_dir", type=Path, help="folder of the weights of LPIPS and Inception, before torch's own")
    add("--download", action="store_true", help="fetch weights that are missing")
    add("--fit", choices=("crop", "pad", "stretch"), help="as in the run (default: that of its run.json)")
    add("--json", type=Path, metavar="FILE", help="also write all numbers, those of each result too")
    add("--plot", type=Path, metavar="FILE", help="also draw realism and faithfulness over t0 (or steps)")
    add("--cpu", action="store_true", help="stay on the CPU")
    return parser


def main(argv: list[str] | None = None) -> int:
    """Measure, print the table, write what was asked for."""
    args = build_parser().parse_args(argv)
    try:
        check(args)
        evaluate(args)
    except (ValueError, OSError) as error:
        print(f"evaluate: error: {error}", file=sys.stderr)
        return 2
    return 0


def check(args: argparse.Namespace) -> None:
    """Refuse what cannot be, and complete the list of metrics.

    Raises:
        ValueError: A folder or an option is missing.
    """
    for folder in (args.guides, args.results, args.masks, args.reference, *args.against):
        if folder is not None and not folder.is_dir():
            raise ValueError(f"{folder}: no such folder")
    args.metrics = args.metrics or list(METRICS if args.reference else FAITHFUL)
    if set(REALISTIC) & set(args.metrics) and not args.reference:
        raise ValueError("kid and fid compare with real pictures: give --reference")
    if args.features not in networks.LAYERS and not args.features.endswith(".safetensors"):
        raise ValueError(
            f"--features {args.features}: one of {', '.join(networks.LAYERS)}, or a .safetensors"
        )


def evaluate(args: argparse.Namespace) -> None:
    """Do what was asked for.

    Raises:
        ValueError: Results or weights are missing, or a picture cannot be read.
    """
    names = images.find_images(args.guides, args.results, images.WITH_PAIRS)
    folders = [args.results, *args.against]
    rows = [row for folder in folders for row in find_rows(folder, names, args.fit, len(folders) > 1)]
    find = partial(networks.find, folder=args.weights_dir, download=args.download)
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    instruments = load_instruments(args.metrics, args.lpips_net, args.features, find, device)
    masks = pictures.find_masks(args.masks, args.mask_invert, args.results, names)
    read = pictures.Reader(args.guides, masks)
    values = [measure(row, instruments, read) for row in rows]
    table = [summarise(row, each) for row, each in zip(rows, values, strict=True)]
    if instruments.extract:
        real = images.find_images(args.reference, args.results)
        add_realism(table, rows, instruments, args.reference, real)
    print(format_table(table))
    if args.json:
        about = {"guides": str(args.guides), "conventions": CONVENTIONS}
        about |= {"lpips_net": args.lpips_net, "features": args.features}
        write_json(args.json, about, table, values)
    if args.plot:
        plot(args.plot, rows, table)


if __name__ == "__main__":
    sys.exit(main())
