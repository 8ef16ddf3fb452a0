"""What an item is made from: seen by size and times, and by content where these differ."""

import os

import pytest

from utils.jobs.origin import ChangedError, Origin


def origin(folder, **facts):
    return Origin({"image": (folder, "a")}, facts)


def recorded(folder, **facts):
    made = origin(folder, **facts)
    return made.record(made.look())


def test_differences_are_named(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"one")
    before = recorded(tmp_path, **{"class": 1})
    assert origin(tmp_path, **{"class": 1}).difference(before) == ""
    assert origin(tmp_path, **{"class": 2}).difference(before) == "class changed"
    assert origin(tmp_path).difference(before) == "class gone"
    assert origin(tmp_path, **{"class": 1}).difference({}) == "class added"
    assert Origin({"image": (tmp_path, "b")}, {"class": 1}).difference(before) == "image changed"
    two = Origin({"image": (tmp_path, "a"), "mask": (tmp_path, "b")}, {"class": 1})
    assert two.difference(before) == "mask added"
    for damaged in (None, [], ["a", 3, 0, 0, 5], {"a": 1}):
        assert origin(tmp_path).difference({"image": damaged}) == "image changed"


def test_content_decides_where_times_differ(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    before = recorded(tmp_path)
    os.utime(tmp_path / "a")
    assert origin(tmp_path).difference(before) == ""
    times = (tmp_path / "a").stat()
    (tmp_path / "a").write_bytes(b"two")
    os.utime(tmp_path / "a", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert origin(tmp_path).difference(before) == "image changed"
    (tmp_path / "a").unlink()
    assert origin(tmp_path).difference(before) == "image changed"


def test_unchanged_files_are_not_read_unless_asked(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"one")
    before = recorded(tmp_path)
    monkeypatch.setattr("utils.files.sha256", lambda path: "another")
    assert origin(tmp_path).difference(before) == ""
    assert origin(tmp_path).difference(before, exactly=True) == "image changed"


def test_a_file_that_changes_while_it_is_read_is_noticed(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    seen = origin(tmp_path).look()
    (tmp_path / "a").write_bytes(b"longer")
    with pytest.raises(ChangedError, match="its image changed while it was read; run the command again"):
        origin(tmp_path).record(seen)
