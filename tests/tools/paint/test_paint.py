"""The paint page over HTTP: who may ask, what is refused, whose turn it is; its edits are the command's."""

import base64
import contextlib
import http.client
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image, ImageCms

import sample_sdedit
from tests.commands.command_case import ROOT
from tests.test_docs import described, flags

pytest.importorskip("starlette", reason="pip install -r requirements-paint.txt")
pytest.importorskip("uvicorn", reason="pip install -r requirements-paint.txt")

from tests.tools.paint.paint_case import (
    TOKEN,
    Client,
    GatedPainter,
    body,
    left_half,
    make_painter,
    painting,
    png,
    served,
)
from tools.paint import __main__ as paint
from tools.paint import connections
from tools.paint import queue as queue_module
from tools.paint.edits import read_wanted
from tools.paint.queue import MAX_KEPT, MAX_WAITING, Queue
from tools.paint.server import MAX_BYTES, PAGE
from utils import codecs


def sent(image: Image.Image, **how) -> str:
    return base64.b64encode(png(image, **how)).decode()


def fine(width: int, height: int, channels: int = 3) -> codecs.Original:
    """A photo of 16 bits of which 8 would be too few."""
    noise = np.random.default_rng(2).integers(0, 65536, (height, width, channels), dtype=np.uint16)
    return codecs.Original(noise)


def sent_fine(photo: codecs.Original) -> str:
    return base64.b64encode(codecs.encode(photo, ".png", {}, b"", "")).decode()


MASK, FINE = sent(left_half()), sent_fine(fine(*left_half().size))


@pytest.fixture
def painter(case):
    return make_painter(case.config, case.weights)


@pytest.fixture
def client(painter):
    with served(painter) as client:
        yield client


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, []),
        ({"seed": 7, "t0": 0.3, "calls": 6, "name": "my picture"}, ["--seed", "7"]),
        ({"mask": MASK}, []),
        ({"mask": MASK, "mask_feather": 3}, ["--mask_feather", "3"]),
        (
            {"class_label": "hen", "guidance_scale": 4},
            ["--class_label", "hen", "--guidance_scale", "4"],
        ),
        ({"sampler": "sde-dpm-solver++", "calls": 10}, ["--sampler", "sde-dpm-solver++"]),
        ({"mask": MASK, "region": True}, ["--region", "mask"]),
        ({"mask": MASK, "region": True, "guide": FINE}, ["--region", "mask"]),
    ],
    ids=["plain", "numbers", "mask", "feather", "class", "sampler", "region", "region of 16 bits"],
)
def test_result_is_the_file_of_the_command(case, client, tmp_path, changes, words):
    found = client.result(**changes)
    asked = body(**changes)
    words += ["--t0", str(asked["t0"]), "--calls", str(asked["calls"])]
    for key, folder in (("guide", "guides"), ("mask", "masks")):
        if key in asked:
            (tmp_path / folder).mkdir()
            (tmp_path / folder / f"{asked['name']}.png").write_bytes(base64.b64decode(asked[key]))
            words += [{"guide": "--input_dir", "mask": "--mask_dir"}[key], str(tmp_path / folder)]
    words += ["-c", str(case.config), "--weights", str(case.weights), "--save_dir", str(tmp_path / "o")]
    assert sample_sdedit.main([*words, "--cpu"]) == 0
    assert found == (tmp_path / "o" / f"{asked['name']}.png").read_bytes()


def strokes_on(size: tuple[int, int], opacity: int = 255) -> Image.Image:
    strokes = Image.new("RGBA", size)
    strokes.paste((250, 20, 20, opacity), (30, 12, 38, 20))
    return strokes


def around_strokes(size: tuple[int, int]) -> Image.Image:
    mask = Image.new("L", size, 0)
    mask.paste(255, (26, 10, 44, 24))
    return mask


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_a_photo_keeps_what_lies_outside_the_mask(case, client, mode):
    noise = np.random.default_rng(1).integers(0, 256, (48, 70, len(mode)), dtype=np.uint8)
    photo, profile = Image.fromarray(noise.squeeze()), ImageCms.createProfile("sRGB")
    mask = around_strokes(photo.size)
    how = {} if mode == "L" else {"icc_profile": ImageCms.ImageCmsProfile(profile).tobytes()}
    given = {"guide": sent(photo, **how), "strokes": sent(strokes_on(photo.size)), "mask": sent(mask)}
    found = Image.open(io.BytesIO(client.result(**given, region=True, sampler="sde-dpm-solver++")))
    assert (found.size, found.mode) == (photo.size, mode)
    changed = (np.asarray(found).reshape(noise.shape) != noise).any(axis=2)
    assert not changed[np.asarray(mask) == 0].any()
    assert changed[np.asarray(mask) > 0].mean() > 0.5
    assert found.info.get("icc_profile") == how.get("icc_profile")
    assert json.loads(found.text["parameters"])["region"] == "mask"


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_a_photo_of_16_bits_keeps_them_outside_the_mask(client, tmp_path, channels):
    photo = fine(70, 48, channels)
    mask = around_strokes(photo.size)
    given = {"guide": sent_fine(photo), "strokes": sent(strokes_on(photo.size)), "mask": sent(mask)}
    (tmp_path / "o.png").write_bytes(client.result(**given, region=True, sampler="sde-dpm-solver++"))
    found = codecs.read_stored(tmp_path / "o.png").pixels
    assert (found.dtype, found.shape) == (np.uint16, photo.pixels.shape)
    changed = (found != photo.pixels).any(axis=2)
    assert not changed[np.asarray(mask) == 0].any()
    assert changed[np.asarray(mask) > 0].mean() > 0.5
    wanted = read_wanted(json.dumps(body(**given, region=True)).encode())
    assert wanted.num_bytes == 70 * 48 * (2 * channels + 1)
    whole = read_wanted(json.dumps(body(guide=sent_fine(photo))).encode())  # which a network's picture is
    assert whole.guide.mode == "RGB"


@pytest.mark.parametrize("opacity", [255, 77])
def test_strokes_are_put_on_a_photo_as_a_browser_does(opacity):
    photo, strokes = painting(70), strokes_on((70, 70), opacity)
    given = {"guide": sent(photo), "strokes": sent(strokes), "mask": sent(around_strokes(photo.size))}
    wanted = read_wanted(json.dumps(body(**given, region=True)).encode())
    photo.paste(strokes, (0, 0), strokes)
    assert np.array_equal(np.asarray(wanted.guide), np.asarray(photo))
    assert wanted.num_bytes == 70 * 70 * 4


def test_a_photo_of_12_megapixels_fits_into_a_request(client):
    photo = Image.new("RGB", (4000, 3000), (90, 120, 60))
    given = {"guide": sent(photo, compress_level=0), "strokes": sent(strokes_on(photo.size))}
    given |= {"mask": sent(around_strokes(photo.size)), "region": True}
    assert len(given["guide"]) > 48_000_000
    result = Image.open(io.BytesIO(client.result(**given)))
    assert result.size == photo.size


def test_edits_do_not_depend_on_those_before(client):
    first = client.result()
    client.result(class_label="cat", seed=3)
    assert client.result() == first


def test_the_page_and_the_model(client):
    status, headers, content = client.ask("GET", "")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert content == PAGE.read_bytes()
    described = json.loads(client.ask("GET", "model")[2])
    assert described["classes"] == ["cat", "dog", "hen"]
    assert described["image_size"] == 16
    assert described["without_class"] is True
    assert (described["sampler"], described["calls"]) == ("sde-dpm-solver++", 25)
    assert described["samplers"] == ["ddpm", "ddim", "heun", "dpm-solver++", "sde-dpm-solver++"]
    status, headers, _ = client.ask("GET", "", prefix=client.prefix.rstrip("/"))
    assert (status, headers["location"]) == (307, client.prefix)


def test_the_page_may_load_nothing_from_elsewhere(client):
    policy = client.ask("GET", "")[1]["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "*" not in policy
    page = PAGE.read_text()
    assert re.findall(r"(?:src|href)=[\"']?([^\"' >]+)", page) == ["data:,"]
    assert not re.search(r"url\(|@import|<link rel=.stylesheet|<script src| style=| on\w+=\"", page)
    assert set(re.findall(r"https?://[^\"\s]+", page)) == {"http://www.w3.org/2000/svg"}


@pytest.mark.parametrize("prefix", ["/", "/other/", "/a-toke/", "/%C3%A9/", "//a-token/"])
@pytest.mark.parametrize(("method", "path"), [("GET", ""), ("GET", "model"), ("POST", "edits")])
def test_a_wrong_token_is_refused(client, prefix, method, path):
    status, reason = client.error(method, path, prefix=prefix)
    assert (status, reason) == (403, "wrong token; open the address that the terminal shows")


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost@evil.example:80", ""])
def test_another_name_of_this_machine_is_refused(client, host):
    assert client.error("GET", "model", headers={"Host": host})[0] == 403


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "localhost:8080"])
def test_a_tunnel_may_end_at_another_port(client, host):
    assert client.ask("GET", "model", headers={"Host": host})[0] == 200


def test_other_origins_are_told_nothing(client):
    for method in ("GET", "OPTIONS"):
        headers = client.ask(method, "model", headers={"Origin": "http://evil.example"})[1]
        assert not [key for key in headers if key.startswith("access-control")]
        assert headers["cross-origin-resource-policy"] == "same-origin"


NONSENSE = {
    "no JSON": (b"\xff{", "not JSON"),
    "deep": (b"[" * 100_000, "not JSON"),
    "long number": (b'{"seed": ' + b"1" * 5000 + b"}", "not JSON"),
    "a list": (b"[]", "expected a JSON object"),
    "unknown": ({"t1": 3}, "unknown 't1'"),
    "no guide": ({"guide": None}, "guide is missing"),
    "name": ({"name": "../a"}, "name '../a': letters"),
    "hidden": ({"name": ".a"}, "name '.a': letters"),
    "kind of name": ({"name": 3}, "name 3: of the wrong kind"),
    "base64": ({"guide": "?"}, "guide: not an image in base64"),
    "not base64": ({"guide": "é"}, "guide: not an image in base64"),
    "no image": ({"guide": "aGVsbG8="}, "guide: not an image in one of the formats PNG"),
    "truncated": (
        {"guide": base64.b64encode(png(painting())[:80]).decode()},
        "guide: cannot be read, broken or truncated",
    ),
    "size": (
        {"mask": base64.b64encode(png(left_half(8))).decode()},
        "the mask is 8x8 and the guide 40x40; make them equal",
    ),
    "size of strokes": (
        {"mask": MASK, "region": True, "strokes": sent(strokes_on((41, 40)))},
        "the strokes are 41x40 and the guide 40x40; make them equal",
    ),
    "kind of strokes": ({"mask": MASK, "region": True, "strokes": MASK}, "strokes: of mode L; strokes are"),
    "no mask": ({"region": True}, "region: what may change is not said; give a mask"),
    "kind of region": ({"region": 1}, "region 1: of the wrong kind"),
    "sampler": ({"sampler": "euler"}, "sampler 'euler': allowed are ddpm, ddim,"),
    "sampler of others": ({"sampler": "consistency"}, "no consistency model"),
    "t0": ({"t0": 0}, "t0 0: allowed is above 0 to 1"),
    "NaN": ({"t0": float("nan")}, "t0 nan: allowed"),
    "truth": ({"t0": True}, "t0 True: of the wrong kind"),
    "fraction": ({"seed": 1.5}, "seed 1.5: of the wrong kind"),
    "negative": ({"seed": -1}, "seed -1: allowed is a whole number from 0"),
    "calls": ({"calls": 0}, "calls 0: allowed"),
    "few calls": (
        {"t0": 0.2, "calls": 1, "guidance_scale": 2, "class_label": "hen"},
        "--calls 1: one step of this",
    ),
    "class": ({"class_label": "dgo"}, "unknown class 'dgo' (did you mean dog?)"),
    "guidance": ({"guidance_scale": 4}, "guidance leads to a class"),
    "feather": ({"mask_feather": -1}, "mask_feather -1: allowed is 0 to 1024"),
}


@pytest.mark.parametrize(("given", "reason"), NONSENSE.values(), ids=NONSENSE)
def test_nonsense_is_refused_with_its_reason(client, given, reason):
    content = given if isinstance(given, bytes) else body(**given)
    status, said = client.error("POST", "edits", content)
    assert status == 400
    assert reason in said
    assert "Traceback" not in said


def test_too_much_is_refused(client):
    status, reason = client.error("POST", "edits", b" " * (MAX_BYTES + 1))
    assert (status, reason.partition(",")[0]) == (413, "more than 64 MiB")
    assert reason.endswith("; save the picture as JPEG, with 8 bits or with fewer pixels, and open that")
    huge = base64.b64encode(png(Image.new("1", (8193, 6144)))).decode()
    status, reason = client.error("POST", "edits", body(guide=huge))
    assert (status, reason) == (400, "guide: 8193x6144 pixels, allowed are 50331648")


def test_what_is_not_there(client):
    assert client.error("GET", "edits/none") == (404, "no such edit; it may have been dropped")
    assert client.error("GET", "edits/none/result.png")[0] == 404
    assert client.error("GET", "elsewhere")[0] == 404
    assert client.error("GET", "model/")[0] == 404
    assert client.error("PUT", "edits")[0] == 405


def test_two_users_are_served_in_turn(painter):
    gated = GatedPainter(painter)
    with served(gated) as client:
        first, second = client.submit()["id"], client.submit(seed=1)["id"]
        assert client.wait(first, "running")["ahead"] == 0
        assert client.status(second) | {"id": ""} == {
            "id": "",
            "state": "waiting",
            "ahead": 1,
            "step": 0,
            "steps": 5,
            "message": "",
        }
        assert client.error("GET", f"edits/{second}/result.png") == (409, "this edit is waiting")
        gated.steps.release(3)
        while client.status(first)["step"] < 3:
            time.sleep(0.01)
        assert client.status(second)["state"] == "waiting"
        gated.steps.release(9)
        assert client.wait(second, "done")["step"] == 5
        assert client.status(first)["state"] == "done"


def test_connections_that_say_nothing_keep_nobody_out(painter, monkeypatch):
    monkeypatch.setattr(connections, "MAX_SECONDS", 1)
    with served(painter) as client:
        kept = http.client.HTTPConnection("127.0.0.1", client.port, timeout=30)
        kept.request("GET", f"/{TOKEN}/model", headers={"Host": "localhost"})
        assert kept.getresponse().read()
        strangers = [socket.create_connection(("127.0.0.1", client.port)) for _ in range(70)]
        for i, stranger in enumerate(strangers):
            stranger.sendall([b"", b"GET /", b"POST /x HTTP/1.1\r\nContent-Length: 9\r\nHost: a"][i % 3])
        start = time.monotonic()
        assert client.ask("GET", "model")[0] == 200
        kept.request("GET", f"/{TOKEN}/model", headers={"Host": "localhost"})  # known, so not closed
        assert kept.getresponse().read()
        assert time.monotonic() - start < 1
        for stranger in strangers:
            stranger.settimeout(10)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
            stranger.close()
        kept.close()


def test_edits_are_cancelled(painter):
    gated = GatedPainter(painter)
    with served(gated) as client:
        running, waiting, last = (client.submit(seed=seed)["id"] for seed in range(3))
        gated.steps.release(2)
        client.wait(running, "running")
        assert json.loads(client.ask("DELETE", f"edits/{waiting}")[2])["state"] == "cancelled"
        assert client.status(last)["ahead"] == 1
        assert json.loads(client.ask("DELETE", f"edits/{running}")[2])["state"] == "cancelled"
        client.wait(last, "running")
        assert client.status(running)["step"] <= 2
        gated.steps.release(10)
        client.wait(last, "done")
        assert client.error("GET", f"edits/{waiting}/result.png") == (409, "this edit is cancelled")


def test_a_full_queue_says_so(painter):
    with served(GatedPainter(painter)) as client:
        client.wait(client.submit()["id"], "running")
        for _ in range(MAX_WAITING):
            client.submit()
        status, reason = client.error("POST", "edits", body())
        assert (status, reason) == (503, "16 edits wait already; try again when some of them are done")


@pytest.mark.parametrize("error", [ValueError("because"), RuntimeError("because"), KeyError("because")])
def test_a_failed_edit_says_why_and_the_next_is_done(error):
    def fails(step):
        raise error

    queue = Queue()
    bad, good = queue.submit(fails, 1), queue.submit(lambda step: b"png", 1)
    deadline = time.monotonic() + 10
    while good.state != "done":
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert (bad.state, good.result) == ("failed", b"png")
    assert "because" in queue.status(bad)["message"]
    assert "Traceback" not in bad.message
    assert queue.close(5)


def test_old_results_are_dropped():
    queue = Queue()
    for _ in range(MAX_KEPT + 3):
        edit = queue.submit(lambda step: b"png", 1)
        while edit.work is not None:
            time.sleep(0.001)
    assert len(queue._edits) <= MAX_KEPT + 1
    assert queue.close(5)


def test_large_results_are_dropped_sooner(monkeypatch):
    monkeypatch.setattr(queue_module, "MAX_KEPT_BYTES", 25)
    queue = Queue()
    edits = [queue.submit(lambda step: bytes(10), 1) for _ in range(4)]
    while edits[-1].work is not None:
        time.sleep(0.001)
    assert [queue.find(edit.id) is not None for edit in edits] == [False, False, True, True]
    assert queue.close(5)


def test_pictures_that_wait_have_a_limit_together(monkeypatch):
    monkeypatch.setattr(queue_module, "MAX_HELD_BYTES", 100)
    queue, gate = Queue(), threading.Event()
    queue.submit(lambda step: gate.wait(10) and b"png", 1, 300)
    with pytest.raises(queue_module.BusyError, match="have 300 bytes, and with these more than 100; try"):
        queue.submit(lambda step: b"png", 1, 1)
    gate.set()
    assert queue.close(5)


def test_every_option_is_described():
    assert described("docs/paint.md") == flags(paint)


def test_options(case, tmp_path, capsys):
    words = ["-c", str(case.config), "--weights", str(case.weights)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = str(other.getsockname()[1])
        with pytest.raises(SystemExit, match="2"):
            paint.main([*words, "--port", taken])
    assert "give another, or none" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        paint.main([*words[:-1], str(tmp_path / "none")])
    assert "none: no such file or folder" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="2"):
        paint.main([*words, "--port", "65536"])


@pytest.mark.launch
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_it_at_once_and_nothing_is_written(case, tmp_path, number):
    folder = tmp_path / "empty"
    folder.mkdir()
    words = [sys.executable, "-m", "tools.paint", "-c", str(case.config)]
    words += ["--weights", str(case.weights), "--cpu"]
    environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    port, token = re.search(r"127\.0\.0\.1:(\d+)/([^/]+)/", process.stdout.readline()).groups()
    client = Client(int(port), token)
    client.result()
    client.wait(client.submit(calls=100, t0=1)["id"], "running")
    start = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - start < 3
    assert (process.returncode, errors) == (0, "")
    assert list(folder.iterdir()) == []


def test_a_network_that_is_told_a_text_is_told_it():
    pytest.importorskip("transformers", reason="needs transformers: requirements-text.txt")
    with served(make_painter(None, ROOT / "tests/golden/latent/sd1")) as client:
        status, _, content = client.ask("GET", "model")
        model = json.loads(content)
        assert (status, model["told_text"], model["guidance"], model["image_size"]) == (200, True, 7.5, 32)
        red = client.result(prompt="red", sampler=None, calls=4)
        assert red != client.result(prompt="blue", sampler=None, calls=4)
    assert json.loads(Image.open(io.BytesIO(red)).text["parameters"])["prompt"] == "red"
