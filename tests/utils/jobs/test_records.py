"""What a run has finished, after every way in which a process can end."""

import json
import os

import pytest

from utils import files
from utils.files import SCRATCH
from utils.jobs import logs
from utils.jobs.job import Item, ItemError
from utils.jobs.origin import Origin
from utils.jobs.records import Records, temporary_stem

ITEMS = [Item(f"{name}.jpg", 0, f"{name}.png") for name in ("a", "deep/b", "c")]
ITEM_NAMES = [item.name for item in ITEMS]
CONTENTS = {"a.png": b"result of a", "comparison/a.png": b"strip of a"}
NOTES = {"calls": 5, "seconds": 0.1, "precision": "float32"}
MADE_FROM: dict = {}


def nothing(item):
    return Origin({})


def records(folder, key="key", **options):
    return Records(folder, key, {"rank": 0}, **options)


def visible(folder):
    paths = (p for p in folder.rglob("*") if p.is_file() and SCRATCH not in p.parts)
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in paths}


def missing(folder, key="key", verify=False):
    return [item.name for item in records(folder, key).missing(ITEMS, nothing, verify)]


def test_what_is_committed_is_done_for_this_key_alone(tmp_path):
    assert missing(tmp_path) == ["a.jpg", "deep/b.jpg", "c.jpg"]
    records(tmp_path).commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
    assert visible(tmp_path) == CONTENTS
    assert missing(tmp_path) == ["deep/b.jpg", "c.jpg"]
    assert missing(tmp_path, key="other") == ["a.jpg", "deep/b.jpg", "c.jpg"]


STEPS = ["write_synced:0", "write_synced:1", "append", "replace:0", "replace:1"]


@pytest.mark.parametrize("step", STEPS)
def test_a_process_that_dies_between_two_steps_leaves_all_or_nothing(tmp_path, step):
    name, _, count = step.partition(":")
    left = [int(count or 0)]

    def dying(real):
        def call(*args):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return real(*args)

        return call

    process = os.fork()
    if process == 0:
        run = records(tmp_path)
        run.missing(ITEMS, nothing)
        owner = {"write_synced": files, "append": Records, "replace": os}[name]
        attribute = "_append" if name == "append" else name
        setattr(owner, attribute, dying(getattr(owner, attribute)))
        run.commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == 9
    if name == "replace":  # it was recorded, so the next start renames
        assert missing(tmp_path) == ["deep/b.jpg", "c.jpg"]
        assert visible(tmp_path) == CONTENTS
    else:
        assert missing(tmp_path) == ["a.jpg", "deep/b.jpg", "c.jpg"]
        assert visible(tmp_path) == {}


def test_a_line_that_was_cut_off_is_no_record(tmp_path):
    run = records(tmp_path)
    run.commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
    [log] = (tmp_path / SCRATCH).glob("*.jsonl")
    log.write_bytes(log.read_bytes() + b'{"item": "c.png", "files"')
    assert missing(tmp_path) == ["deep/b.jpg", "c.jpg"]
    log.write_bytes(log.read_bytes()[:-60])
    assert logs.read(tmp_path).done("a.png", "key") is None
    assert missing(tmp_path) == ["a.jpg", "deep/b.jpg", "c.jpg"]


def test_damage_is_noticed_by_size_and_with_verify_by_content(tmp_path, capsys):
    run = records(tmp_path)
    for item in ITEMS:
        run.commit(item, {item.target: item.target.encode()}, MADE_FROM, NOTES)
    assert missing(tmp_path) == []
    (tmp_path / "a.png").write_bytes(b"cut")
    (tmp_path / "c.png").write_bytes(b"C.png")
    assert missing(tmp_path) == ["a.jpg"]
    assert missing(tmp_path, verify=True) == ["a.jpg", "c.jpg"]
    (tmp_path / "deep/b.png").unlink()
    assert missing(tmp_path) == ITEM_NAMES  # what was noticed once is not forgotten
    run = records(tmp_path)
    for item in run.missing(ITEMS, nothing, verify=True):
        run.commit(item, {item.target: item.target.encode()}, MADE_FROM, NOTES)
    assert missing(tmp_path, verify=True) == []


def test_a_file_that_no_run_wrote_is_not_replaced_unless_that_is_allowed(tmp_path):
    (tmp_path / "a.png").write_bytes(b"mine")
    with pytest.raises(ItemError, match="in the way, which no run wrote; move it, or allow --overwrite"):
        records(tmp_path).commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
    assert visible(tmp_path) == {"a.png": b"mine"}
    records(tmp_path, replace=True).commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
    assert visible(tmp_path) == CONTENTS
    other = records(tmp_path, key="other")
    assert other.missing(ITEMS, nothing) == ITEMS
    other.commit(ITEMS[0], {"a.png": b"another"}, MADE_FROM, NOTES)  # replaces what a run wrote
    assert visible(tmp_path)["a.png"] == b"another"


def test_a_disk_that_takes_no_more_leaves_no_files(tmp_path, monkeypatch):
    run = records(tmp_path)
    real = files.write_synced

    def full(path, data):
        if b"strip" in data:
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(files, "write_synced", full)
    with pytest.raises(OSError, match="No space"):
        run.commit(ITEMS[0], CONTENTS, MADE_FROM, NOTES)
    assert visible(tmp_path) == {}
    assert missing(tmp_path) == ["a.jpg", "deep/b.jpg", "c.jpg"]


def test_results_do_not_leave_the_folder_by_a_link(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "deep").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ItemError, match="leads out of"):
        records(tmp_path / "out").commit(ITEMS[1], {"deep/b.png": b"x"}, MADE_FROM, NOTES)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_stale_temporary_files_are_removed_but_not_those_of_other_processes(tmp_path):
    paths = [tmp_path / f".{temporary_stem(item.target)}-0123456789ab-0.tmp" for item in ITEMS]
    for path in paths:
        path.write_bytes(b"half")
    assert records(tmp_path).missing(ITEMS[:1], nothing) == ITEMS[:1]
    assert [path.exists() for path in paths] == [False, True, True]


def test_logs_are_lines_of_json(tmp_path):
    run = records(tmp_path)
    run.fail(ITEMS[2], "broken")
    run.finish({"done": 0})
    [log] = (tmp_path / SCRATCH).glob("*.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert lines[0]["process"] == {"rank": 0}
    assert lines[1]["failed"] == "broken"
    assert lines[1]["input"] == "c.jpg"
    assert lines[2]["end"] == {"done": 0}
    assert missing(tmp_path) == ["a.jpg", "deep/b.jpg", "c.jpg"]
