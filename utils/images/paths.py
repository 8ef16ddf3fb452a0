"""The paths of inputs, as they are found below a folder, and those of their results."""

import hashlib
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from utils.codecs import SUFFIXES
from utils.quote import plain

SYSTEM_FOLDERS = ("@eadir", "#recycle", "lost+found", "$recycle.bin", "__macosx", "system volume information")
"""Where systems keep thumbnails, and what was deleted or not quite lost; in lower case."""
STRIPS, SHEETS, TRAJECTORIES, LATENTS = "comparison", "sheets", "trajectory", "latents"
"""Folders of a save_dir that hold more than the results."""
_SYSTEM_FILES = ("thumbs.db", "desktop.ini", "icon\r")
_RUN, _RUN_HOLDS = "run.json", (b'"key"', b'"settings"')
_MOST = 5


@dataclass
class Found:
    """What lies below a folder."""

    names: list[str] = field(default_factory=list)
    """Relative POSIX paths of what was looked for, sorted: regular files and links."""
    others: Counter[str] = field(default_factory=Counter)
    """How many other files, by suffix; without those that systems put there."""
    example: str | None = None
    """The first of these."""
    folders: dict[str, str] = field(default_factory=dict)
    """What was not searched, and why."""

    def describe(self) -> list[str]:
        """Say what was left alone, in a line for the files and one for the folders."""
        lines = []
        if total := self.others.total():
            kinds = ", ".join(f"{count} {plain(kind, 40)}" for kind, count in self.others.most_common(_MOST))
            rest = ", ..." if len(self.others) > _MOST else ""
            lines.append(f"{total} file{'s' * (total > 1)} left alone: {kinds}{rest}")
        if total := len(self.folders):
            some = [f"{plain(name)} ({why})" for name, why in sorted(self.folders.items())[:_MOST]]
            rest = ", ..." if total > _MOST else ""
            lines.append(f"{total} folder{'s' * (total > 1)} left alone: {', '.join(some)}{rest}")
        return lines


def find_images(input_dir: Path, save_dir: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """List the image files below a folder, as `search` finds them.

    Returns:
        Relative POSIX paths of regular files and of links, sorted.

    Raises:
        ValueError: There is none, or a folder cannot be searched.
    """
    return search(input_dir, save_dir, suffixes).names


def search(input_dir: Path, save_dir: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Found:
    """Look for image files below a folder.

    Hidden and system folders are left alone, as are links to folders, and results of earlier runs.

    Args:
        input_dir: Folder to search, recursively.
        save_dir: Folder of results, left out where it lies inside input_dir.
        suffixes: What the names of the files end in, in lower case.

    Raises:
        ValueError: There is none, or a folder cannot be searched.
    """
    found = Found()
    for name, is_file in _walk(os.path.realpath(input_dir), os.path.realpath(save_dir), found.folders):
        base = name.rpartition("/")[2].lower()
        if base.startswith(".") or base in _SYSTEM_FILES:
            continue
        if is_file and base.endswith(suffixes):
            found.names.append(name)
        else:
            stem, dot, suffix = base.rpartition(".")
            found.others[dot + suffix if stem else "without suffix"] += 1
            found.example = name if found.example is None else min(found.example, name)
    if not found.names:
        total = found.others.total()
        seen = f"{total} other file(s), such as {plain(found.example)}" if total else "nothing"
        raise ValueError(f"{input_dir}: no images; found {seen}, looked for {' '.join(suffixes)}")
    found.names.sort()
    return found


def _walk(root: str, left_out: str, left_alone: dict[str, str]) -> Iterator[tuple[str, bool]]:
    """Yield what lies below a folder: relative path, and whether it is a regular file or a link to no folder.

    Strings, not paths, and no stat a file: a work list may hold 100,000 of them.
    """
    folders = [""]
    while folders:
        prefix = folders.pop()
        if prefix and _is_run(os.path.join(root, prefix)):
            left_alone[prefix.rstrip("/")] = "results of an earlier run"
            continue
        try:
            with os.scandir(os.path.join(root, prefix)) as entries:
                for entry in entries:
                    name = prefix + entry.name
                    if entry.is_dir(follow_symlinks=False):
                        if _is_system(entry.name):
                            left_alone[name] = "a hidden or system folder"
                        elif entry.path != left_out:
                            folders.append(f"{name}/")
                    elif not entry.is_symlink():
                        yield name, entry.is_file(follow_symlinks=False)
                    elif os.path.isdir(entry.path):
                        left_alone[name] = "a link, which is not followed; put the folder itself there"
                    else:
                        yield name, True
        except FileNotFoundError:
            if not prefix:
                raise ValueError(f"{root}: no such folder") from None
            # it vanished since its parent was read, and its images with it
        except OSError as error:
            folder = plain(os.path.join(root, prefix))
            raise ValueError(
                f"{folder}: cannot be searched: {error.strerror}; allow it, or move it"
            ) from None


def _is_system(folder: str) -> bool:
    return folder.startswith(".") or folder.lower() in SYSTEM_FOLDERS


def _is_run(folder: str) -> bool:
    """Tell whether a folder is the SAVE_DIR of a run, by how its run.json begins."""
    path = os.path.join(folder, _RUN)
    try:
        if not os.path.isfile(path):
            return False
        with open(path, "rb") as file:
            head = file.read(1000)
    except OSError:
        return False
    return all(mark in head for mark in _RUN_HOLDS)


def result_names(names: list[str], suffix: Callable[[str], str] = lambda name: ".png") -> dict[str, str]:
    """Name the result of each input: its relative path as .png, two of one stem keep their suffix.

    No two results share a name but for the suffix, nor one the name of a folder of others, in whatever case:
    some file systems take A.png and a.png for one. Where the suffix does not tell inputs apart, a hash of the
    name is added.

    Args:
        names: The inputs.
        suffix: Gives that of an input's result, where it is not .png.
    """
    folders = _folders(names)
    suffixes = {name: suffix(name) for name in names}
    steps = dict.fromkeys(names, 0)
    groups: dict[str, list[str]] = {}
    moved = names
    while moved:
        touched: set[str] = set()
        for name in moved:
            key = _fold(_candidate(name, steps[name]))
            groups.setdefault(key, []).append(name)
            touched.add(key)
        moved = []
        for key in touched:
            taken = any(key + ending in folders for ending in {".png", *map(suffixes.get, groups[key])})
            while len(groups[key]) > (0 if taken else 1):
                lowest = min(steps[name] for name in groups[key])
                moved += [name for name in groups[key] if steps[name] == lowest]
                groups[key] = [name for name in groups[key] if steps[name] > lowest]
        for name in moved:
            steps[name] += 1
    return {name: _candidate(name, steps[name]) + suffixes[name] for name in names}


def _candidate(name: str, step: int) -> str:
    """Name a result after an input: by its stem, else its name, else its name and more and more of a hash."""
    if step == 0:
        return name.rpartition(".")[0]
    if step == 1:
        return name
    return f"{name}.{hashlib.sha256(os.fsencode(name)).hexdigest()[: 8 * (step - 1)]}"


def _folders(names: list[str]) -> set[str]:
    found: set[str] = set()
    for parent in {name.rpartition("/")[0] for name in names}:
        while parent and (key := _fold(parent)) not in found:
            found.add(key)
            parent = parent.rpartition("/")[0]
    return found


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
