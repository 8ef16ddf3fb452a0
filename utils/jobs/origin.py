"""What an item is made from: the files that it reads, and what else is said of it alone.

Recorded with its results. A rerun asks first for size and times of a file, which costs one look at it,
and reads it where these differ.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path

from utils import files


class ChangedError(ValueError):
    """A file changed while it was read."""


@dataclass(frozen=True, slots=True)
class Origin:
    """The files of an item, and what it is told of them."""

    files: dict[str, tuple[Path, str]]
    """By what each is for ('image', 'mask', ...): a folder and the path of the file in it."""
    facts: dict[str, object] = field(default_factory=dict)
    """What else belongs to this item alone, in terms of JSON: its class."""

    def look(self) -> dict[str, list[int]]:
        """Return size and times of each file.

        Raises:
            OSError: One of them is not there.
        """
        return {role: _look(folder, name) for role, (folder, name) in self.files.items()}

    def record(self, before: dict[str, list[int]]) -> dict[str, object]:
        """Describe it in terms of JSON.

        Args:
            before: What `look` said before the files were read.

        Raises:
            ChangedError: A file is not the one that was read.
            OSError: It is not there any more.
        """
        described = {
            role: [name, *_look(folder, name), files.sha256(folder / name)]
            for role, (folder, name) in self.files.items()
        }
        for role, (_, *seen, _) in described.items():
            if seen != before[role]:
                raise ChangedError(f"its {role} changed while it was read; run the command again")
        return {**described, **self.facts}

    def difference(self, recorded: dict[str, object], exactly: bool = False) -> str:
        """Say how it differs from what was recorded; '' where it does not.

        Args:
            recorded: What `record` returned, or anything else that JSON can say.
            exactly: Read the files even where size and times are the same.
        """
        for role in {**recorded, **self.facts, **self.files}:
            if role not in recorded:
                return f"{role} added"
            if role not in self.files:
                if role not in self.facts:
                    return f"{role} gone"
                if recorded[role] != self.facts[role]:
                    return f"{role} changed"
            elif not _is_same(*self.files[role], recorded[role], exactly):
                return f"{role} changed"
        return ""


def _look(folder: Path, name: str) -> list[int]:
    status = os.stat(os.path.join(folder, name))
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns]


def _is_same(folder: Path, name: str, recorded: object, exactly: bool) -> bool:
    if not isinstance(recorded, list) or len(recorded) != 5 or recorded[0] != name:
        return False
    try:
        seen = _look(folder, name)
        if seen == recorded[1:4] and not exactly:
            return True
        return seen[0] == recorded[1] and files.sha256(folder / name) == recorded[4]
    except OSError:
        return False
