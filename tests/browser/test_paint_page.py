"""The paint page in a real browser: strokes, mask, edit, files, keyboard, a phone, two users."""

import base64
import io
import json
import re
import shlex
import zipfile

import numpy as np
import pytest
from PIL import Image

import sample_sdedit
from tests.commands.command_case import ROOT
from utils import codecs

pytest.importorskip("starlette", reason="pip install -r requirements-paint.txt")
pytest.importorskip("uvicorn", reason="pip install -r requirements-paint.txt")

from tests.tools.paint.paint_case import GatedPainter, make_painter, pixels, png, served
from tools.paint.server import PAGE

FILE = PAGE.as_uri()
CONFIG, WEIGHTS = ROOT / "configs/demo/fruits64.yaml", ROOT / "weights/fruits64.safetensors"
PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.fixture(scope="module")
def painter():
    return make_painter(CONFIG, WEIGHTS)


@pytest.fixture
def address(painter):
    with served(painter) as client:
        yield f"http://127.0.0.1:{client.port}{client.prefix}"


def load(page, address):
    page.goto(address)
    if address.startswith("http"):
        page.wait_for_selector("#class option:nth-child(17)", state="attached")
    return page


def drag(page, *points):
    """Draw a line through points, given as shares of the canvas."""
    page.locator("#stage").scroll_into_view_if_needed()
    box = page.locator("#stage").bounding_box()
    places = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in points]
    page.mouse.move(*places[0])
    page.mouse.down()
    for place in places[1:]:
        page.mouse.move(*place, steps=5)
    page.mouse.up()


def colour(page, x, y):
    """Look at a pixel of the guide."""
    return page.evaluate(
        "([x, y]) => { const c = composite(), at = v => Math.floor(v * c.width);"
        "return [...c.getContext('2d').getImageData(at(x), at(y), 1, 1).data].slice(0, 3) }",
        [x, y],
    )


def masked_share(page):
    return page.evaluate(
        "() => { const {width, height} = doc; let n = 0;"
        "const {data} = pen('mask').getImageData(0, 0, width, height);"
        "for (let i = 3; i < data.length; i += 4) n += data[i] > 127; return 4 * n / data.length }"
    )


def downloaded(page, click) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(click)
    return download.value.suggested_filename, download.value.path().read_bytes()


def test_paint_mask_and_edit(new_page, address, tmp_path):
    page = load(new_page(), address)
    page.fill("#size", "24")
    page.get_by_role("button", name="crimson").click()
    drag(page, (0.4, 0.4), (0.6, 0.4), (0.5, 0.65), (0.5, 0.45))
    page.click("#layer-mask")
    drag(page, (0.3, 0.3), (0.7, 0.3))
    page.select_option("#class", "strawberry")
    page.fill("#guidance", "3")
    page.click("#settings summary")
    page.fill("#calls", "5")
    page.fill("#feather", "1")
    page.fill("#name", "my fruit")
    page.click("#edit")
    page.wait_for_selector("#gallery li")
    assert page.is_visible("#picture")
    assert page.inner_text("#caption") == "t0 0.5, strawberry, guidance 3, seed 0, masked"
    name, result = downloaded(page, "#download")
    assert name == "my fruit_t0.5_seed0.png"

    page.click("#save summary")
    name, archive = downloaded(page, "#save-both")
    assert name == "my fruit.zip"
    zipfile.ZipFile(io.BytesIO(archive)).extractall(tmp_path)
    guide = codecs.fit(codecs.decode(tmp_path / "guides/my fruit.png"), 64, "crop")
    mask = codecs.fit(codecs.decode(tmp_path / "masks/my fruit.png").convert("L"), 64, "crop")
    kept = np.asarray(mask) == 0
    changed = (pixels(result) != np.asarray(guide)).any(axis=2)
    assert 0.1 < (~kept).mean() < 0.6
    assert not changed[kept].any()
    editable, white = np.asarray(mask) == 255, (np.asarray(guide) == 255).all(axis=2)
    assert changed[editable & ~white].mean() > 0.9  # what is white may come out white
    assert changed[editable].mean() > 0.5

    words = shlex.split(page.inner_text("#command").replace("\\\n", ""))
    assert words[:2] == ["python", "sample_sdedit.py"]
    for folder in ("guides", "masks", "edited"):
        words[words.index(folder)] = str(tmp_path / folder)
    assert sample_sdedit.main([*words[2:], "--cpu"]) == 0
    assert (tmp_path / "edited/my fruit.png").read_bytes() == result


def photo(width: int, height: int) -> Image.Image:
    """Make a photo whose file is soon written."""
    noise = np.random.default_rng(3).integers(60, 190, (50, 40, 3), dtype=np.uint8)
    return Image.fromarray(np.tile(noise, (height // 50 + 1, width // 40 + 1, 1))[:height, :width].copy())


def give(page, event: str, name: str, content: bytes, kind: str = "image/png"):
    """Drop a file on the page, or paste it."""
    page.evaluate(
        "([event, name, text, type]) => { const files = new DataTransfer();"
        "files.items.add(new File([Uint8Array.from(atob(text), c => c.charCodeAt(0))], name, {type}));"
        "document.dispatchEvent(event === 'drop' ? new DragEvent(event, {dataTransfer: files})"
        ": new ClipboardEvent(event, {clipboardData: files})) }",
        [event, name, base64.b64encode(content).decode(), kind],
    )


def test_a_photo_of_12_megapixels(new_page, address, tmp_path):
    opened = photo(4000, 3000)
    opened.save(tmp_path / "hill.png", compress_level=1)
    page = load(new_page(), address)
    page.set_input_files("#file", tmp_path / "hill.png")
    page.wait_for_selector("text=4000 \u00d7 3000")
    page.click("#edit")
    assert page.inner_text("#error") == (
        "Paint on the photo what may change, or choose \u201cPicture of 64 \u00d7 64\u201d as result."
    )
    page.locator("#stage").hover(position={"x": 100, "y": 150})
    for _ in range(5):
        page.mouse.wheel(0, -200)
    page.wait_for_timeout(50)
    assert page.evaluate("view.zoom") == pytest.approx(np.exp(1.5), rel=0.01)
    assert page.evaluate("onSheet(100 / stage.clientWidth, 0)[0] * stage.clientWidth / 100") == pytest.approx(
        4000, abs=20
    )  # what is below the pointer stays there
    zoom = page.evaluate("view.zoom")
    page.keyboard.press("+")
    assert page.evaluate("view.zoom") == pytest.approx(1.5 * zoom)
    page.keyboard.press("h")
    before = page.evaluate("onSheet(0, 0)")
    drag(page, (0.2, 0.2), (0.7, 0.45))
    moved = np.subtract(before, page.evaluate("onSheet(0, 0)")) / page.evaluate("visible()")
    assert moved == pytest.approx([0.5, 0.25], abs=0.01)
    page.keyboard.press("b")
    drag(page, (0.3, 0.4), (0.6, 0.5))
    drag(page, (0.4, 0.6), (0.5, 0.6))
    page.keyboard.press("Control+z")
    assert 0 < page.evaluate("past.reduce((sum, {bytes}) => sum + bytes, 0)") < 8e6
    page.keyboard.press("0")
    assert page.evaluate("view.zoom") == 1
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#gallery li")
    name, result = downloaded(page, "#download")
    assert name == "hill_t0.5_seed0.png"
    mask = page.evaluate("boundsOf('mask')")
    changed = (np.asarray(Image.open(io.BytesIO(result))) != np.asarray(opened)).any(axis=2)
    inside = changed[mask["top"] : mask["bottom"], mask["left"] : mask["right"]]
    assert inside.mean() > 0.2
    assert changed.sum() == inside.sum()
    strokes = "past = Array.from({length: 9}, () => ({tiles: new Map(), bytes: 40 * 2 ** 20})); changed()"
    page.evaluate(f"() => {{ {strokes} }}")
    assert page.evaluate("past.length") == 6  # of 256 MiB
    page.keyboard.press("+")
    assert page.evaluate("view.zoom") == 1.5
    assert page.evaluate("$('result-view').getAttribute('style') === $('sheet').getAttribute('style')")


def test_a_part_of_a_photo_as_the_command_edits_it(new_page, address, tmp_path):
    page = load(new_page(), address)
    give(page, "drop", "two pears.png", png(photo(220, 150)))
    page.wait_for_selector("text=220 \u00d7 150")
    page.fill("#opacity", "60")
    drag(page, (0.4, 0.4), (0.6, 0.5), (0.45, 0.55))
    page.fill("#opacity", "100")
    drag(page, (0.5, 0.5), (0.55, 0.5))
    page.click("#tool-eraser")
    drag(page, (0.4, 0.4), (0.4, 0.45))
    page.click("#layer-mask")
    page.click("#tool-brush")
    drag(page, (0.6, 0.6), (0.7, 0.6))
    page.select_option("#class", "strawberry")
    page.fill("#t0", "0.6")
    page.fill("#seed", "12")
    page.click("#edit")
    page.wait_for_selector("#gallery li")
    assert page.inner_text("#caption") == "t0 0.6, strawberry, seed 12, part of a photo"
    name, result = downloaded(page, "#download")
    assert name == "two pears_t0.6_seed12.png"
    page.click("#save summary")
    archive = zipfile.ZipFile(io.BytesIO(downloaded(page, "#save-both")[1]))
    assert archive.namelist() == ["photos/two pears.png", "masks/two pears.png"]
    archive.extractall(tmp_path)
    kept = np.asarray(Image.open(tmp_path / "masks/two pears.png").convert("L")) == 0
    assert 0.5 < kept.mean() < 0.95
    assert np.array_equal(pixels(result)[kept], np.asarray(photo(220, 150))[kept])
    words = shlex.split(page.inner_text("#command").replace("\\\n", ""))
    for folder in ("photos", "masks", "edited"):
        words[words.index(folder)] = str(tmp_path / folder)
    assert sample_sdedit.main([*words[2:], "--cpu"]) == 0
    assert (tmp_path / "edited/two pears.png").read_bytes() == result

    page.click("#new")
    for field, value in (("t0", "0.4"), ("seed", "3"), ("name", "other"), ("calls", "5")):
        page.evaluate("([id, value]) => { $(id).value = value }", [field, value])
    page.select_option("#class", "")
    give(page, "drop", "any.png", result)
    page.wait_for_selector("text=The settings of this result are back.")
    fields = {"t0": "0.6", "seed": "12", "class": "strawberry", "name": "two pears", "scope": "part"}
    fields |= {"sampler": "sde-dpm-solver++", "calls": "25", "guidance": "1"}
    assert {field: page.input_value(f"#{field}") for field in fields} == fields


def test_settings_of_a_file_that_cannot_come_back_are_named(new_page, address):
    page = load(new_page(), address)
    found = {"method": "SDEdit", "t0": 0.533, "timesteps": 40, "seed": -1, "sampler": "euler"}
    found |= {"class_label": "apple<b>", "guidance_scale": 3, "input": "a/b c.jpg", "repeats": 2}
    content = codecs.encode_png(photo(64, 64), {"parameters": json.dumps(found)})
    give(page, "paste", "image.png", content)
    page.wait_for_selector("#restored:not([hidden])")
    said = "The settings of this result are back, but for sampler, seed, class_label, repeats, timesteps."
    assert page.inner_text("#restored") == said
    fields = {"t0": "0.533", "calls": "25", "guidance": "3", "name": "b c", "seed": "0", "class": ""}
    assert {field: page.input_value(f"#{field}") for field in fields} == fields
    assert page.is_hidden("#scope-field") or page.input_value("#scope") == "whole"
    page.evaluate("say('')")
    for broken in ("[1]", "{", '{"method": "DDIB"}'):
        give(page, "drop", "other.png", codecs.encode_png(photo(64, 64), {"parameters": broken}))
        page.wait_for_selector("#status:text-is('Picture opened')", state="attached")
        assert page.is_hidden("#restored")
        assert page.input_value("#name") == "other"
        page.evaluate("() => { $('name').value = 'again'; say('') }")


def test_eight_results_are_kept_with_their_settings(new_page, address):
    page = load(new_page(), address)
    page.click("#settings summary")
    assert (page.input_value("#sampler"), page.input_value("#calls")) == ("sde-dpm-solver++", "25")
    page.select_option("#sampler", "ddpm")
    page.evaluate(
        "async () => { for (let seed = 1; seed < 11; seed++) { const size = seed > 5 ? 20 : 40;"
        "$('seed').value = seed; $('calls').value = size; const chosen = {...settings(), scope: doc.scope};"
        "const {canvas, shown} = snapshot(chosen), guide = await png(canvas);"
        "await keep(guide, guide, shown) } }"
    )
    captions = page.locator("#gallery small").all_inner_texts()
    assert captions == [f"t0 0.5, seed {seed}" for seed in range(10, 2, -1)]
    page.click("#gallery li:nth-child(6) .look")
    assert page.inner_text("#caption") == "t0 0.5, seed 5"
    assert (page.input_value("#seed"), page.input_value("#calls")) == ("5", "40")
    assert page.inner_text("#restored") == "The settings of this result are back."
    page.select_option("#class", "kiwi")
    assert page.is_hidden("#restored")
    page.click("#gallery li:nth-child(1) .look")
    assert (page.input_value("#seed"), page.input_value("#class")) == ("10", "")
    page.click("#new")
    assert page.is_hidden("#restored")


def test_tools_and_history(new_page):
    page = load(new_page(), FILE)
    assert page.is_disabled("#undo")
    page.get_by_role("button", name="blue", exact=True).click()
    drag(page, (0.2, 0.5), (0.8, 0.5))
    assert colour(page, 0.5, 0.5) == [0x20, 0x54, 0x92]
    page.click("#tool-eraser")
    drag(page, (0.5, 0.4), (0.5, 0.6))
    assert colour(page, 0.5, 0.5) == [255, 255, 255]
    page.click("#undo")
    assert colour(page, 0.5, 0.5) == [0x20, 0x54, 0x92]
    page.click("#redo")
    assert colour(page, 0.5, 0.5) == [255, 255, 255]
    page.get_by_role("button", name="gold").click()
    page.click("#tool-pick")
    drag(page, (0.3, 0.5), (0.3, 0.5))
    assert page.input_value("#custom") == "#205492"
    assert page.get_attribute("#tool-brush", "aria-pressed") == "true"
    page.click("#clear")
    assert colour(page, 0.3, 0.5) == [255, 255, 255]
    page.click("#fill")
    assert colour(page, 0.9, 0.9) == [0x20, 0x54, 0x92]
    for _ in range(4):
        page.click("#undo")
    assert colour(page, 0.5, 0.5) == [255, 255, 255]
    assert page.is_disabled("#undo")
    page.click("#layer-mask")
    drag(page, (0.2, 0.5), (0.8, 0.5))
    share = masked_share(page)
    page.click("#invert")
    assert masked_share(page) == pytest.approx(1 - share, abs=0.01)


def test_a_picture_that_is_opened_keeps_its_pixels(new_page, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (64, 90, 3), dtype=np.uint8)
    (tmp_path / "noise.png").write_bytes(png(Image.fromarray(noise)))
    (tmp_path / "none.png").write_text("no picture")
    page = load(new_page(), FILE)
    page.set_input_files("#file", tmp_path / "noise.png")
    page.wait_for_selector("#stage.coarse")
    assert np.array_equal(pixels(downloaded(page, "#save-guide")[1])[:, :, :3], noise[:, 13:77])
    page.set_input_files("#file", tmp_path / "none.png")
    page.wait_for_selector("#error:not([hidden])")
    assert page.inner_text("#error") == (
        "This is not a picture that the browser can show; save it as PNG, JPEG or WEBP, and open that."
    )
    page.click("#undo")
    assert colour(page, 0.5, 0.5) == [255, 255, 255]


def test_from_disk_it_saves_guide_and_mask(new_page):
    page = load(new_page(), FILE)
    assert not page.is_visible("#edit")
    assert not page.is_visible("#result-card")
    drag(page, (0.2, 0.2), (0.4, 0.4))
    name, content = downloaded(page, "#save-mask")
    assert (name, pixels(content).min()) == ("painting_mask.png", 255)  # nothing masked: all may change
    assert "--mask_dir" not in page.inner_text("#command")
    page.click("#layer-mask")
    drag(page, (0.7, 0.2), (0.7, 0.8))
    name, guide = downloaded(page, "#save-guide")
    assert (name, pixels(guide).shape[:2]) == ("painting.png", (512, 512))
    mask = pixels(downloaded(page, "#save-mask")[1])
    assert mask.shape == (512, 512)
    assert (mask[256, 358], mask[256, 100]) == (255, 0)
    assert "--input_dir guides --mask_dir masks" in page.inner_text("#command")
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "#save-both")[1])) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["guides/painting.png", "masks/painting.png"]
        assert archive.read("guides/painting.png") == guide


def test_from_disk_it_saves_a_photo_for_the_command(new_page, tmp_path):
    page = load(new_page(), FILE)
    buffer = io.BytesIO()
    photo(400, 300).save(buffer, "JPEG")
    give(page, "paste", "sea.jpg", buffer.getvalue(), "image/jpeg")
    page.wait_for_selector("text=400 \u00d7 300")
    page.click("#layer-mask")
    drag(page, (0.4, 0.5), (0.6, 0.5))
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "#save-both")[1])) as archive:
        assert archive.namelist() == ["photos/sea.jpg", "masks/sea.png"]
        assert archive.read("photos/sea.jpg") == buffer.getvalue()
        assert np.asarray(Image.open(archive.open("masks/sea.png"))).shape == (300, 400)
    assert "--input_dir photos --mask_dir masks --region mask" in page.inner_text("#command")
    page.select_option("#scope", "whole")
    assert page.is_visible("#frame")
    assert pixels(downloaded(page, "#save-guide")[1]).shape[:2] == (300, 300)


def test_two_fingers_zoom_and_draw_nothing(new_page):
    page = load(new_page(**PHONE), FILE)
    box = page.locator("#stage").bounding_box()
    session = page.context.new_cdp_session(page)

    def touch(kind, *shares):
        points = [{"x": box["x"] + x * box["width"], "y": box["y"] + 100, "id": i} for i, x in shares]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    touch("touchStart", (0, 0.4))
    touch("touchStart", (0, 0.4), (1, 0.6))
    touch("touchMove", (0, 0.3), (1, 0.7))
    touch("touchMove", (0, 0.2), (1, 0.8))
    touch("touchEnd", (0, 0.2))
    touch("touchMove", (0, 0.3))
    touch("touchEnd")
    assert page.evaluate("view.zoom") == pytest.approx(3, abs=0.01)
    assert page.evaluate("boundsOf('paint')") is None
    assert page.is_disabled("#undo")


@pytest.mark.parametrize("where", ["served", "disk"])
def test_a_phone(new_page, address, where):
    page = load(new_page(**PHONE), address if where == "served" else FILE)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    box = page.locator("#stage").bounding_box()
    session = page.context.new_cdp_session(page)
    for kind, share in (("touchStart", 0.2), ("touchMove", 0.5), ("touchMove", 0.8), ("touchEnd", None)):
        points = [] if share is None else [{"x": box["x"] + 100, "y": box["y"] + share * box["height"]}]
        session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
    assert page.evaluate("scrollY") == 0
    for share in (0.25, 0.75):
        assert colour(page, 100 / box["width"], share) == [0xC4, 0x28, 0x26]
    small = page.evaluate(
        "[...document.querySelectorAll('button, select, input:not([type=checkbox], [type=range])')]"
        ".filter(e => e.checkVisibility()).map(e => [e.id, e.getBoundingClientRect()])"
        ".filter(([_, box]) => Math.min(box.width, box.height) < 32).map(([id]) => id)"
    )
    assert small == []
    if where == "served":
        page.tap("#layer-mask")
        page.touchscreen.tap(box["x"] + 100, box["y"] + 100)
        page.tap("#settings summary")
        page.fill("#calls", "2")
        page.tap("#edit")
        page.wait_for_selector("#gallery li")
        assert page.evaluate("document.documentElement.scrollWidth") == 360


def test_by_keyboard(new_page, address):
    page = load(new_page(), address)
    page.focus("#new")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "stage"
    assert page.is_visible("#brush")
    page.keyboard.press("Space")
    assert page.inner_text("#status") == "Brush down"
    for _ in range(3):
        page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+ArrowDown")
    assert page.inner_text("#status") == "Brush up"
    assert colour(page, 0.65, 0.5) == [0xC4, 0x28, 0x26]
    assert colour(page, 0.65, 0.5625) == [255, 255, 255]
    page.keyboard.press("Control+z")
    assert colour(page, 0.65, 0.5) == [255, 255, 255]
    page.keyboard.press("Control+y")
    for key, button in (("e", "tool-eraser"), ("i", "tool-pick"), ("b", "tool-brush"), ("m", "layer-mask")):
        page.keyboard.press(key)
        assert page.get_attribute(f"#{button}", "aria-pressed") == "true"
    page.keyboard.press("]")
    assert page.input_value("#size") == "9"
    page.keyboard.press("Space")
    page.keyboard.press("Escape")
    assert masked_share(page) > 0
    page.keyboard.press("Delete")
    assert masked_share(page) == 0
    page.focus("#seed")
    page.keyboard.type("7")  # digits and letters in a field are no shortcuts
    page.keyboard.press("e")
    assert page.get_attribute("#tool-brush", "aria-pressed") == "true"
    page.fill("#seed", "7")
    page.click("#settings summary")
    page.fill("#calls", "2")
    page.keyboard.press("Control+Enter")
    page.wait_for_selector("#gallery li")
    assert page.inner_text("#caption") == "t0 0.5, seed 7"


def test_everything_has_a_name(new_page, address):
    page = load(new_page(), address)
    tree = page.locator("body").aria_snapshot()
    controls = re.findall(r"- (button|textbox|slider|spinbutton|combobox|checkbox|link)(.*)", tree)
    assert len(controls) > 30
    assert [control for control in controls if not re.match(r' ".+"', control[1])] == []


def test_two_users(new_page, painter):
    gated = GatedPainter(painter)
    with served(gated) as client:
        address = f"http://127.0.0.1:{client.port}{client.prefix}"
        first, second = load(new_page(), address), load(new_page(), address)
        for page in (first, second):
            page.click("#settings summary")
            page.fill("#calls", "5")
        first.click("#edit")
        first.wait_for_selector("text=Step 0 of 5")
        second.click("#edit")
        second.wait_for_selector("text=Waiting: 1 edit is before this one")
        gated.steps.release(4)
        first.wait_for_selector("text=Step 4 of 5")
        first.keyboard.press("Escape")
        first.wait_for_selector("#working", state="hidden")
        assert first.inner_text("#edit").startswith("Edit")
        second.wait_for_selector("text=Step 0 of 5")
        gated.steps.release(6)
        second.wait_for_selector("#gallery li")


def test_gallery(new_page, address):
    page = load(new_page(), address)
    page.click("#settings summary")
    page.fill("#calls", "2")
    for seed in (1, 2):
        page.fill("#seed", str(seed))
        page.click("#edit")
        page.wait_for_selector(f"#gallery li:nth-child({seed})")
    page.click("#gallery li:nth-child(2) .look")
    assert page.inner_text("#caption") == "t0 0.5, seed 1"
    page.click("#compare")
    assert page.is_visible("#badge")
    page.click("#again")
    page.wait_for_selector("#stage.coarse")
    result = pixels(downloaded(page, "#download")[1])
    page.click("#save summary")
    assert np.array_equal(pixels(downloaded(page, "#save-guide")[1])[:, :, :3], result)
    page.get_by_role("button", name="Remove the result of t0 0.5, seed 1").click()
    assert page.inner_text("#caption") == "t0 0.5, seed 2"


def test_what_is_wrong_is_said(new_page, address):
    page = load(new_page(), address)
    page.fill("#seed", "")
    page.click("#edit")
    assert page.inner_text("#error") == "The seed: a whole number from 0 to 9007199254740991, please."
    page.fill("#seed", "1")
    page.click("#settings summary")
    page.fill("#calls", "0")
    page.click("#edit")
    assert page.inner_text("#error") == "The number of calls: a whole number from 1 to 100000, please."


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_can_be_read(new_page, scheme):
    page = load(new_page(color_scheme=scheme), FILE)
    values = page.evaluate(
        "['ink', 'soft', 'accent', 'on-accent', 'bad', 'card', 'ground', 'field', 'accent-soft']"
        ".map(name => [name, getComputedStyle(document.documentElement).getPropertyValue('--' + name)])"
    )
    light = {name: luminance(text.strip()) for name, text in values}
    pairs = [("ink", "card"), ("ink", "field"), ("ink", "accent-soft"), ("soft", "card"), ("soft", "ground")]
    for a, b in [*pairs, ("soft", "field"), ("on-accent", "accent"), ("bad", "card")]:
        high, low = sorted((light[a], light[b]), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (a, b)  # WCAG 2.2, 1.4.3


def luminance(text: str) -> float:
    digits = text[1:] if len(text) == 7 else "".join(2 * digit for digit in text[1:])
    values = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in values]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
