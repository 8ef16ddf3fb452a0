"""report.html in a real browser: opened from disk, scrolled, searched, compared, by mouse and by keyboard."""

import io
import json
import os
import re
import time
from functools import cache

import pytest
from PIL import Image

import sample_sdedit
from tests.browser.browser_case import chromium
from utils.jobs import page
from utils.jobs.notes import Notes
from utils.quote import command_line

NUM_IMAGES, LIMIT_S = 1000, 2.0
ODD = [
    'it\'s "quoted" #1',
    "100% pear?",
    "<script>alert(1)<",
    "a&amp;b",
    "\u6797\u6a9e \U0001f34e",
    "b\udcff",
    "c:d",
]


@pytest.fixture(scope="module")
def browser():
    with chromium() as started:
        yield started


class Opened:
    """A page, and what it asked for."""

    def __init__(self, context, path):
        self.requests, self.errors = [], []
        self.tab = context.new_page()
        self.tab.on("request", lambda request: self.requests.append(request.url))
        self.tab.on("requestfailed", lambda request: self.errors.append(f"failed: {request.url}"))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("console", lambda message: self.errors.append(message.text))
        self.tab.goto(path.as_uri())

    def wait_for(self, expression):
        """Wait until it holds; Playwright's own way needs `eval`, which the page's policy forbids."""
        end = time.monotonic() + 10
        while not self.tab.evaluate(expression):
            assert time.monotonic() < end, expression
            self.tab.wait_for_timeout(10)

    def names(self):
        return self.tab.locator(".unit .name").all_inner_texts()

    def check(self):
        """Nothing went wrong, and nothing was asked of any other place."""
        assert self.errors == []
        assert {url.partition(":")[0] for url in self.requests} <= {"file", "data"}


@pytest.fixture
def open_page(browser):
    contexts = []

    def opened(path, width=1280, height=800, **options):
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        return Opened(context, path)

    yield opened
    for context in contexts:
        context.close()


SHOWN = "Array.from(document.querySelectorAll('.unit img')).filter(i => i.complete && i.naturalWidth).length"


@cache
def picture(colour: tuple[int, ...]) -> bytes:
    """Return the file of a small picture of one colour."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, names, folders=("",), said=None, known=None, **more):
    """Write a run's inputs, results and page; a name without a picture failed."""
    settings = {"config": {"model": {"image_size": 64}}, "fit": "crop", "timesteps": [1, 2], **more}
    entries = []
    for number, name in enumerate(names):
        stem, failed = name.rpartition(".")[0], name.startswith("bad")
        reason = {"state": "failed", "reason": "is <b>broken</b>"} if failed else {"state": "done"}
        entries.append(page.Entry(name, f"{stem}.png", **reason))
        colour = (number % 16 * 16, number % 16, 90)
        for path in [] if failed else [f"in put/{name}", *(f"out/{part}/{stem}.png" for part in folders)]:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(picture(colour if path.startswith("in") else colour[::-1]))
    num_failed = sum(entry.state == "failed" for entry in entries)
    report = {"items": len(names), "done": len(names) - num_failed, "failed": num_failed, "missing": 0}
    report |= {"seconds_per_item": 0.25, "processes": [{"host": "here", "versions": {"torch": "2"}}]}
    named, given = {"config": "tiny.yaml"}, {"mask_dir": "/data/masks", "respace_steps": 2}
    about = page.About("SDEdit: out", named, given, settings, folder / "in put", list(folders))
    text = page.render(folder / "out", about, {**report, **(said or {})}, entries, known)
    (folder / "out/report.html").write_text(text)
    return folder / "out/report.html"


@pytest.fixture(scope="module")
def thousand(tmp_path_factory):
    names = [f"set {number % 3}/photo {number:04d}.png" for number in range(NUM_IMAGES)]
    return write(tmp_path_factory.mktemp("thousand"), names)


def open_and_scroll(open_page, path):
    """Open a page and go to its end; return seconds until the first and the last images are seen."""
    start = time.perf_counter()
    opened = open_page(path)
    opened.wait_for(f"{SHOWN} >= 8")
    ready = time.perf_counter() - start
    opened.tab.evaluate("document.querySelector('#list').scrollTop = 1e9")
    opened.wait_for("document.querySelector('.unit:last-child .name')?.textContent.endsWith('0999.png')")
    opened.wait_for(f"{SHOWN} >= 8 && {SHOWN} === document.querySelectorAll('.unit img').length")
    return opened, ready, time.perf_counter() - start


def test_a_thousand_images_open_and_scroll_quickly_and_ask_nobody(open_page, thousand):
    for _ in range(3):  # other work may slow down one of them
        opened, ready, seconds = open_and_scroll(open_page, thousand)
        if seconds < LIMIT_S:
            break
    assert opened.tab.inner_text("#counts") == "1,000 done \u00b7 0.25 s each"
    frames = opened.tab.evaluate("""async () => {  // the longest wait for a frame, in a scroll through all
        const list = document.querySelector("#list"), end = list.scrollHeight;
        let longest = 0, before = performance.now();
        for (let step = 0; step <= 60; step++) {
            list.scrollTop = (end * step) / 60;
            await new Promise(requestAnimationFrame);
            const now = performance.now();
            longest = Math.max(longest, now - before);
            before = now;
        }
        return longest;
    }""")
    print(f"{NUM_IMAGES} images: seen after {ready:.2f} s, the last {seconds:.2f} s; a frame {frames:.0f} ms")
    assert seconds < LIMIT_S
    assert opened.tab.locator(".unit").count() < 100
    opened.check()


def test_search_by_name_and_state(open_page, thousand, tmp_path):
    opened = open_page(thousand)
    opened.tab.keyboard.press("/")
    opened.tab.keyboard.type("PHOTO 042 set")
    opened.wait_for("document.querySelectorAll('.unit').length === 11")
    assert all("042" in name for name in opened.names())
    opened.tab.fill("#search", "no such name")
    assert opened.tab.locator("#none").is_visible()
    failing = open_page(write(tmp_path, ["a.png", "bad.png"]))
    failing.tab.select_option("#state", "f")
    assert failing.names() == ["bad.png"]
    assert failing.tab.inner_text(".note.bad") == "is <b>broken</b>"
    assert "1 failed" in failing.tab.inner_text("#counts")


def test_the_slider_compares_by_mouse_and_by_keyboard(open_page, thousand):
    opened = open_page(thousand)
    tab = opened.tab
    tab.locator("button.pane").nth(3).click()
    assert tab.inner_text("#view-name") == "set 0/photo 0003.png"
    box = tab.locator("#compare").bounding_box()
    share = "getComputedStyle(document.querySelector('#compare .over')).clipPath"
    assert "50%" in tab.evaluate(share)
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 3
    tab.mouse.move(x, y)
    tab.mouse.down()
    tab.mouse.move(box["x"] + box["width"] * 0.8, y, steps=5)
    tab.mouse.up()
    opened.wait_for("Math.abs(document.querySelector('#slider').value - 80) <= 2")
    tab.keyboard.press("Home")
    tab.keyboard.press("ArrowRight")
    assert tab.input_value("#slider") == "1"
    assert "99%" in tab.evaluate(share)
    assert tab.get_attribute("#slider", "aria-valuetext") == "1 % input"
    tab.keyboard.press("n")
    assert tab.inner_text("#view-name") == "set 1/photo 0004.png"
    assert tab.input_value("#slider") == "1"
    opened.wait_for("Array.from(document.querySelectorAll('#compare img')).every(i => i.naturalWidth === 16)")
    tab.keyboard.press("Escape")
    opened.wait_for("document.activeElement.dataset.place === '4'")
    tab.keyboard.press("ArrowDown")
    tab.keyboard.press("ArrowLeft")
    per_line = tab.evaluate("perLine")
    opened.wait_for(f"document.activeElement.dataset.place === '{4 + per_line - 1}'")
    opened.check()


def test_names_with_odd_characters_are_shown_and_found(open_page, tmp_path):
    names = [f"{odd} dir/{odd}.png" for odd in ODD]
    if os.name != "posix":
        names = [name for name in names if not set(name) & set('<>:"?|*\udcff')]
    opened = open_page(write(tmp_path, sorted(names)))
    opened.wait_for(f"{SHOWN} === {2 * len(names)}")
    assert opened.names() == [name.replace("\udcff", "\ufffd") for name in sorted(names)]
    opened.tab.fill("#search", "100% pear?")
    assert opened.names() == ["100% pear? dir/100% pear?.png"]
    opened.check()


def test_a_sweep_is_a_row_of_columns_also_on_a_phone(open_page, tmp_path):
    folders = ["t0_0.3", "t0_0.5", "to_100% #x"]
    path = write(tmp_path, ["a.png", "b.png", "c.png"], folders)
    opened = open_page(path, 390, 844, has_touch=True, is_mobile=True, color_scheme="dark")
    opened.wait_for(f"{SHOWN} === 12")
    captions = opened.tab.locator(".unit").first.locator("figcaption").all_inner_texts()
    assert captions == ["input", "t0 0.3", "t0 0.5", "to 100% #x"]
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 390
    opened.tab.locator("button.pane").first.tap()
    assert opened.tab.locator("#parts button").all_inner_texts() == captions[1:]
    opened.tab.keyboard.press("3")
    assert opened.tab.locator("#parts [aria-pressed=true]").inner_text() == "to 100% #x"
    opened.wait_for("Array.from(document.querySelectorAll('#compare img')).every(i => i.naturalWidth === 16)")
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 390
    opened.check()


def test_a_real_run_with_inputs_that_browsers_do_not_show(open_page, case):
    Image.new("RGB", (16, 16), (9, 99, 9)).save(case.input_dir / "scan.tif")
    (case.input_dir / "text.tif").write_text("hello")
    words = [
        *case.words(),
        "--respace_steps",
        "4",
        "--edit_steps",
        "1",
        "2",
        "--samples",
        "2",
        "--comparison",
        "--trajectory",
        "2",
    ]
    assert sample_sdedit.main(words) == 3
    opened = open_page(case.save_dir / "report.html", height=3000)
    opened.wait_for(f"{SHOWN} === 6 * 5")
    tab = opened.tab
    assert tab.inner_text("#title") == "SDEdit: out"
    notes = tab.locator(".note").all_inner_texts()
    assert "tif file, which browsers do not show" in notes
    assert sum(note.startswith("not an image") for note in notes) == 4
    tab.click("#about-button")
    first = [line.split("\t") for line in tab.inner_text("#report").splitlines()]
    assert first[0] == ["images", "12 of 14 done, 2 failed"]
    assert [name for name, _ in first] == [
        *("images", "time", "started", "config", "weights", "network evaluations", "precision")
    ]
    assert "tiny.safetensors" in dict(first)["weights"]
    assert tab.inner_text("#commands pre") == command_line(["python", "sample_sdedit.py", *words])
    options = [line.split("\t") for line in tab.inner_text("#given").splitlines()]
    assert ["edit_steps", "1, 2"] in options
    assert "fit" not in dict(options)
    assert tab.inner_text("#known").splitlines()[:2] == ["\tsteps 1\tsteps 2", "level\t1\t2"]
    assert tab.locator("#rest").is_hidden()
    for summary in tab.locator("#about summary").all():
        summary.click()
    assert "fit\tcrop" in tab.inner_text("#rest")
    assert "config.model.image_size" in tab.inner_text("#network")
    key = json.loads((case.save_dir / "report.json").read_text())["key"]
    assert tab.inner_text("#about").rstrip().endswith(f"key\t{key}")
    tab.keyboard.press("Escape")
    tab.locator("button.pane").nth(1).click()
    assert "level 1" in tab.inner_text("#facts")
    links = {a.inner_text(): a.get_attribute("href") for a in tab.locator("#links a").all()}
    assert {name: (case.save_dir / address).exists() for name, address in links.items()} == dict.fromkeys(
        [
            *("Input file", "Result file", "Strip with the noise"),
            *("Strip of the way", "Animation of the way", "Contact sheet"),
        ],
        True,
    )
    tab.keyboard.press("Escape")
    tab.get_by_label("scan.tif, steps 1, sample 0: done, compare").click()
    opened.wait_for("document.querySelectorAll('#compare img.seen').length === 2")
    shown = tab.locator("#compare img").evaluate_all("all => all.map(i => i.src)")
    assert [address.rpartition("out/")[2] for address in shown] == [
        *("steps_1/scan_s00.png", ".records/inputs/scan_s00.png.png")
    ]
    opened.check()


def test_transparent_pictures_lie_on_white(open_page, tmp_path):
    path = write(tmp_path, ["a.png", "b.png"], region="mask")
    for folder in ("in put", "out"):
        Image.new("RGBA", (20, 10), (200, 0, 0, 0)).save(tmp_path / folder / "a.png")
    opened = open_page(path, color_scheme="dark")
    opened.wait_for(f"{SHOWN} === 4")
    shot = Image.open(io.BytesIO(opened.tab.locator(".unit").first.screenshot())).convert("RGB")
    boxes = [pane.bounding_box() for pane in opened.tab.locator(".unit:first-child .pane").all()]
    corner = opened.tab.locator(".unit").first.bounding_box()
    for box in boxes:
        x, y = box["x"] - corner["x"] + box["width"] / 2, box["y"] - corner["y"] + box["height"] / 2
        assert shot.getpixel((round(x), round(y))) == (255, 255, 255)
        assert max(shot.getpixel((round(x), round(y - 0.4 * box["height"])))) < 80  # beside a wide picture
    opened.tab.locator("button.pane").first.click()
    opened.wait_for("Array.from(document.querySelectorAll('#compare img')).every(i => i.naturalWidth === 20)")
    seen = Image.open(io.BytesIO(opened.tab.locator("#compare").screenshot())).convert("RGB")
    assert seen.getpixel((seen.width // 4, seen.height // 2 + 30)) == (255, 255, 255)
    opened.check()


STARTED = ["2026-01-31T23:30:00+00:00", "2026-02-01T12:00:00+01:00"]
PROCESS = {"host": "here", "rank": 0, "world_size": 1, "shard": [], "directory": "/data"}


def test_the_run_is_told_first_by_how_many_and_how_long(open_page, tmp_path):
    commands = [f"python sample_sdedit.py --t0 0.5 --save_dir 'a b' --shard {i}/5" for i in range(5)]
    processes = [
        {**PROCESS, "command": command, "started": STARTED[i % 2], "seconds": 4000.0}
        for i, command in enumerate(commands)
    ]
    said = {"processes": [*processes, {**PROCESS, "started": STARTED[0]}], "key": "0123abc"}
    path = write(tmp_path, ["a.png", "bad.png"], said=said)
    tab = open_page(path, timezone_id="Europe/Berlin").tab
    tab.click("#about-button")
    lines = tab.inner_text("#report").splitlines()
    assert lines[0] == "images\t1 of 2 done, 1 failed"
    assert lines[1] == "time\t5 h 33 min (6 processes together, without 1 that did not say), 0.25 s an image"
    assert re.search(r"1 February 2026.* 00:30 CET, last 1 February 2026.* 12:00 CET", lines[2])
    assert tab.locator("#commands > pre").all_inner_texts() == commands[:3]
    assert tab.inner_text("#commands summary") == "2 others"
    assert "mask_dir\t/data/masks" in tab.inner_text("#given")
    assert "did not say" in tab.inner_text("#processes").splitlines()[-1]
    tab.locator("#commands pre").first.click()  # selects it whole, to be copied
    assert tab.evaluate("getSelection().toString()") == commands[0]


def collect(*rows):
    notes = Notes()
    for row in rows:
        notes.add(row)
    return notes.by_folder()


def test_each_result_tells_what_is_known_of_it(open_page, tmp_path):
    rows = [{"": {"class_label": "kiwi", "edit_steps": x, "difference": x / 7}} for x in (1, 2)]
    path = write(tmp_path, ["a.png", "bad.png", "c.png"], known=collect(rows[0], None, rows[1]))
    opened = open_page(path)
    tab = opened.tab
    opened.wait_for(f"{SHOWN} === 4")
    lines = [cell.locator(".label").all_inner_texts() for cell in tab.locator(".cell.result").all()]
    assert lines == [["difference 0.14"], [], ["difference 0.29"]]
    tab.locator("button.pane").first.click()
    assert tab.inner_text("#facts").split() == [
        "class",
        "kiwi",
        "level",
        "1",
        "difference",
        "0.143",
    ]
    tab.keyboard.press("n")
    assert tab.inner_text("#facts") == ""  # it failed
    tab.keyboard.press("n")
    assert "difference 0.286" in tab.inner_text("#facts")
    opened.tab.keyboard.press("Escape")
    tab.fill("#search", "c.png")  # found by name, still its own
    assert tab.locator(".cell.result .label").all_inner_texts() == ["difference 0.29"]


def test_samples_and_folders_have_each_their_own(open_page, tmp_path):
    rows = [{"x": {"A_to_A": i / 10}, "y": {"A_to_A": i / 5}} for i in range(4)]
    path = write(tmp_path, ["a.png", "b.png"], ("x", "y"), known=collect(*rows), samples=2)
    text = path.read_text()
    assert '"samples":2' in text
    tab = open_page(path).tab
    labels = tab.locator(".cell.result .label").all_inner_texts()
    assert [label.removeprefix("A to A ") for label in labels if label.startswith("A to A")] == [
        *("0", "0.1", "0", "0.2"),
        *("0.2", "0.3", "0.4", "0.6"),
    ]


def test_the_way_takes_the_place_of_the_slider(open_page, case):
    words = ["--respace_steps", "4", "--edit_steps", "1", "2", "--trajectory", "3"]
    (case.input_dir / "text.png").write_text("hello")
    assert sample_sdedit.main([*case.words(), *words]) == 3
    opened = open_page(case.save_dir / "report.html")
    tab = opened.tab
    opened.wait_for(f"{SHOWN} >= 8")
    tab.locator("button.pane").first.click()
    pictures = "Array.from(document.querySelectorAll('#compare img')).map(i => i.naturalWidth && i.src)"
    opened.wait_for(f"{pictures}.length === 2 && {pictures}.every(src => src)")
    tab.click("#way")
    assert tab.get_attribute("#way", "aria-pressed") == "true"
    assert tab.locator("#slider").count() == 0
    opened.wait_for(f"{pictures}.join().endsWith('/out/trajectory/steps_1/a.apng')")
    tab.keyboard.press("2")  # the other result, still moving
    opened.wait_for(f"{pictures}.join().endsWith('/out/trajectory/steps_2/a.apng')")
    tab.keyboard.press("w")
    assert tab.locator("#slider").count() == 1
    tab.locator("#slider").focus()
    tab.keyboard.press("w")
    assert tab.locator("#slider").count() == 0
    tab.keyboard.press("n")  # the keys are heard though the slider that had the focus is gone
    opened.wait_for(f"{pictures}.join().endsWith('/out/trajectory/steps_2/b.apng')")
    while tab.inner_text("#view-name") != "text.png":
        tab.keyboard.press("n")
    assert tab.locator("#way").is_hidden()
    tab.keyboard.press("w")  # nothing to show of what failed
    tab.keyboard.press("p")
    assert tab.inner_text("#view-name") != "text.png"
    assert tab.get_attribute("#way", "aria-pressed") == "true"
    assert all("text.png" in error or "ERR" in error for error in opened.errors)


def test_a_run_without_trajectories_has_no_button_for_them(open_page, thousand):
    opened = open_page(thousand)
    opened.tab.locator("button.pane").first.click()
    opened.tab.keyboard.press("w")
    assert opened.tab.locator("#way").is_hidden()
    assert opened.tab.locator("#way-key").is_hidden()
    assert opened.tab.locator("#slider").count() == 1
    opened.check()
