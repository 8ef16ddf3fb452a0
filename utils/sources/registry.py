"""The published weights that are known by name: `python -m utils.sources.registry` lists them."""

import difflib
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "weights" / "registry.yaml"


@dataclass(frozen=True, kw_only=True)
class Mirror:
    """One address of a file."""

    address: str
    """http://, https:// or hf://."""
    sha256: str | None = None
    md5: str | None = None
    confirmed: bool = True
    """Whether another hash means a wrong file, or perhaps a wrong entry."""

    @property
    def digest(self) -> tuple[str, str] | None:
        """Name of the hash and its hexadecimal value, the stronger of two."""
        for name in ("sha256", "md5"):
            if getattr(self, name):
                return name, getattr(self, name)
        return None


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Published weights."""

    name: str
    config: str | None = None
    """Below configs/, without suffix; None where the weights are a folder that says what it is."""
    file: str | None = None
    """Name in the cache folder; None for folders of the Hugging Face hub, which its own cache keeps."""
    mirrors: tuple[Mirror, ...] = ()
    page: str | None = None
    """Where a person finds the file, if no address leads to it."""
    size: int | None = None
    """Bytes."""
    licence: str = field()
    source: str = field()
    note: str | None = None

    @property
    def config_path(self) -> Path | None:
        """The YAML file of the config."""
        return ROOT / "configs" / f"{self.config}.yaml" if self.config else None

    def on_disk(self, folder: Path) -> Path | None:
        """Return the file where it is complete in the cache folder or comes with the project."""
        for path in (folder / self.file, ROOT / "weights" / self.file) if self.file else ():
            if path.is_file() and self.size in (None, path.stat().st_size):
                return path
        return None


def cache_folder(weights_dir: Path | None = None) -> Path:
    """Return where downloaded files lie: the given folder, else that of torch.hub."""
    if weights_dir is not None:
        return weights_dir
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser()
    return Path(os.environ.get("TORCH_HOME") or cache / "torch").expanduser() / "hub" / "checkpoints"


def read_registry(path: Path = REGISTRY) -> dict[str, Entry]:
    """Read the registry: entries by name, in its order.

    Raises:
        ValueError: An entry is not as it must be.
    """
    raw = yaml.load(path.read_text(encoding="utf-8"), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return {name: _read_entry(path, name, facts) for name, facts in raw.items()}


def _read_entry(path: Path, name: str, facts: dict[str, Any]) -> Entry:
    facts = dict(facts)
    shared = {key: facts.pop(key) for key in ("sha256", "md5", "confirmed") if key in facts}
    mirrors = facts.pop("mirrors", [])
    unknown = facts.keys() - {f.name for f in fields(Entry)}
    if unknown:
        raise ValueError(f"{path}: {name}: unknown {', '.join(sorted(unknown))}")
    own = [shared if not mirror.keys() & {"sha256", "md5"} else {} for mirror in mirrors]
    return Entry(
        name=name, mirrors=tuple(Mirror(**a, **b) for a, b in zip(mirrors, own, strict=True)), **facts
    )


def find_entry(text: str, registry: dict[str, Entry]) -> Entry | None:
    """Find an entry by its name, or the last parts of it where no other ends so.

    Raises:
        ValueError: Several names end so.
    """
    if text in registry:
        return registry[text]
    found = [entry for name, entry in registry.items() if name.endswith(f"/{text}")]
    if len(found) > 1:
        raise ValueError(
            f"{text}: could be {' or '.join(entry.name for entry in found)}; give the whole name"
        )
    return found[0] if found else None


def near_names(text: str, registry: dict[str, Entry]) -> list[str]:
    """Return up to three names that resemble a text, whole or in their last part."""
    tails = {name.rpartition("/")[2]: name for name in registry}
    near = difflib.get_close_matches(text, registry, n=2) + [
        tails[tail] for tail in difflib.get_close_matches(text.rpartition("/")[2], tails, n=3)
    ]
    return list(dict.fromkeys(near))[:3]


def table(weights_dir: Path | None = None) -> str:
    """Return the registry as a table, with what is on disk, whence the rest comes, and its licence."""
    folder = cache_folder(weights_dir)
    rows = [("name", "on disk", "size", "hash", "from", "licence")]
    for entry in read_registry().values():
        path = entry.on_disk(folder)
        size = path.stat().st_size if path else entry.size
        rows.append(
            (
                entry.name,
                "yes" if path else "in the hub's cache?" if entry.file is None else "no",
                f"{size / 1e6:,.0f} MB" if size else "",
                _describe_hash(entry),
                _describe_origin(entry),
                entry.licence,
            )
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([*lines, "", f"folder: {folder}"])


def _describe_hash(entry: Entry) -> str:
    first = entry.mirrors[0] if entry.mirrors else None
    if first is None or first.digest is None:
        return ""
    return first.digest[0] + ("" if first.confirmed else ", unconfirmed")


def _describe_origin(entry: Entry) -> str:
    hosts = [mirror.address.split("/")[2] for mirror in entry.mirrors]
    named = [
        "huggingface.co" if m.address.startswith("hf:") else host
        for m, host in zip(entry.mirrors, hosts, strict=True)
    ]
    return ", ".join(named) or (f"by hand: {entry.page}" if entry.page else "this project")
