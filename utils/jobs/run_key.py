"""What makes a run the same run: run.json in save_dir, and the refusal of another one."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from utils import files
from utils.config import Config
from utils.images import RESULTS
from utils.pipelines import find_files, is_pipeline
from utils.weights import find_weights

NAME = "run.json"
_SAID_BY_ITEM = ("mask_dir", "strength_dir", "prompt_file")


def run_settings(
    options: dict[str, object],
    files: Mapping[str, Path | list[Path] | None],
    config: Config,
    timesteps: list[float],
    dtype: str,
) -> dict[str, object]:
    """Collect everything that decides what a run writes, in terms of JSON.

    Files count by their content; what each item has of its own, maps and prompts, by whether there is
    any.

    Args:
        options: Those that decide it, of `Checked.deciding`.
        files: What the names of weights and configs among them led to.
        config: Of the network, overrides applied.
        timesteps: That are kept.
        dtype: Of the network's convolutions and linear layers.
    """
    settings = {
        name: value is not None if name in _SAID_BY_ITEM else value for name, value in options.items()
    }
    settings |= {name: _by_content(value) for name, value in files.items()}
    settings |= {"config": dataclasses.asdict(config), "timesteps": timesteps, "precision": dtype}
    settings.pop("overrides")  # they are in the config
    return json.loads(json.dumps(settings))


def _by_content(value: object) -> object:
    if isinstance(value, Path):
        return f"sha256 {content_hash(value)}"
    return [_by_content(part) for part in value] if isinstance(value, list) else value


def content_hash(path: Path) -> str:
    """Return the SHA-256 in hexadecimal of a file or of a folder's weights, of several that of theirs."""
    if not is_pipeline(path):
        return files.sha256(find_weights(path) if path.is_dir() else path)
    parts = "".join(map(files.sha256, find_files(path)))
    return hashlib.sha256(parts.encode()).hexdigest()


def key(settings: dict[str, object]) -> str:
    """Return the key of a run with these settings."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def check(save_dir: Path, settings: dict[str, object], overwrite: bool) -> None:
    """Refuse to mix the results of two runs.

    Raises:
        ValueError: save_dir holds another run, or pictures of unknown origin.
    """
    if overwrite or not save_dir.exists():
        return
    path = save_dir / NAME
    if not path.exists():
        if any(path.suffix in RESULTS and path.is_file() for path in save_dir.rglob("*")):
            raise ValueError(
                f"--save_dir {save_dir}: holds pictures but no {NAME}, so what made them is not known; "
                "choose another folder, or replace them with --overwrite"
            )
        return
    try:
        before = json.loads(path.read_bytes())["settings"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError(f"{path}: is broken; remove it, or start again with --overwrite") from None
    if differences := compare(before, settings):
        raise ValueError(
            f"--save_dir {save_dir}: holds another run; choose another folder, the same options, or replace "
            "its results with --overwrite. What differs:\n  " + "\n  ".join(differences)
        )


def write(save_dir: Path, settings: dict[str, object]) -> None:
    """Make save_dir the folder of this run."""
    text = json.dumps({"key": key(settings), "settings": settings}, indent=1)
    files.write_atomically(save_dir / NAME, text.encode(), save_dir / files.SCRATCH)


def compare(before: object, now: object, name: str = "") -> list[str]:
    """Describe where two settings differ, a line each."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted({*before, *now})
        return [
            line
            for key in names
            for line in compare(before.get(key), now.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if before == now else [f"{name}: {_shorten(before)} there, {_shorten(now)} now"]


def _shorten(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:24]} ... {text[-12:]}"
