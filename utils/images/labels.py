"""What a network is told of each input: one thing for all, by the folder it lies in, or by a list."""

import csv
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from utils.config import Config, class_index
from utils.log import once
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
        found = _by_folder(input_dir, names)
    elif given.endswith(".csv"):
        rows = _read_csv(flag, Path(given), names, ("path,class",))
        found = {name: row[0] for name, row in rows.items()}
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


class Prompt(NamedTuple):
    """What a picture is to show, in words, and what not."""

    text: str
    negative: str | None = None
    """None where it is not said of this picture."""


def read_prompts(
    prompt: str | None, prompt_file: Path | None, input_dir: Path, names: list[str]
) -> dict[str, Prompt]:
    """Find the prompt of every input.

    Args:
        prompt: Of all inputs, which may be empty; 'folder' for the name of the folder that an input lies in.
        prompt_file: In its place a .csv file of lines path,prompt or path,prompt,negative_prompt.
        input_dir: Folder of the inputs.
        names: Their relative paths.

    Raises:
        ValueError: There is none, or a file that is broken, or has no line for some of the inputs.
    """
    if prompt_file is not None:
        forms = ("path,prompt", "path,prompt,negative_prompt")
        rows = _read_csv("prompt_file", prompt_file, names, forms)
        if unknown := sorted(rows.keys() - set(names)):
            once(f"note: --prompt_file {prompt_file}: has lines for {_some(unknown)}, which are no inputs")
        return {name: Prompt(rows[name][0], "".join(rows[name][1:]) or None) for name in names}
    if prompt is None:
        raise ValueError(
            "this network is told a text: give --prompt, or --prompt_file; an empty one, '', says nothing"
        )
    words = _by_folder(input_dir, names) if prompt == BY_FOLDER else dict.fromkeys(names, prompt)
    return {name: Prompt(text) for name, text in words.items()}


def _by_folder(input_dir: Path, names: list[str]) -> dict[str, str]:
    return {name: PurePosixPath(name).parent.name or input_dir.resolve().name for name in names}


def _read_csv(flag: str, path: Path, names: list[str], forms: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Return what the lines of a file say of inputs, beside their paths.

    Args:
        flag: The option, for messages.
        path: The file.
        names: The inputs, for each of which there must be a line.
        forms: What lines may be, in words.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        with path.open(newline="", encoding="utf-8-sig") as file:  # Excel begins it with a byte order mark
            rows = [row for row in csv.reader(file) if row]
    except OSError as error:
        raise ValueError(f"--{flag} {path}: cannot be read: {error.strerror}") from None
    except (csv.Error, ValueError) as error:
        raise ValueError(f"--{flag} {path}: cannot be read: {plain(error)}") from None
    found: dict[str, tuple[str, ...]] = {}
    lengths = {form.count(",") + 1 for form in forms}
    for i, row in enumerate(rows, 1):
        if len(row) not in lengths or "\0" in "".join(row):
            raise ValueError(f"--{flag} {path}: line {i} is not {' or '.join(forms)}; found {quote(row)}")
        name, *said = (part.strip() for part in row)
        if found.setdefault(name, tuple(said)) != tuple(said):
            raise ValueError(
                f"--{flag} {path}: {quote(name)} is {quote(', '.join(found[name]))} and "
                f"{quote(', '.join(said))}"
            )
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"--{flag} {path}: no line for {_some(missing)}; add {forms[0]} lines for all inputs"
        )
    return found


def _some(names: list[str]) -> str:
    return ", ".join(plain(name) for name in names[:3]) + (
        f" and {len(names) - 3} more" if len(names) > 3 else ""
    )
