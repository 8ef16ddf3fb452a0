"""A download ends with the whole, right file, or with none and the commands to fetch it by hand."""

import hashlib
import io
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.utils.sources.file_server import serve, weights
from utils.sources import download, transfer
from utils.sources.download import file_name
from utils.sources.registry import Mirror
from utils.sources.transfer import DownloadError, Patience

ROOT = Path(__file__).resolve().parents[3]
DATA, OTHER = weights(200_000), weights(200_000, seed=1)
SHA256, MD5 = hashlib.sha256(DATA).hexdigest(), hashlib.md5(DATA).hexdigest()
FETCH = """
import sys
from pathlib import Path
from utils.sources.download import download
from utils.sources.registry import Mirror
download([Mirror(address=sys.argv[1], sha256=sys.argv[2])], Path(sys.argv[3]))
"""
BRISK = Patience(timeout_s=1.0, fruitless=3, pause_s=0.01)


@pytest.fixture
def server():
    with serve(DATA) as server:
        yield server


@pytest.fixture
def get(tmp_path, server):
    def get(*mirrors, size=None, patience=BRISK):
        given = mirrors or (Mirror(address=server.url(), sha256=SHA256),)
        return download.download(list(given), tmp_path / "cache" / "model.pt", size, patience)

    return get


def left(tmp_path):
    """Return what is in the cache folder but the lock."""
    return sorted(path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock"))


def test_a_file_arrives_whole_and_is_not_fetched_again(get, server, tmp_path):
    assert get(size=len(DATA)).read_bytes() == DATA
    assert left(tmp_path) == ["model.pt"]
    get()
    assert len(server.requests) == 1


def test_a_file_of_another_size_is_replaced(get, tmp_path):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/model.pt").write_bytes(DATA[:100])
    assert get(size=len(DATA)).read_bytes() == DATA


@pytest.mark.parametrize("left_there", [b"", b"<html>404</html>", DATA[:-1], DATA + b"x", b"PK\x03\x04" * 99])
def test_what_an_earlier_program_left_is_asked_for_again(get, server, tmp_path, left_there):
    (tmp_path / "cache").mkdir()
    (tmp_path / "cache/model.pt").write_bytes(left_there)
    assert get(Mirror(address=server.url())).read_bytes() == DATA


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "the file is empty"),
        (b"<!DOCTYPE html>" + b"x" * 9999, "a web page instead of weights"),
        (b"\n <html>log in</html>", "a web page instead of weights"),
        (DATA[:-1], "broken or truncated safetensors"),
        (b"garbage" * 999, "not a checkpoint of torch.save"),
        (b"PK\x03\x04" + b"x" * 9999, "not a checkpoint of torch.save"),
        (b"\x80\x02" + b"x" * 9999, "pickled otherwise|not a checkpoint"),
    ],
)
def test_what_is_not_all_of_a_file_of_weights_never_gets_the_name(
    get, server, tmp_path, data, problem, announce
):
    server.data, server.announce = data, announce
    with pytest.raises(DownloadError, match=problem):
        get(Mirror(address=server.url()))
    assert left(tmp_path) == []
    server.data = DATA
    assert get(Mirror(address=server.url())).read_bytes() == DATA


def test_a_checkpoint_cut_without_a_length_is_fetched_again(get, server, tmp_path):
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(9999)}, buffer, _use_new_zipfile_serialization=False)
    server.data, server.announce = buffer.getvalue()[:-1], False
    with pytest.raises(
        DownloadError, match=r"no whole file of weights: not a checkpoint of torch.save, or a trunc"
    ):
        get(Mirror(address=server.url()))
    server.data = buffer.getvalue()
    assert get(Mirror(address=server.url())).read_bytes() == server.data


@pytest.mark.parametrize("headers", [{"ETag": '"v2"'}, {}])
@pytest.mark.parametrize("data", [OTHER, weights(199_999), weights(1500)])
def test_two_versions_are_not_mixed_whatever_the_server_ignores(get, server, headers, data):
    server.cut = iter([1600, 0, 0, 0]).__next__
    with pytest.raises(DownloadError):
        get(Mirror(address=server.url()))
    server.cut, server.obeys, server.data, server.headers = None, False, data, headers
    assert get(Mirror(address=server.url())).read_bytes() == data


@pytest.mark.parametrize("seed", range(12))
def test_whatever_a_server_does_the_file_is_one_that_it_gave_whole(get, server, tmp_path, seed):
    rng, given = random.Random(seed), [DATA, OTHER, weights(150_000), weights(200_000, seed=2)]
    kinds = [*given, b"", b"<html>", DATA[:-1], DATA[:5000] + OTHER[5000:-9]]
    tags = {id(data): {"ETag": f'"{i}"'} for i, data in enumerate(kinds)}

    def turn():
        server.data = rng.choice(kinds)
        server.headers = rng.choice((tags[id(server.data)], tags[id(server.data)], {}))
        server.obeys, server.announce = rng.random() < 0.5, rng.random() < 0.7
        server.ranges = rng.random() < 0.9
        return rng.choice((0, 100, 50_000, 149_000, 10**9))

    for _ in range(6):
        server.cut = turn
        try:
            assert (
                get(Mirror(address=server.url()), patience=Patience(fruitless=3, pause_s=0)).read_bytes()
                in given
            )
        except DownloadError:
            assert not (tmp_path / "cache/model.pt").exists()


def test_a_slow_or_endless_body_is_given_up(get, server, tmp_path):
    server.pause, server.pieces = 0.01, 10**6
    slow = Patience(timeout_s=1, fruitless=3, pause_s=0.01, least_bytes=5000, window_s=0.3)
    since = time.monotonic()
    with pytest.raises(DownloadError, match=r"sent [\d,]+ bytes in \d s; try again later"):
        get(Mirror(address=server.url()), patience=slow)
    assert time.monotonic() - since < 5
    server.pause, server.announce, server.data = 0.0, False, DATA + bytes(10**6)
    with pytest.raises(DownloadError, match="sends more than 300,000 bytes; no such file is so large"):
        get(Mirror(address=server.url()), patience=Patience(most_bytes=300_000))
    assert "model.pt" not in left(tmp_path)


@pytest.mark.parametrize("seed", range(3))
def test_fifty_interruptions_at_random_bytes_are_gone_on_from(get, server, seed):
    generator, cuts = random.Random(seed), 50

    def cut():
        nonlocal cuts
        cuts -= 1
        return generator.randrange(1, 4000) if cuts >= 0 else len(DATA)

    server.cut = cut
    assert get().read_bytes() == DATA
    assert len(server.requests) == 51
    starts = [int(wanted[6:-1]) for _, wanted in server.requests[1:]]
    assert starts == sorted(starts)
    assert starts[0] > 0


@pytest.mark.parametrize("headers", [{"ETag": '"v1"'}, {"Last-Modified": "Sat, 01 Jan 2022 00:00:00 GMT"}])
def test_another_process_goes_on_only_where_the_file_is_the_same(get, server, headers):
    server.headers = headers
    server.cut = iter([1000, 0, 0, 0]).__next__
    with pytest.raises(DownloadError, match=r"ended after 1,000 of 200,000 bytes"):
        get(Mirror(address=server.url()))
    server.cut, server.requests = None, []
    server.headers = {name: value.replace("1", "2") for name, value in headers.items()}
    server.data = OTHER  # a new version: the If-Range fails, all of it is sent
    assert get(Mirror(address=server.url())).read_bytes() == OTHER
    assert server.requests == [("/model.pt", "bytes=1000-")]


@pytest.mark.parametrize("digest", [None, SHA256])
def test_without_a_validator_only_a_hash_allows_to_go_on(get, server, digest):
    server.headers = {}
    server.cut = iter([1000, 10**9]).__next__
    assert get(Mirror(address=server.url(), sha256=digest)).read_bytes() == DATA
    assert server.requests[1][1] == ("bytes=1000-" if digest else None)


def test_what_was_left_of_another_version_is_thrown_away_at_last(get, server):
    server.headers = {}
    server.cut = iter([1000, 0, 0, 0]).__next__
    server.data = OTHER
    with pytest.raises(DownloadError):
        get()
    server.cut, server.data = None, DATA
    assert get().read_bytes() == DATA


def test_a_server_without_ranges_sends_all_of_it_again(get, server):
    server.ranges = False
    server.cut = iter([1000, 10**9]).__next__
    assert get().read_bytes() == DATA


def test_a_complete_part_is_recognised(get, server, tmp_path):
    server.cut = iter([len(DATA) - 1, 0, 0, 0]).__next__
    with pytest.raises(DownloadError):
        get()
    with (tmp_path / "cache/model.pt.part").open("ab") as part:
        part.write(DATA[-1:])
    assert get().read_bytes() == DATA


@pytest.mark.parametrize(
    ("mirror", "size", "problem"),
    [
        ({"sha256": "0" * 64}, None, f"gave a file of sha256 {SHA256} instead of 0000"),
        ({"md5": "0" * 32}, None, f"gave a file of md5 {MD5} instead of 0000"),
        ({}, 17, "gives 200,000 bytes instead of 17: another file"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_stays(get, server, tmp_path, mirror, size, problem):
    with pytest.raises(DownloadError, match=problem):
        get(Mirror(address=server.url(), **mirror), size=size)
    assert left(tmp_path) == []


def test_an_unconfirmed_hash_only_warns(get, server, caplog):
    mirror = Mirror(address=server.url(), sha256="0" * 64, confirmed=False)
    assert get(mirror).read_bytes() == DATA
    assert "only one mirror ever showed" in caplog.text


@pytest.mark.parametrize("status", [403, 404, 500])
def test_the_next_mirror_is_tried(get, server, status):
    server.status["/gone.pt"] = status
    assert get(Mirror(address=server.url("/gone.pt")), Mirror(address=server.url(), md5=MD5)).is_file()
    assert [path for path, _ in server.requests][-1] == "/model.pt"
    assert len(server.requests) == (2 if status < 500 else 4)  # a fault of the server may pass


def test_when_all_mirrors_fail_every_one_is_named_with_a_command(get, server, tmp_path):
    server.status = {"/a.pt": 403, "/b.pt": 404}
    mirrors = [Mirror(address=server.url("/a.pt"), sha256=SHA256), Mirror(address=server.url("/b.pt"))]
    with pytest.raises(DownloadError) as caught:
        get(*mirrors)
    message, target = str(caught.value), tmp_path / "cache/model.pt"
    assert f"{mirrors[0].address}: answers 403" in message
    assert f"{mirrors[1].address}: answers 404" in message
    for mirror in mirrors:
        assert f"curl -fL -C - -o {target} {mirror.address}" in message
    assert f"echo '{SHA256}  {target}' | sha256sum -c" in message
    assert left(tmp_path) == []


def test_a_web_page_is_no_file(get, server, tmp_path):
    server.headers = {"Content-Type": "text/html; charset=utf-8"}
    with pytest.raises(DownloadError, match="a web page instead of a file"):
        get(Mirror(address=server.url()))
    assert left(tmp_path) == []


def test_a_compressed_answer_is_refused(get, server):
    server.headers = {"Content-Encoding": "gzip"}
    with pytest.raises(DownloadError, match="encoded as gzip"):
        get(Mirror(address=server.url()))


def test_a_slow_server_is_waited_for(get, server):
    server.pause = 0.1
    assert get().read_bytes() == DATA


def test_a_silent_server_is_given_up(get, server, tmp_path):
    server.pause = 1.0
    with pytest.raises(DownloadError, match="timed out"):
        get(patience=Patience(timeout_s=0.1, fruitless=2, pause_s=0.01))
    assert "model.pt" not in left(tmp_path)


def test_redirects_lead_to_http_only(get, server):
    server.redirects = {"/moved": server.url("/model.pt"), "/local": "file:///etc/hostname"}
    with pytest.raises(DownloadError):
        get(Mirror(address=server.url("/local")))
    assert get(Mirror(address=server.url("/moved"))).read_bytes() == DATA


def test_a_dead_address_is_given_up_at_once(get):
    with serve(b"") as gone:
        address = gone.url()
    with pytest.raises(DownloadError, match="refused"):
        get(Mirror(address=address), patience=Patience(pause_s=60))


@pytest.mark.parametrize("value", ["1", "true", "ON"])
def test_offline_nothing_is_tried(get, server, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    with pytest.raises(DownloadError, match=r"HF_HUB_OFFLINE is set(.|\n)*curl"):
        get()
    assert server.requests == []


def test_a_full_disk_is_said_before_anything_is_fetched(get, server, monkeypatch, tmp_path):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(transfer.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadError, match=r"200,000 bytes are needed and 10 free; give --weights_dir"):
        get()
    assert left(tmp_path) == []


def test_processes_at_once_fetch_once(server, tmp_path):
    server.pause = 0.05
    command = [sys.executable, "-c", FETCH, server.url(), SHA256, str(tmp_path / "model.pt")]
    running = [subprocess.Popen(command, cwd=ROOT) for _ in range(3)]
    assert [process.wait(60) for process in running] == [0, 0, 0]
    assert (tmp_path / "model.pt").read_bytes() == DATA
    assert len(server.requests) == 1


def test_a_killed_process_frees_the_lock_and_is_gone_on_from(get, server, tmp_path):
    server.pause = 0.2
    target = tmp_path / "cache/model.pt"
    process = subprocess.Popen([sys.executable, "-c", FETCH, server.url(), SHA256, str(target)], cwd=ROOT)
    part = target.with_name("model.pt.part")
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
    process.kill()
    process.wait()
    assert not target.exists()
    server.pause = 0.0
    assert get().read_bytes() == DATA
    assert server.requests[1][1] is not None


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://x.org/a/model.pt", "model.pt"),
        ("https://x.org/a/model.pt?dl=1#top", "model.pt"),
        ("https://x.org/..%2f..%2fetc%2fpasswd", "_.._etc_passwd"),
        ("https://x.org/%00%1b[2Jnice.pt", "_2Jnice.pt"),
        ("https://x.org/.bashrc", "bashrc"),
        ("https://x.org/", "weights"),
        ("https://x.org/" + "a" * 500 + ".pt", "a" * 97 + ".pt"),
    ],
)
def test_file_names_from_addresses_are_harmless(address, name):
    first, _, rest = file_name(address).partition("-")
    assert len(first) == 8
    assert rest == name


@pytest.mark.parametrize("address", ["file:///etc/passwd", "ftp://x.org/a", "https:///a", "x.org/a.pt"])
def test_other_addresses_are_refused(address):
    with pytest.raises(ValueError, match="not an http:// or https:// address"):
        file_name(address)
