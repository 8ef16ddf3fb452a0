"""One file out of a wheel, which is a zip archive: only what the registry expects is taken."""

import hashlib
import os
import tempfile
import zipfile
import zlib
from pathlib import Path

from utils.quote import plain
from utils.sources.download import DownloadError

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def unpack(package: Path, member: str, target: Path, size: int, sha256: str) -> Path:
    """Write a member of a wheel to a file that is there whole or not at all.

    Nothing is written where the archive says, so that no name in it can lead elsewhere, and no more than
    `size` bytes are ever inflated.

    Args:
        package: The wheel.
        member: Name of the file in it.
        target: Where the file goes.
        size: Bytes that it must have.
        sha256: Hash that it must have, hexadecimal.

    Returns:
        `target`.

    Raises:
        DownloadError: The wheel is broken or of another version, or `target` cannot be written.
    """
    try:
        content = _read(package, member, size)
    except KeyError:
        raise DownloadError(f"{package}: has no {member}; get the version that it is named after") from None
    except (zipfile.BadZipFile, zlib.error, RuntimeError, EOFError, ValueError, OSError) as error:
        raise DownloadError(f"{package}: a broken wheel ({plain(error)}); fetch it again") from None
    found = hashlib.sha256(content).hexdigest()
    if len(content) != size or found != sha256:
        raise DownloadError(
            f"{package}: its {member} has sha256 {found} instead of {sha256}; get the version that it is "
            "named after"
        )
    try:
        _write(content, target)
    except OSError as error:
        raise DownloadError(f"{target}: {plain(error)}; make room, or give --weights_dir") from None
    return target


def _read(package: Path, member: str, size: int) -> bytes:
    with zipfile.ZipFile(package) as archive:
        entry = archive.getinfo(member)
        if entry.compress_type not in _METHODS:
            raise NotImplementedError("a member is neither stored nor deflated")
        with archive.open(entry) as file:
            return file.read(size + 1)


def _write(content: bytes, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, part = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".part", dir=target.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        os.replace(part, target)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
