"""Rows measured: how faithful the results of each are, and how realistic."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from tools.evaluation import networks, pictures
from tools.evaluation.distances import Extract, Lpips, compare, features, fid, kid
from tools.evaluation.rows import Row
from utils.codecs import Ends

FAITHFUL, REALISTIC = ("l2", "lpips"), ("kid", "fid")
METRICS = (*FAITHFUL, *REALISTIC)

Line = dict[str, object]
"""Of the table: a cell by the name of its column."""
Each = dict[str, dict[str, float]]
"""Numbers by result and metric."""


@dataclass(frozen=True)
class Instruments:
    """What was loaded to measure with."""

    device: str
    lpips: Lpips | None = None
    extract: Extract | None = None
    realism: list[str] = field(default_factory=list)
    """kid, fid."""


def load_instruments(
    wanted: list[str], lpips_net: str, layer: str, find: Callable[[str], Path], device: str
) -> Instruments:
    """Load the networks that metrics need.

    Args:
        wanted: Some of `METRICS`.
        lpips_net: alex, vgg or squeeze.
        layer: Of Inception, or else a file of the demo's judge.
        find: Name of a network -> its weights, see `networks.find`.
        device: Where they work.

    Raises:
        ValueError: Weights are missing: all of them in one message.
    """
    realism = [name for name in REALISTIC if name in wanted]
    by_inception = bool(realism) and layer in networks.LAYERS
    files = _find_all([lpips_net] * ("lpips" in wanted) + ["inception"] * by_inception, find)
    lpips = extract = None
    if "lpips" in wanted:
        lpips = networks.load_lpips(lpips_net, files[lpips_net]).to(device)
    if by_inception:
        extract = networks.load_inception(files["inception"], layer).to(device)
    elif realism:
        extract = networks.load_judge(Path(layer)).to(device)
    return Instruments(device, lpips, extract, realism)


def _find_all(names: list[str], find: Callable[[str], Path]) -> dict[str, Path]:
    files, problems = {}, []
    for name in names:
        try:
            files[name] = find(name)
        except ValueError as error:
            problems.append(str(error))
    if problems:
        raise ValueError("; ".join(problems) + ". --metrics l2 needs none")
    return files


@torch.inference_mode()
def measure(row: Row, instruments: Instruments, read: pictures.Reader) -> Each:
    """Return how far each result is from its guide, by metric."""
    each: Each = {}
    for targets, tensors in read.batches(row):
        tensors = {key: tensor.to(instruments.device) for key, tensor in tensors.items()}
        found = compare(tensors["result"], tensors["image"], tensors.get("mask"), instruments.lpips)
        for index, target in enumerate(targets):
            each[target] = {name: values[index].item() for name, values in found.items()}
    return each


def summarise(row: Row, each: Each) -> Line:
    """Return a line of the table: what was measured, and the mean of each metric."""
    names = next(iter(each.values()))
    means = {name: sum(values[name] for values in each.values()) / len(each) for name in names}
    return {"results": row.label, "images": len(each), "missing": row.num_missing, **means}


def add_realism(
    table: list[Line], rows: list[Row], instruments: Instruments, reference: Path, names: list[str]
) -> None:
    """Add to each line how far its results are from real pictures, of the size and fit of the results.

    Args:
        table: A line a row.
        rows: What was measured.
        instruments: What was loaded.
        reference: Folder of the real pictures.
        names: Theirs.

    Raises:
        ValueError: A picture cannot be read, or there are too few.
    """

    def see(folder: Path, chosen: list[str], size: tuple[tuple[int, int], str], ends: Ends | None) -> Tensor:
        batches = pictures.read_bytes(folder, chosen, *size, ends)
        return features(instruments.extract, (batch.to(instruments.device) for batch in batches))

    real: dict[tuple[tuple[int, int], str], Tensor] = {}
    for line, row in zip(table, rows, strict=True):
        size = pictures.size(row), row.fit
        found = see(row.folder, [target for _, target in row.pairs], size, row.ends)
        if size not in real:
            real[size] = see(reference, names, size, row.ends)
        line |= _realism(row.label, instruments.realism, found, real[size])


def _realism(label: str, wanted: list[str], found: Tensor, reference: Tensor) -> Line:
    least, values = min(len(found), len(reference)), {}
    if least < 2:
        raise ValueError(f"{label}: kid and fid need two results and two references at least")
    if "kid" in wanted:
        values["kid"], values["kid_std"] = kid(found, reference)
    if "fid" in wanted:
        values["fid"] = fid(found, reference)
        if least <= found.shape[1]:
            note = f"note: {label}: fid of {len(found)} and {len(reference)} pictures is biased"
            print(f"{note}, {found.shape[1] + 1} of each are needed; kid is not", file=sys.stderr)
    return values
