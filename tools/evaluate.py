"""Measure edits: faithful to their guides (L2, LPIPS), and realistic beside real pictures (KID, FID).

Sub-folders of a sweep (t0_0.3/, steps_35/, to_lime/) are a row each. See docs/SDEdit.md.
"""

import argparse
import json
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

import torch
from torch import Tensor

from diffusions import distance
from tools import metrics
from utils import images
from utils.files import write_atomically

METRICS = ("l2", "lpips", "kid", "fid")
CONVENTIONS = {
    "l2": "root mean square difference of a result from its guide, on [-1, 1]; mean over the results",
    "lpips": "LPIPS between the two on [-1, 1]; mean over the results",
    "masked_*": "what the mask lets change: l2 weighted by the mask; lpips with the rest of both set to 0",
    "kept_*": "likewise what the mask keeps",
    "kid": "kernel inception distance from the reference; mean and deviation over subsets",
    "fid": "Fréchet inception distance from the reference",
}
BATCH = 16
_SWEEP = re.compile(r"(?:(t0|steps)_([0-9.e+-]+)|to_.+)")


@dataclass(frozen=True)
class Row:
    """Results that are measured together."""

    label: str
    folder: Path
    """What the names of the results are relative to."""
    pairs: list[tuple[str, str]]
    """Relative paths of a guide and its result."""
    num_missing: int
    fit: str
    """How guides were brought to the size of the results."""
    parameter: tuple[str, float] | None = None
    """Of a sweep: t0 or steps, and its value."""


@dataclass(frozen=True)
class Tools:
    """What was loaded to measure with."""

    device: str
    lpips: torch.nn.Module | None = None
    extract: metrics.Extract | None = None
    realism: list[str] = field(default_factory=list)
    """kid, fid."""


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
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
        help=f"for kid and fid: a layer of Inception, {', '.join(metrics.LAYERS)}, or a .safetensors file of "
        "the demo's judge, see tools/demo/judge.py",
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
    parser = build_parser()
    args = parser.parse_args(argv)
    try:
        check(args)
        names = images.find_images(args.guides, args.results, images.WITH_PAIRS)
        rows = [row for results in (args.results, *args.against) for row in find_rows(args, names, results)]
        tools = load_tools(args)
        read = Reader(args, names)
        values = [measure(row, tools, read) for row in rows]
        table = [summarise(row, each) for row, each in zip(rows, values, strict=True)]
        if tools.extract:
            add_realism(table, rows, tools, args)
        print(format_table(table))
        if args.json:
            write_json(args, table, values)
        if args.plot:
            plot(args.plot, rows, table)
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
    args.metrics = args.metrics or list(METRICS if args.reference else METRICS[:2])
    if {"kid", "fid"} & set(args.metrics) and not args.reference:
        raise ValueError("kid and fid compare with real pictures: give --reference")
    if args.features not in metrics.LAYERS and not args.features.endswith(".safetensors"):
        raise ValueError(f"--features {args.features}: one of {', '.join(metrics.LAYERS)}, or a .safetensors")


def load_tools(args: argparse.Namespace) -> Tools:
    """Load the networks that the metrics need.

    Raises:
        ValueError: Weights are missing: all of them in one message.
    """
    wanted = {}
    realism = [name for name in ("kid", "fid") if name in args.metrics]
    if "lpips" in args.metrics:
        wanted["lpips"] = args.lpips_net
    if realism and args.features in metrics.LAYERS:
        wanted["inception"] = "inception"
    files, problems = {}, []
    for role, name in wanted.items():
        try:
            files[role] = metrics.find(name, args.weights_dir, args.download)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems) + ". --metrics l2 needs none")
    device = "cuda" if torch.cuda.is_available() and not args.cpu else "cpu"
    lpips = metrics.load_lpips(args.lpips_net, files["lpips"]).to(device) if "lpips" in files else None
    extract = None
    if realism:
        if "inception" in files:
            extract = metrics.load_inception(files["inception"], args.features).to(device)
        else:
            extract = metrics.load_judge(Path(args.features)).to(device)
    return Tools(device, lpips, extract, realism)


def find_rows(args: argparse.Namespace, names: list[str], results: Path) -> list[Row]:
    """List the rows of a folder of results: itself, or each folder of a sweep.

    Raises:
        ValueError: It holds no result of any guide.
    """
    settings = read_settings(results)
    fit = args.fit or settings.get("fit") or "crop"
    targets = images.result_names(names)
    folders = ["", *sorted((path.name for path in results.iterdir() if path.is_dir()), key=_order)]
    rows = []
    for folder in folders:
        match = _SWEEP.fullmatch(folder)
        if folder and not match:
            continue
        wanted = [
            pair for name in names for pair in _results(name, targets[name], results / folder, settings)
        ]
        pairs = [(name, target) for name, target in wanted if (results / folder / target).is_file()]
        if pairs:
            value = (match[1], float(match[2])) if folder and match[1] else None
            label = f"{results.name}/{folder}" if args.against else folder or results.name
            rows.append(Row(label, results / folder, pairs, len(wanted) - len(pairs), fit, value))
    if not rows:
        example = next(iter(targets.values()))
        raise ValueError(
            f"{results}: no result of any guide, such as {example}, nor in t0_*, steps_* or to_*"
        )
    return rows


def read_settings(results: Path) -> dict[str, object]:
    """Return the settings of the run that made results; none where they are of another program."""
    try:
        return json.loads((results / "run.json").read_bytes())["settings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _results(name: str, target: str, folder: Path, settings: dict[str, object]) -> Iterator[tuple[str, str]]:
    """Name the results of a guide: one, or as many as the run drew samples."""
    stem = target.removesuffix(".png")
    samples = settings.get("samples")
    if samples is None and not (folder / target).is_file():
        samples = len(list(folder.glob(f"{_literal(stem)}_s[0-9][0-9].png"))) or None
    for number in range(samples or 1):
        yield name, target if samples is None else f"{stem}_s{number:02d}.png"


def _literal(text: str) -> str:
    return re.sub(r"([\[\]*?])", r"[\1]", text)


def _order(folder: str) -> tuple[float, str]:
    match = _SWEEP.fullmatch(folder)
    return (float(match[2]) if match and match[1] else 0.0, folder)


class Reader:
    """Reads results, and guides and masks as the run saw them."""

    def __init__(self, args: argparse.Namespace, names: list[str]):
        self._guides = args.guides
        self._masks = None
        if args.masks:
            self._masks = images.Masks(images.Maps(args.masks, args.results), invert=args.mask_invert)
        elif any(name.lower().endswith(images.PAIR_SUFFIX) for name in names):
            self._masks = images.Masks(None, missing_means_all=True)

    def batches(self, row: Row) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
        """Yield the results, and tensors result, image [B, 3, H, W] on [-1, 1] and mask [B, 1, H, W]."""
        for pairs in _batched(row.pairs):
            read = [self._read(row, *pair) for pair in pairs]
            if len({part["result"].shape for part in read}) > 1:
                raise ValueError(f"{row.folder}: results of several sizes; measure them apart")
            yield (
                [target for _, target in pairs],
                {key: torch.stack([part[key] for part in read]) for key in read[0]},
            )

    def _read(self, row: Row, name: str, target: str) -> dict[str, Tensor]:
        try:
            result = images.decode(row.folder / target)
            side = _side(result.size)
            guide = images.Inputs(self._guides, side, 3, row.fit, self._masks).load(name)
        except ValueError as error:
            raise ValueError(f"{name}, {row.folder / target}: {error}") from None
        return {"result": images.to_tensor(result, 3), **guide}


def _side(size: tuple[int, int]) -> int:
    if size[0] != size[1]:
        raise ValueError(f"the result is {size[0]}x{size[1]}; results are squares of the model's size")
    return size[0]


def _batched(values: list) -> Iterator[list]:
    parts = iter(values)
    while part := list(islice(parts, BATCH)):
        yield part


@torch.inference_mode()
def measure(row: Row, tools: Tools, read: Reader) -> dict[str, dict[str, float]]:
    """Return how far each result is from its guide, by metric."""
    each: dict[str, dict[str, float]] = {}
    for targets, tensors in read.batches(row):
        tensors = {key: tensor.to(tools.device) for key, tensor in tensors.items()}
        found = compare(tensors["result"], tensors["image"], tensors.get("mask"), tools.lpips)
        for index, target in enumerate(targets):
            each[target] = {name: values[index].item() for name, values in found.items()}
    return each


def compare(
    result: Tensor, guide: Tensor, mask: Tensor | None, lpips: Callable[[Tensor, Tensor], Tensor] | None
) -> dict[str, Tensor]:
    """Return the distances [B] of results from their guides, see `CONVENTIONS`.

    Args:
        result: [B, 3, H, W] on [-1, 1].
        guide: Likewise.
        mask: What may change, 0 to 1, [B, 1, H, W].
        lpips: Two such pictures -> [B, 1, 1, 1].
    """
    regions = {"": None} if mask is None else {"": None, "masked_": mask, "kept_": 1 - mask}
    found = {f"{region}l2": distance(result, guide, where) for region, where in regions.items()}
    if lpips is not None:
        for region, where in regions.items():
            seen = (result, guide) if where is None else (result * where, guide * where)
            found[f"{region}lpips"] = lpips(*seen).flatten()
    return found


def summarise(row: Row, each: dict[str, dict[str, float]]) -> dict[str, object]:
    """Return a line of the table: what was measured, and the mean of each metric."""
    names = next(iter(each.values()))
    means = {name: sum(values[name] for values in each.values()) / len(each) for name in names}
    return {"results": row.label, "images": len(each), "missing": row.num_missing, **means}


def add_realism(
    table: list[dict[str, object]], rows: list[Row], tools: Tools, args: argparse.Namespace
) -> None:
    """Add to each line how far its results are from real pictures, of the size and fit of the results."""
    names = images.find_images(args.reference, args.results)
    real: dict[tuple[int, str], Tensor] = {}
    for line, row in zip(table, rows, strict=True):
        size = _side(images.decode(row.folder / row.pairs[0][1]).size), row.fit
        results = [target for _, target in row.pairs]
        found = metrics.features(tools.extract, _pictures(row.folder, results, size, tools))
        if size not in real:
            real[size] = metrics.features(tools.extract, _pictures(args.reference, names, size, tools))
        reference = real[size]
        if min(len(found), len(reference)) < 2:
            raise ValueError(f"{row.label}: kid and fid need two results and two references at least")
        if "kid" in tools.realism:
            line["kid"], line["kid_std"] = metrics.kid(found, reference)
        if "fid" in tools.realism:
            line["fid"] = metrics.fid(found, reference)
            if min(len(found), len(reference)) <= found.shape[1]:
                note = f"note: {row.label}: fid of {len(found)} and {len(reference)} pictures is biased"
                print(f"{note}, {found.shape[1] + 1} of each are needed; kid is not", file=sys.stderr)


def _pictures(folder: Path, names: list[str], size: tuple[int, str], tools: Tools) -> Iterator[Tensor]:
    """Yield batches [B, 3, side, side] of uint8 pictures, brought to (side, how)."""
    for part in _batched(names):
        pictures = []
        for name in part:
            try:
                picture = images.decode(folder / name)
            except ValueError as error:
                raise ValueError(f"{folder / name}: {error}") from None
            pictures.append(images.to_tensor(images.fit(picture, *size), 3))
        yield ((torch.stack(pictures) + 1) * 127.5).round().to(torch.uint8).to(tools.device)


def format_table(table: list[dict[str, object]]) -> str:
    """Return the lines as a table in Markdown."""
    names = list(dict.fromkeys(name for line in table for name in line))
    if not any(line["missing"] for line in table):
        names.remove("missing")
    rows = [names, ["---"] * len(names)]
    for line in table:
        cells = [line.get(name, "") for name in names]
        rows.append([f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_json(
    args: argparse.Namespace, table: list[dict[str, object]], values: list[dict[str, dict[str, float]]]
) -> None:
    """Write the lines, and the numbers of each result."""
    content = {
        "guides": str(args.guides),
        "conventions": CONVENTIONS,
        "lpips_net": args.lpips_net,
        "features": args.features,
        "rows": [{**line, "each": each} for line, each in zip(table, values, strict=True)],
    }
    write_atomically(args.json, json.dumps(content, indent=1).encode())


def plot(path: Path, rows: list[Row], table: list[dict[str, object]]) -> None:
    """Draw realism and faithfulness over the parameter of a sweep, as Figure 3 of the paper does.

    Raises:
        ValueError: There is no sweep of two values or more, or matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("matplotlib is not installed; pip install -r requirements-eval.txt") from None
    runs: dict[tuple[Path, str], list[tuple[float, dict[str, object]]]] = {}
    for row, line in zip(rows, table, strict=True):
        if row.parameter:
            name, value = row.parameter
            runs.setdefault((row.folder.parent, name), []).append((value, line))
    runs = {key: points for key, points in runs.items() if len(points) > 1}
    if not runs:
        raise ValueError("--plot: needs results of a sweep, of two values of --t0 or --edit_steps at least")
    shown = [name for name in ("l2", "lpips", "kid", "fid") if all(name in line for line in table)]
    figure = Figure(figsize=(3.4 * len(shown), 3), layout="constrained")
    for number, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        for (folder, parameter), points in runs.items():
            axes.plot(*zip(*[(x, line[name]) for x, line in points], strict=True), "o-", label=folder.name)
            axes.set_xlabel({"t0": "t0", "steps": "edit steps"}[parameter])
        axes.set_title(f"{name.upper()} {'to the guides' if name in METRICS[:2] else 'to real pictures'}")
        if len(runs) > 1:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


if __name__ == "__main__":
    sys.exit(main())
