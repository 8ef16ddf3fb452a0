"""Files that are whole under their final name, or not there at all."""

import hashlib
import os
import uuid
from pathlib import Path

SCRATCH = ".records"
"""Folder of save_dir for what is not a result."""


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until the disk has it; leave nothing where that fails."""
    try:
        with path.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes, scratch: Path | None = None) -> None:
    """Write a file by way of a temporary one, beside it or in a folder of the same file system."""
    folder = scratch or path.parent
    folder.mkdir(parents=True, exist_ok=True)
    temporary = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        write_synced(temporary, data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """Hash the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
