"""Weights in a wheel that the user has: found, checked, and taken out alone."""

import hashlib
import os
import random
import zipfile
from pathlib import Path

import pytest

from tests.utils.sources.file_server import weights
from utils.sources import source
from utils.sources.download import DownloadError
from utils.sources.package import unpack
from utils.sources.registry import Entry, Mirror, table

DATA = weights(7000)
HASH = hashlib.sha256(DATA).hexdigest()
WHEEL, MEMBER = "stars-1.0-py3-none-any.whl", "stars/net.eqx"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Register one file of a package, whose address leads nowhere, and go to an empty folder."""
    entry = Entry(
        **{"name": "a/b/net", "file": "net.eqx", "config": "demo/fruits64", "licence": "none stated"},
        **{"package": WHEEL, "member": MEMBER, "size": len(DATA), "source": "https://x.org/stars"},
        mirrors=(Mirror(address="hf://owner/name/net.eqx", sha256=HASH),),
    )
    monkeypatch.setattr(source, "read_registry", lambda: {entry.name: entry})
    monkeypatch.setattr("utils.sources.registry.read_registry", lambda: {entry.name: entry})
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "w"


def written(
    path: Path, content: bytes = DATA, method: int = zipfile.ZIP_DEFLATED, name: str = MEMBER
) -> Path:
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("stars/__init__.py", b"raise SystemExit")
        archive.writestr(name, content)
        archive.writestr("../../evil", b"x")
    return path


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("place", ["weights_dir", "current folder"])
def test_a_name_finds_its_file_in_a_wheel(folder, method, place):
    written((folder if place == "weights_dir" else Path()) / WHEEL, method=method)
    found = source.parse("net", folder)
    assert found.on_disk() is None
    assert "on disk:\na/b/net  0 MB" in table(folder)
    assert found.fetch() == folder / "net.eqx" == found.on_disk()
    assert (folder / "net.eqx").read_bytes() == DATA
    assert {path.name for path in folder.iterdir()} <= {"net.eqx", WHEEL}  # and nothing else was unpacked
    assert not (folder.parent.parent / "evil").exists()


@pytest.mark.parametrize("place", ["w/net.eqx", "w/stars/net.eqx", "here/stars/net.eqx", "here/net.eqx"])
def test_a_name_finds_its_file_unpacked(folder, place):
    path = folder.parent / place
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(DATA)
    assert os.path.samefile(source.parse("net", folder).fetch(), path)
    path.write_bytes(DATA[:-1])  # cut off: not that file
    assert source.parse("net", folder).on_disk() is None


def test_without_any_the_message_names_the_package(folder):
    with pytest.raises(
        DownloadError, match=rf"hf download owner/name net.eqx(.|\n)*in {WHEEL} .*into {folder} or"
    ):
        source.parse("net", folder).fetch()


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"content": DATA[:-1] + b"?"}, f"net.eqx has sha256 .* instead of {HASH}"),
        ({"content": DATA + bytes(10**7)}, "has sha256"),  # no more of it than a byte too many is inflated
        ({"name": "stars/other.eqx"}, "has no stars/net.eqx; get the version"),
        ({"method": zipfile.ZIP_LZMA}, "neither stored nor deflated"),
    ],
)
def test_another_wheel_is_refused(folder, change, problem):
    written(folder / WHEEL, **{"method": zipfile.ZIP_DEFLATED} | change)
    with pytest.raises(DownloadError, match=problem):
        source.parse("net", folder).fetch()
    assert [path.name for path in folder.iterdir()] == [WHEEL]


def test_damaged_wheels_are_refused_or_give_the_right_file(folder):
    sound, rng = written(folder / WHEEL, method=zipfile.ZIP_DEFLATED).read_bytes(), random.Random(1)
    refused = 0
    for _ in range(200):
        data = bytearray(sound)
        if rng.random() < 0.2:
            data = data[: rng.randrange(len(data))]
        for _ in range(rng.randint(1, 4)):
            data[-rng.randint(1, 400)] = rng.randrange(256)  # its list of files stands at the end
        (folder / WHEEL).write_bytes(data)
        try:
            path = unpack(folder / WHEEL, MEMBER, folder / "net.eqx", len(DATA), HASH)
            assert path.read_bytes() == DATA
        except DownloadError:
            refused += 1
    assert 50 < refused < 200


def test_a_folder_that_cannot_be_written_is_named(folder):
    wheel = written(folder / WHEEL)
    (folder / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match="give --weights_dir"):
        unpack(wheel, MEMBER, folder / "file" / "net.eqx", len(DATA), HASH)
