"""What is known of results: said once where all share it, by item where not, whatever a log holds."""

import json
import math

import pytest

from utils.jobs import logs, report
from utils.jobs.job import Item
from utils.jobs.notes import Known, Notes
from utils.jobs.records import Records

ITEMS = [Item(f"{name}.jpg", 0, f"{name}.png") for name in ("a", "deep/b", "c")]
COST = {"calls": 5, "seconds": 0.1, "precision": "float32"}


def known(*rows):
    notes = Notes()
    for row in rows:
        notes.add(row)
    return notes.by_folder()


def test_what_all_share_is_said_once():
    row = {"": {"edit_steps": 10, "t0": 0.5, "class_label": None}}
    assert known(row, None, row) == {"": Known({"edit_steps": 10, "t0": 0.5}, {})}


def test_the_rest_is_said_by_item():
    rows = [{"": {"t0": 0.5, "difference": x, "latent": {"std": 1.0, "mean": x}}} for x in (0.1, 0.3)]
    found = known(None, rows[0], None, rows[1])[""]
    assert found.shared == {"t0": 0.5, "latent.std": 1.0}
    assert found.own == {
        "difference": [None, 0.1, None, 0.3],
        "latent.mean": [None, 0.1, None, 0.3],
    }
    assert found.of(0) == {}
    assert found.of(3) == {"difference": 0.3, "latent.mean": 0.3}
    assert found.summary()["difference"] == {"mean": 0.2, "least": 0.1, "most": 0.3}


def test_each_folder_has_its_own():
    rows = [{"to_a": {"class_B": "a"}, "to_b": {"class_B": "b", "A_to_A": x}} for x in (1, 2)]
    assert known(*rows) == {
        "to_a": Known({"class_B": "a"}, {}),
        "to_b": Known({"class_B": "b"}, {"A_to_A": [1, 2]}),
    }


def test_what_only_some_say_is_not_shared():
    found = known({"": {"t0": 0.5}}, {"": {"t0": 0.5, "difference": 0.1}}, {"": {}})[""]
    assert found == Known({}, {"t0": [0.5, 0.5, None], "difference": [None, 0.1, None]})


def test_names_have_no_range_in_the_summary():
    found = known({"": {"class_A": "cat"}}, {"": {"class_A": "dog"}})[""]
    assert found.own == {"class_A": ["cat", "dog"]}
    assert found.summary() == {}


@pytest.mark.parametrize("row", [None, 5, [], "x", {"": 5}, {"": []}, {"": {"a": [1], "b": {"c": {}}}}])
def test_damaged_notes_are_none(row):
    assert [one.shared | one.own for one in known(row, row).values()] in ([], [{}])


def test_numbers_that_json_has_not_are_text():
    found = known({"": {"A_to_A": math.nan}}, {"": {"A_to_A": math.inf}})[""]
    assert found.own == {"A_to_A": ["nan", "inf"]}
    json.dumps(found.own, allow_nan=False)


def written(folder, rows):
    """Record items with notes, or without where there are None, and return report.json."""
    records = Records(folder, "key", {"command": "python x.py"})
    for item, notes in zip(ITEMS, rows, strict=True):
        more = {} if notes is None else {"notes": notes}
        records.commit(item, {item.target: b"x"}, {}, {**COST, **more})
    records.finish({"seconds": 1.5})
    report.write(folder, "key", ITEMS)
    return json.loads((folder / report.NAME).read_text())


def test_the_report_says_what_is_known_of_each_result(tmp_path):
    rows = [{"x": {"t0": 0.5, "difference": x}} for x in (0.1, 0.2, 0.6)]
    found = written(tmp_path, rows)
    assert found["notes"] == {"x": {"t0": 0.5, "difference": {"mean": 0.3, "least": 0.1, "most": 0.6}}}
    assert found["results"] == {
        "x/a.png": {"difference": 0.1},
        "x/deep/b.png": {"difference": 0.2},
        "x/c.png": {"difference": 0.6},
    }
    assert list(found)[-2:] == ["key", "results"]


def test_a_log_of_before_there_were_notes_is_read(tmp_path):
    found = written(tmp_path, [None, None, {"": {"t0": 0.5}}])
    assert (found["done"], found["notes"]) == (3, {"": {"t0": 0.5}})
    assert "results" not in found
    assert logs.read(tmp_path).done("a.png", "key")["calls"] == 5


def test_the_report_gives_times_as_people_write_them(tmp_path):
    [process] = written(tmp_path, [None] * 3)["processes"]
    assert process["command"] == "python x.py"
    [log] = (tmp_path / ".records").glob("*.jsonl")
    moment = report.datetime.fromisoformat(process["started"])
    assert moment.tzinfo is not None
    assert moment.timestamp() == pytest.approx(json.loads(log.read_text().splitlines()[0])["time"], abs=1)


def test_a_time_that_is_none_is_no_time(tmp_path):
    written(tmp_path, [None] * 3)
    [log] = (tmp_path / ".records").glob("*.jsonl")
    first, _, rest = log.read_text().partition("\n")
    log.write_text(json.dumps({**json.loads(first), "time": 9e14}) + "\n" + rest)
    report.write(tmp_path, "key", ITEMS)
    [process] = json.loads((tmp_path / report.NAME).read_text())["processes"]
    assert process["started"] is None
