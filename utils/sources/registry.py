"""The published weights that are known by name, as --list_weights prints them."""

import difflib
import os
import textwrap
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from utils.quote import plain

ROOT = Path(__file__).resolve().parents[2]
REGISTRY = ROOT / "weights" / "registry.yaml"
_WIDTH = 80
"""Of a terminal, in letters."""
_GROUPS = _ON_DISK, _DOWNLOADED, _OF_THE_HUB, _BY_HAND = (
    *("on disk", "downloaded when first used", "downloaded when first used, unless the hub's cache has them"),
    "to be fetched by hand, from the page given",
)


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
    package: str | None = None
    """Name of a wheel that the file is published in as well."""
    member: str | None = None
    """Place of the file in the package."""
    size: int | None = None
    """Bytes."""
    makes: str | None = None
    """What a folder makes, where that is worth a word."""
    licence: str = field()
    source: str = field()
    note: str | None = None

    @property
    def config_path(self) -> Path | None:
        """The YAML file of the config."""
        return ROOT / "configs" / f"{self.config}.yaml" if self.config else None

    @property
    def pictures(self) -> str:
        """What the network makes, by its config's first line; of a folder empty, or as its entry says."""
        if self.config_path is None:
            return self.makes or ""
        with self.config_path.open(encoding="utf-8") as file:
            return file.readline().removeprefix("#").strip().removesuffix(".")

    def on_disk(self, folder: Path) -> Path | None:
        """Return the file where it is complete: in the cache folder, with the project or unpacked."""
        places = (folder / self.file, ROOT / "weights" / self.file) if self.file else ()
        if self.member:
            name = Path(self.member)
            places += (folder / name, name, Path(name.name))
        for path in places:
            if path.is_file() and self.size in (None, path.stat().st_size):
                return path
        return None

    def packed(self, folder: Path) -> Path | None:
        """Return the wheel that holds the file, where it lies in the cache folder or the current one."""
        places = (folder / self.package, Path(self.package)) if self.package else ()
        return next((path for path in places if path.is_file()), None)

    @property
    def sha256(self) -> str | None:
        """Hash of the file, where its owner published it."""
        return next((mirror.sha256 for mirror in self.mirrors if mirror.confirmed), None)


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


def table(weights_dir: Path | None = None, wanted: str = "") -> str:
    """List the registry for a terminal, what is on disk first: pictures, size, licence, origin, hash of each.

    Args:
        weights_dir: As for `cache_folder`.
        wanted: A text that names or pictures must have, in any case.

    Raises:
        ValueError: None has it.
    """
    folder = cache_folder(weights_dir)
    groups: dict[str, list[str]] = {title: [] for title in _GROUPS}
    found = [entry for entry in read_registry().values() if _has(entry, wanted)]
    if not found:
        raise ValueError(f"--list_weights {plain(wanted)}: no published weights have it in their names")
    for entry in found:
        path = entry.on_disk(folder) or entry.packed(folder)
        groups[_group(entry, path)] += _describe(entry, path)
    parts = ["\n".join([f"{title}:", *lines]) for title, lines in groups.items() if lines]
    return "\n\n".join([*parts, f"folder of downloaded weights: {folder}"])


def _has(entry: Entry, wanted: str) -> bool:
    return wanted.casefold() in f"{entry.name} {entry.pictures}".casefold()


def _group(entry: Entry, path: Path | None) -> str:
    if path:
        return _ON_DISK
    if entry.file is None:
        return _OF_THE_HUB
    return _DOWNLOADED if entry.mirrors else _BY_HAND


def _describe(entry: Entry, path: Path | None) -> list[str]:
    """Return the lines of an entry: one, or where that is too long others, indented, below its name."""
    size = entry.size or (path.stat().st_size if path else None)  # a wheel holds more than the file
    facts = [f"{size / 1e6:,.0f} MB" if size else "", f"licence {entry.licence}"]
    origin = [_describe_origin(entry), _describe_hash(entry)]
    known, whence = (", ".join(filter(None, part)) for part in (facts, origin))
    about = [entry.pictures] if entry.pictures else []
    for lines in ([f"{entry.name}  {known}, {whence}"], [f"{entry.name}  {known}", whence]):
        if len(lines[0]) <= _WIDTH:
            return [lines[0], *_indent([*about, *lines[1:]])]
    return [entry.name, *_indent([*about, known, whence])]


def _indent(lines: list[str]) -> list[str]:
    options = {"break_long_words": False, "break_on_hyphens": False}  # an address is copied whole
    return [f"    {part}" for line in lines for part in textwrap.wrap(line, _WIDTH - 4, **options)]


def _describe_hash(entry: Entry) -> str:
    first = entry.mirrors[0] if entry.mirrors else None
    if first is None or first.digest is None:
        return ""
    return first.digest[0] + ("" if first.confirmed else ", unconfirmed")


def _describe_origin(entry: Entry) -> str:
    hosts = [
        "huggingface.co" if mirror.address.startswith("hf:") else mirror.address.split("/")[2]
        for mirror in entry.mirrors
    ]
    more = [f"or {len(hosts) - 1} other{'s' * (len(hosts) > 2)}"] if len(hosts) > 1 else []
    return " ".join(hosts[:1] + more) or entry.page or "this project"
