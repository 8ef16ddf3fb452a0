"""The page of a run: what it holds, that nothing in a name breaks it, its size and the time it takes."""

import json
import math
import re
import time
import tracemalloc
from pathlib import Path

import pytest

from utils.jobs import page
from utils.jobs.notes import Notes

SETTINGS = {"config": {"model": {"image_size": 64}}, "fit": "crop", "timesteps": list(range(100))}
REPORT = {"items": 3, "done": 2, "failed": 1, "missing": 0, "seconds_per_item": 0.1, "processes": []}
ODD = [
    'deep/it\'s "quoted".png',
    "100% #1?.png",
    "</script><script>alert(1)</script>.png",
    "<!--<script>.png",
    "a&amp;b.png",
    "\u6797\u6a9e \U0001f34e.jpg",
    "b\udcff\udcfe.png",
    "{{title}}.png",
    "line\nbreak.png",
    "javascript:alert(1).png",
]


def about(**changed):
    given = {"title": "SDEdit: <out>", "named": {}, "given": {}, "settings": SETTINGS, "folders": [""]}
    return page.About(**{**given, "inputs": Path("/data/in put#1"), **changed})


def entry(name, state="done", reason=""):
    return page.Entry(name, f"{name.rpartition('.')[0]}.png", state, reason)


def held(text):
    return json.loads(re.search(r'<script id="data"[^>]*>(.*?)</script>', text, re.DOTALL)[1])


def test_rows_say_what_cannot_be_told_from_the_name():
    entries = [
        entry("a.jpg"),
        page.Entry("b.jpg", "b.jpg.png", "done"),
        entry("c.tif", "failed", "is broken"),
        entry("deep.er/d.png", "missing"),
    ]
    rows = held(page.render(Path("/data/out"), about(), REPORT, entries))["rows"]
    assert rows == [
        "a.jpg",
        ["b.jpg", "b.jpg", "d"],
        ["c.tif", 0, "f", {"0": "is broken"}],
        ["deep.er/d.png", 0, "m"],
    ]


def test_samples_of_an_input_are_one_row():
    entries = [page.Entry("a.jpg", f"a_s{i:02d}.png", state) for i, state in enumerate(["done"] * 3)]
    entries += [page.Entry("b.jpg", "b_s00.png", "done"), page.Entry("b.jpg", "b_s01.png", "failed", "NaN")]
    data = held(page.render(Path("out"), about(settings={**SETTINGS, "samples": 3}), REPORT, entries))
    assert data["samples"] == 3
    assert data["rows"] == ["a.jpg", ["b.jpg", 0, "df", {"1": "NaN"}]]


def test_no_name_breaks_the_page():
    entries = [entry(name, "failed", f"{name}: no image") for name in ODD]
    text = page.render(Path("/data/out"), about(), REPORT, entries)
    assert [row[0] for row in held(text)["rows"]] == ODD
    assert text.count("<script") == text.count("</script") == 2
    assert "<title>SDEdit: &lt;out&gt;</title>" in text
    assert text.isascii()


def test_nothing_is_named_elsewhere():
    text = page.render(Path("/data/out"), about(), REPORT, [entry("a.png")])
    assert not re.search(r"https?:|//[a-z]|@import|url\(", text)
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    ("inputs", "address"),
    [("/data/in put#1", "./../in%20put%231/"), ("/data", "./../"), ("/data/out/100%", "./100%25/")],
)
def test_inputs_are_found_from_where_the_page_lies(inputs, address):
    text = page.render(Path("/data/out"), about(inputs=Path(inputs)), REPORT, [entry("a.png")])
    assert held(text)["inputs"] == address


def test_a_page_of_a_thousand_is_small_and_one_of_100_000_is_quick():
    entries = [entry(f"folder_{i % 7}/photo_{i:06d}.jpg") for i in range(100_000)]
    few, known = shared(1000), shared(100_000)
    size = len(page.render(Path("out"), about(), REPORT, entries[:1000], few))
    assert size < 100_000
    start = time.process_time()
    whole = len(page.render(Path("out"), about(), REPORT, iter(entries), known))
    seconds = time.process_time() - start
    tracemalloc.start()
    page.render(Path("out"), about(), REPORT, iter(entries), known)
    mib = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    print(f"1,000 items: {size} bytes; 100,000: {whole} bytes, {seconds:.2f} s, {mib:.0f} MiB")
    assert seconds < 2
    assert mib < 100
    assert whole - size == len(json.dumps([e.input for e in entries[1000:]], separators=(",", ":"))) - 1


def shared(num_items):
    """What is known where all results are of one level."""
    return collect([{"": {"edit_steps": 10, "t0": 0.5, "sigma": 1.0124}}] * num_items)


def collect(rows):
    notes = Notes()
    for row in rows:
        notes.add(row)
    return notes.by_folder()


def test_what_100_000_results_have_of_their_own_is_small_and_quick_too():
    entries = [entry(f"{i:06d}.jpg") for i in range(100_000)]
    rows = [
        {"": {"edit_steps": i % 100, "t0": i % 100 / 100, "sigma": round(i / 7, 4), "difference": i / 2**17}}
        for i in range(100_000)
    ]
    bare = len(page.render(Path("out"), about(), REPORT, entries))
    start = time.process_time()
    size = len(page.render(Path("out"), about(), REPORT, entries, collect(rows))) - bare
    seconds = time.process_time() - start
    print(f"four numbers each: {size / 100_000:.0f} bytes an item, {seconds:.2f} s")
    assert size < 50 * 100_000
    assert seconds < 4


def test_no_note_breaks_the_page():
    odd = {"</script>": "</script><!--", "A_to_A": math.nan, "class_A": "\udcff"}
    text = page.render(Path("out"), about(), REPORT, [entry("a.png")], collect([{"</script>": odd}]))
    assert text.count("</script") == 2
    assert held(text)["known"]["</script>"]["shared"]["A_to_A"] == "nan"
