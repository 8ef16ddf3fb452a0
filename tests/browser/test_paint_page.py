"""The paint page in a real browser: strokes, mask, edit, files, keyboard, a phone, two users."""

import io
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
        "() => { const {pixels} = maskPixels(); let n = 0;"
        "for (let i = 0; i < pixels.data.length; i += 4) n += pixels.data[i] > 127;"
        "return 4 * n / pixels.data.length }"
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
    page.fill("#steps", "10")
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
    assert page.inner_text("#error") == "This is not a picture that the browser can show."
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
    mask = pixels(downloaded(page, "#save-mask")[1])[:, :, :3]
    assert mask.shape == (512, 512, 3)
    assert (mask[256, 358].tolist(), mask[256, 100].tolist()) == ([255, 255, 255], [0, 0, 0])
    assert "--input_dir guides --mask_dir masks" in page.inner_text("#command")
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "#save-both")[1])) as archive:
        assert archive.testzip() is None
        assert archive.namelist() == ["guides/painting.png", "masks/painting.png"]
        assert archive.read("guides/painting.png") == guide


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
        page.fill("#steps", "4")
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
    page.fill("#steps", "4")
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
            page.fill("#steps", "10")
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
    page.fill("#steps", "4")
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
    page.fill("#steps", "1001")
    page.click("#edit")
    assert page.inner_text("#error") == "The number of steps: a whole number from 1 to 1000, please."


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
