"""The paths of inputs, as they are found below a folder, and those of their results."""

import hashlib
import os
import unicodedata
from collections.abc import Iterator
from pathlib import Path

from utils.quote import plain

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


def find_images(input_dir: Path, save_dir: Path, suffixes: tuple[str, ...] = SUFFIXES) -> list[str]:
    """List the image files below a folder.

    Args:
        input_dir: Folder to search, recursively; links to folders are not followed.
        save_dir: Folder of results, left out where it lies inside input_dir.
        suffixes: What the names of the files end in, in lower case.

    Returns:
        Relative POSIX paths of regular files and of links, sorted.

    Raises:
        ValueError: There is none, or a folder cannot be searched.
    """
    found, num_others, example = [], 0, None
    for name, is_file in _walk(os.path.realpath(input_dir), os.path.realpath(save_dir)):
        if is_file and name.lower().endswith(suffixes) and not name.rpartition("/")[2].startswith("."):
            found.append(name)
        else:
            num_others += 1
            example = name if example is None else min(example, name)
    if not found:
        seen = f"{num_others} other file(s), such as {plain(example)}" if num_others else "nothing"
        raise ValueError(f"{input_dir}: no images; found {seen}, looked for {' '.join(suffixes)}")
    return sorted(found)


def _walk(root: str, left_out: str) -> Iterator[tuple[str, bool]]:
    """Yield what lies below a folder: relative path, and whether it is a regular file or a link to no folder.

    Strings, not paths, and no stat a file: a work list may hold 100,000 of them.
    """
    folders = [""]
    while folders:
        prefix = folders.pop()
        try:
            with os.scandir(os.path.join(root, prefix)) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        if entry.path != left_out:
                            folders.append(f"{prefix}{entry.name}/")
                    elif not entry.is_symlink():
                        yield prefix + entry.name, entry.is_file(follow_symlinks=False)
                    elif not os.path.isdir(entry.path):
                        yield prefix + entry.name, True
        except FileNotFoundError:
            if not prefix:
                raise ValueError(f"{root}: no such folder") from None
            # it vanished since its parent was read, and its images with it
        except OSError as error:
            folder = plain(os.path.join(root, prefix))
            raise ValueError(
                f"{folder}: cannot be searched: {error.strerror}; allow it, or move it"
            ) from None


def result_names(names: list[str]) -> dict[str, str]:
    """Name the result of each input: its relative path as .png, two of one stem keep their suffix.

    No two results share a name, nor one the name of a folder of others, in whatever case: some file
    systems take A.png and a.png for one. Where the suffix does not tell inputs apart, a hash of the name
    is added.
    """
    folders = _folders(names)
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
            while len(groups[key]) > (0 if key in folders else 1):
                lowest = min(steps[name] for name in groups[key])
                moved += [name for name in groups[key] if steps[name] == lowest]
                groups[key] = [name for name in groups[key] if steps[name] > lowest]
        for name in moved:
            steps[name] += 1
    return {name: _candidate(name, steps[name]) for name in names}


def _candidate(name: str, step: int) -> str:
    """Name a result after an input: by its stem, else its name, else its name and more and more of a hash."""
    if step == 0:
        return f"{name.rpartition('.')[0]}.png"
    if step == 1:
        return f"{name}.png"
    return f"{name}.{hashlib.sha256(os.fsencode(name)).hexdigest()[: 8 * (step - 1)]}.png"


def _folders(names: list[str]) -> set[str]:
    found: set[str] = set()
    for parent in {name.rpartition("/")[0] for name in names}:
        while parent and (key := _fold(parent)) not in found:
            found.add(key)
            parent = parent.rpartition("/")[0]
    return found


def _fold(name: str) -> str:
    return name.lower() if name.isascii() else unicodedata.normalize("NFC", name).casefold()
