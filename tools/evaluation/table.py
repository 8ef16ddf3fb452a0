"""What was measured, to read: a table in Markdown, a file of all numbers, a figure of a sweep."""

import json
from pathlib import Path

from tools.evaluation.measure import FAITHFUL, METRICS, Each, Line
from tools.evaluation.rows import Row
from utils.files import write_atomically

Points = list[tuple[float, Line]]
"""Of a sweep: the value of its parameter, and what was measured there."""


def format_table(table: list[Line]) -> str:
    """Return the lines as a table in Markdown."""
    names = list(dict.fromkeys(name for line in table for name in line))
    if not any(line["missing"] for line in table):
        names.remove("missing")
    rows = [names, ["---"] * len(names)]
    for line in table:
        cells = [line.get(name, "") for name in names]
        rows.append([f"{cell:.4f}" if isinstance(cell, float) else str(cell) for cell in cells])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def write_json(path: Path, about: dict[str, object], table: list[Line], values: list[Each]) -> None:
    """Write the lines, and the numbers of each result, after what they are about."""
    rows = [{**line, "each": each} for line, each in zip(table, values, strict=True)]
    write_atomically(path, json.dumps({**about, "rows": rows}, indent=1).encode())


def plot(path: Path, rows: list[Row], table: list[Line]) -> None:
    """Draw realism and faithfulness over the parameter of a sweep, as Figure 3 of the paper does.

    Raises:
        ValueError: There is no sweep of two values or more, or matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("matplotlib is not installed; pip install -r requirements-eval.txt") from None
    sweeps = _sweeps(rows, table)
    shown = [name for name in METRICS if all(name in line for line in table)]
    figure = Figure(figsize=(3.4 * len(shown), 3), layout="constrained")
    for number, name in enumerate(shown):
        axes = figure.add_subplot(1, len(shown), number + 1)
        for (folder, parameter), points in sweeps.items():
            axes.plot(*zip(*[(x, line[name]) for x, line in points], strict=True), "o-", label=folder.name)
            axes.set_xlabel({"t0": "t0", "steps": "edit steps"}[parameter])
        axes.set_title(f"{name.upper()} {'to the guides' if name in FAITHFUL else 'to real pictures'}")
        if len(sweeps) > 1:
            axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _sweeps(rows: list[Row], table: list[Line]) -> dict[tuple[Path, str], Points]:
    """Return the sweeps of two values or more, by folder and parameter."""
    found: dict[tuple[Path, str], Points] = {}
    for row, line in zip(rows, table, strict=True):
        if row.parameter:
            name, value = row.parameter
            found.setdefault((row.folder.parent, name), []).append((value, line))
    found = {key: points for key, points in found.items() if len(points) > 1}
    if not found:
        raise ValueError("--plot: needs results of a sweep, of two values of --t0 or --edit_steps at least")
    return found
