"""What --weights takes: paths, names and addresses, each to one file or a message that helps."""

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.utils.sources.file_server import serve, weights
from utils.sources import source
from utils.sources.download import DownloadError
from utils.sources.hub import HubAddress, _by_numbers
from utils.sources.registry import Entry, Mirror
from utils.weights.checkpoint import open_checkpoint

ROOT = Path(__file__).resolve().parents[3]
DATA = weights(7000)


@pytest.fixture
def server():
    with serve(DATA) as server:
        yield server


@pytest.fixture
def registry(monkeypatch, server):
    good = Mirror(address=server.url("/good.pt"), md5=hashlib.md5(DATA).hexdigest())
    bad = Mirror(address=server.url("/gone.pt"))
    server.status = {"/gone.pt": 403}
    facts = {"licence": "MIT", "source": "here", "config": "demo/fruits64"}
    entries = {
        "a/b/net": Entry(name="a/b/net", file="net.pt", mirrors=(bad, good), **facts),
        "a/b/gone": Entry(name="a/b/gone", file="gone.pt", mirrors=(bad,), note="gone since 2023", **facts),
        "a/b/page": Entry(name="a/b/page", file="page.pt", page="https://x.org/page", **facts),
    }
    monkeypatch.setattr(source, "read_registry", lambda: entries)


@pytest.mark.usefixtures("registry")
def test_a_name_implies_its_config_and_is_fetched_once(server, tmp_path):
    found = source.parse("net", tmp_path)
    assert found.config_path == ROOT / "configs/demo/fruits64.yaml"
    assert found.on_disk() is None
    assert server.requests == []  # never before it is asked for
    assert found.fetch() == tmp_path / "net.pt" == found.on_disk()
    assert [path for path, _ in server.requests] == ["/gone.pt", "/good.pt"]
    assert source.parse("a/b/net", tmp_path).fetch().read_bytes() == DATA
    assert len(server.requests) == 2


@pytest.mark.usefixtures("registry")
def test_a_file_of_a_published_name_only_hints_at_the_config(tmp_path):
    (tmp_path / "net.pt").write_bytes(DATA)
    found = source.parse(str(tmp_path / "net.pt"))
    assert (found.config_path, found.hint, found.fetch()) == (None, "demo/fruits64", tmp_path / "net.pt")


@pytest.mark.usefixtures("registry")
def test_what_cannot_be_fetched_says_what_to_do(tmp_path):
    with pytest.raises(DownloadError, match=r"a/b/gone: could not(.|\n)*curl(.|\n)*gone since 2023"):
        source.parse("gone", tmp_path).fetch()
    wanted = f"open https://x.org/page and save the file as {tmp_path / 'page.pt'}"
    with pytest.raises(DownloadError, match=wanted):
        source.parse("page", tmp_path).fetch()
    (tmp_path / "page.pt").write_bytes(DATA)
    assert source.parse("page", tmp_path).fetch() == tmp_path / "page.pt"


@pytest.mark.usefixtures("registry")
def test_config_and_weights_are_settled_together(server, tmp_path):
    def find(path, hint):
        return Path(f"found-{path.name}-{hint}")

    named, demo = source.parse("net", tmp_path), ROOT / "configs/demo/fruits64.yaml"
    assert named.settle(None, find, fetch=False) == (demo, Path("net"))
    assert server.requests == []
    assert named.settle(None, find) == (demo, tmp_path / "net.pt")
    assert named.settle(Path("mine.yaml"), find) == (Path("mine.yaml"), tmp_path / "net.pt")
    file = source.parse(str(tmp_path / "net.pt"))
    assert file.settle(None, find, fetch=False)[0] == Path("found-net.pt-demo/fruits64")
    away = source.parse(server.url("/x.pt"), tmp_path)
    with pytest.raises(ValueError, match="not on disk, so what it is cannot be told; give -c CONFIG"):
        away.settle(None, find, fetch=False)
    assert away.settle(None, find)[0].name.endswith("-x.pt-")


def test_an_address_is_fetched_under_a_name_of_its_own(server, tmp_path):
    found = source.parse(server.url("/x/model.pt"), tmp_path)
    path = found.fetch()
    assert path.parent == tmp_path
    assert path.name.endswith("-model.pt")
    assert path != source.parse(server.url("/y/model.pt"), tmp_path).fetch()
    assert found.on_disk() == path


def test_a_folder_is_taken_as_it_is(tmp_path):
    assert source.parse(str(tmp_path)).fetch() == tmp_path


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("weights/fruit64.safetensors", "did you mean weights/fruits64.safetensors"),
        ("ema_cifar_10", "did you mean pesser/pytorch_diffusion/ema_cifar10"),
        ("lsun_cat", "could be openai/guided-diffusion/lsun_cat or pesser/pytorch_diffusion/lsun_cat"),
        ("nothing-like-it", "`python -m utils.sources.registry` lists the names"),
        ("ftp://x.org/a.pt", "not an http:// or https:// address"),
        ("hf://owner", "expected hf://owner/name"),
        ("hf://../name", "expected hf://owner/name"),
        ("hf://owner/name/../../x", "expected hf://owner/name"),
        ("\x1b[2J", r"\\x1b\[2J: no such file"),
    ],
)
def test_typos_are_answered_with_what_is_near(text, problem, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(ValueError, match=problem):
        source.parse(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("hf://google/ddpm-cifar10-32", ("google/ddpm-cifar10-32", None, None)),
        ("hf://a/b@v1.0", ("a/b", "v1.0", None)),
        ("hf://a/b@0123abc/c/d.pt", ("a/b", "0123abc", "c/d.pt")),
        ("hf://a/b/c/step*/ema.pt", ("a/b", None, "c/step*/ema.pt")),
    ],
)
def test_hub_addresses(text, parts):
    address = HubAddress.parse(text)
    assert (address.repository, address.revision, address.file) == parts


def test_what_would_be_waited_for_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.pt")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "s"))
    for path, kind in (
        (tmp_path / "pipe.pt", "pipe"),
        (Path("/dev/zero"), "device"),
        (tmp_path / "s", "socket"),
    ):
        with pytest.raises(ValueError, match=f"a {kind}, not a file; give a file of weights"):
            source.parse(str(path))
        with pytest.raises(ValueError, match=f"a {kind}, not a file"):
            open_checkpoint(path)
    listener.close()


def test_of_several_steps_the_last_is_taken():
    assert (
        max(["c/step9/e.pt", "c/step100000/e.pt", "c/step20000/e.pt"], key=_by_numbers) == "c/step100000/e.pt"
    )


def test_typos_are_answered_before_torch_is_imported():
    code = (
        "import sys; from utils.sources import source\n"
        "try: source.parse('no such')\n"
        "except ValueError: pass\n"
        "source.parse('ema_cifar10').on_disk()\n"
        "assert not {'torch', 'huggingface_hub'} & set(sys.modules)"
    )
    since = time.monotonic()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
    assert time.monotonic() - since < 5  # measured 0.2 s


class _Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: metadata in headers, listings at /api."""

    def log_message(self, *args):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        files, path = self.server.files, self.path.partition("?")[0]
        if path.startswith("/api/models/owner/name"):
            entries = [{"type": "file", "path": n, "oid": "0", "size": len(d)} for n, d in files.items()]
            info = {"id": "owner/name", "sha": COMMIT, "siblings": [{"rfilename": n} for n in files]}
            self.answer(200, json.dumps(entries if "/tree/" in path else info).encode(), {})
            return
        name = path.removeprefix("/owner/name/resolve/").partition("/")[2]
        if name not in files:
            code = "EntryNotFound" if path.startswith("/owner/name/") else "RepoNotFound"
            self.answer(404, b"", {"X-Error-Code": code, "X-Repo-Commit": COMMIT})
            return
        tag = hashlib.sha256(files[name]).hexdigest()
        self.answer(200, files[name], {"ETag": f'"{tag}"', "X-Repo-Commit": COMMIT})

    def answer(self, status, body, headers):
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


COMMIT = "0" * 40
FOLDER = {
    "unet/config.json": b"{}",
    "unet/diffusion_pytorch_model.bin": DATA,
    "scheduler/scheduler_config.json": b"{}",
    "c/step9/ema.pt": b"9",
    "c/step10/ema.pt": b"10",
}


PIPELINE = {
    "model_index.json": b'{"text_encoder": ["transformers", "CLIPTextModel"]}',
    "unet/config.json": b'{"_class_name": "UNet2DConditionModel"}',
    "unet/diffusion_pytorch_model.safetensors": DATA,
    "vae/config.json": b"{}",
    "vae/diffusion_pytorch_model.fp16.safetensors": DATA,
    "scheduler/scheduler_config.json": b"{}",
    "text_encoder/config.json": b"{}",
    "text_encoder/pytorch_model.bin": DATA,
    "tokenizer/vocab.json": b"{}",
    "tokenizer/merges.txt": b"",
}


@pytest.fixture
def hub(tmp_path):
    """Return a function that fetches an address in a process of its own, from a server or its cache."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    files = dict(FOLDER)
    server.files, server.daemon_threads = files, True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    code = (
        "import sys; from utils.sources.source import parse\n"
        "try: print(parse(sys.argv[1]).fetch())\n"
        "except OSError as error: sys.exit(str(error))"
    )

    def fetch(text, **more):
        endpoint = f"http://127.0.0.1:{server.server_address[1]}"
        env = {"HF_HOME": str(tmp_path), "HF_ENDPOINT": endpoint, "HF_HUB_DISABLE_XET": "1", **more}
        command = [sys.executable, "-W", "ignore", "-c", code, text]
        return subprocess.run(command, cwd=ROOT, env=os.environ | env, capture_output=True, text=True)

    fetch.files = files
    yield fetch
    server.shutdown()
    thread.join()
    server.server_close()


def test_the_hub_gives_files_and_folders_and_keeps_them(hub, tmp_path):
    done = hub("hf://owner/name")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert folder.is_relative_to(tmp_path / "hub")
    assert {path.name for path in folder.rglob("*.*")} == {
        "config.json",
        "diffusion_pytorch_model.bin",
        "scheduler_config.json",
    }
    last = hub("hf://owner/name@main/c/step*/ema.pt")
    assert Path(last.stdout.strip()).read_bytes() == b"10", last.stderr
    again = hub("hf://owner/name", HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9")
    assert again.stdout == done.stdout, again.stderr


def test_of_a_network_that_is_told_a_text_all_parts_are_fetched(hub, tmp_path):
    hub.files.clear()
    hub.files |= PIPELINE
    done = hub("hf://owner/name")
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*.*")}
    assert found == PIPELINE.keys()


@pytest.mark.parametrize(
    ("text", "more", "problem"),
    [
        ("hf://owner/name/missing.pt", {}, "name/missing.pt: is not there"),
        ("hf://owner/other/a.pt", {}, "there is no such repository, or it is private"),
        ("hf://owner/name/x*.pt", {}, "has no file x"),
        ("hf://owner/name/a.pt", {"HF_HUB_OFFLINE": "1"}, "is not in the cache"),
        ("hf://owner/name/c/step*/ema.pt", {"HF_HUB_OFFLINE": "1"}, "its files could not be listed"),
    ],
)
def test_what_the_hub_does_not_give_is_said_with_the_command(hub, text, more, problem):
    done = hub(text, **more)
    assert done.returncode == 1
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert "hf download owner/" in done.stderr or "*" in text


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("weights/fruits64.safetensors", "fruits64.safetensors"),
        ("weights", "weights"),
        ("fruits64", "demo/fruits64"),
        ("https://me:pass@host/a/x.pt?token=1", "https://host/a/x.pt"),
        ("hf://google/ddpm-cat-256@main", "hf://google/ddpm-cat-256@main"),
    ],
)
def test_weights_are_called_without_folders_and_secrets(monkeypatch, text, label):
    monkeypatch.chdir(ROOT)
    assert source.parse(text).label == label
