"""Which class each input is of: one for all, by the folder it lies in, or by a list."""

import csv
from pathlib import Path, PurePosixPath

from utils.config import Config, class_index
from utils.quote import plain, quote

BY_FOLDER = "folder"
MAX_BYTES = 256 * 2**20


def differs(given: str) -> bool:
    """Whether pictures may be of different classes."""
    return given == BY_FOLDER or given.endswith(".csv")


def read_classes(flag: str, given: str, config: Config, input_dir: Path, names: list[str]) -> dict[str, int]:
    """Find the class of every input.

    Args:
        flag: The option, for messages.
        given: An index or a name of the config's classes; 'folder' for the name of the folder that an input
            lies in; or the path of a .csv file of lines path,class, the path relative to input_dir.
        config: Of the network.
        input_dir: Folder of the inputs.
        names: Their relative paths.

    Returns:
        Class index by relative path.

    Raises:
        ValueError: Unknown classes, or inputs without one; all of them named, up to a few.
    """
    if given == BY_FOLDER:
        found = {name: PurePosixPath(name).parent.name or input_dir.resolve().name for name in names}
    elif given.endswith(".csv"):
        found = _read_csv(flag, Path(given))
        missing = [name for name in names if name not in found]
        if missing:
            raise ValueError(
                f"--{flag} {given}: no line for {_some(missing)}; add path,class lines for all inputs"
            )
    else:
        return dict.fromkeys(names, class_index(config, given))
    indices = {}
    for name in names:
        label = found[name]
        try:
            indices[label] = indices[label] if label in indices else class_index(config, label)
        except ValueError as error:
            where = f"the folder of {plain(name)}" if given == BY_FOLDER else f"{given}, for {plain(name)}"
            hint = "; put each picture in a folder that is called as its class" if given == BY_FOLDER else ""
            raise ValueError(f"--{flag} {given}: {where}: {error}{hint}") from None
    return {name: indices[found[name]] for name in names}


def _read_csv(flag: str, path: Path) -> dict[str, str]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins it with a byte order mark
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise ValueError(f"--{flag} {path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise ValueError(f"--{flag} {path}: cannot be read: {plain(error)}") from None
    found: dict[str, str] = {}
    for i, row in enumerate(rows, 1):
        if len(row) != 2 or "\0" in row[0] + row[1]:
            raise ValueError(f"--{flag} {path}: line {i} is not path,class; found {quote(row)}")
        name, label = row[0].strip(), row[1].strip()
        if found.setdefault(name, label) != label:
            raise ValueError(f"--{flag} {path}: {quote(name)} is {quote(found[name])} and {quote(label)}")
    return found


def _some(names: list[str]) -> str:
    return ", ".join(plain(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
