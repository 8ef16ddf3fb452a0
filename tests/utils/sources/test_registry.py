"""The registry of published weights: complete, in order, and as the configs say."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import sample_sdedit
from utils.sources.hub import HubAddress
from utils.sources.registry import (
    ROOT,
    Entry,
    _describe,
    cache_folder,
    find_entry,
    near_names,
    read_registry,
    table,
)

REGISTRY = read_registry()
CONFIGS = {
    path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.yaml")
}
NOT_PUBLISHED = {"xyfJASON/diffusion-models-pytorch/ddpm_mnist", "demo/fruits64_ve"}


def test_every_published_config_has_an_entry_of_its_name():
    with_config = {name for name, entry in REGISTRY.items() if entry.config}
    assert with_config == CONFIGS - NOT_PUBLISHED
    assert all(REGISTRY[name].config == name for name in with_config)


@pytest.mark.parametrize("entry", REGISTRY.values(), ids=list(REGISTRY))
def test_entries_are_complete(entry):
    assert entry.licence
    assert entry.source
    assert entry.mirrors or entry.page or entry.name == "demo/fruits64"
    assert (entry.file is None) == (entry.name.startswith("google/") or entry.makes is not None)
    assert entry.file is None or re.fullmatch(
        r"[A-Za-z0-9._-]+\.(pt|pth|ckpt|pkl|eqx|safetensors)", entry.file
    )
    if entry.package:
        assert entry.package.endswith(".whl")
        assert Path(entry.member).name == entry.file
        assert entry.size
        assert entry.sha256
    for mirror in entry.mirrors:
        if mirror.address.startswith("hf://"):
            assert HubAddress.parse(mirror.address)
        else:
            assert mirror.address.startswith("https://")
        if mirror.digest:
            assert re.fullmatch(r"[0-9a-f]+", mirror.digest[1])
            assert len(mirror.digest[1]) == {"sha256": 64, "md5": 32}[mirror.digest[0]]


def test_files_of_the_cache_folder_have_names_of_their_own():
    files = [entry.file for entry in REGISTRY.values() if entry.file]
    assert len(set(files)) == len(files)


@pytest.mark.parametrize("name", [n for n, e in REGISTRY.items() if e.config and not n.startswith("demo/")])
def test_hashes_and_addresses_are_those_that_the_config_names(name):
    text, entry = (ROOT / "configs" / f"{name}.yaml").read_text(), REGISTRY[name]
    for mirror in entry.mirrors:
        address = (
            mirror.address.removeprefix("hf://").removesuffix("?dl=1").split("*")[0].rsplit("/step", 1)[0]
        )
        own = address in text or all(part in text for part in address.rsplit("/", 1))
        assert own or "ermongroup" in name or "xyfJASON" in name
        if mirror.digest and "ermongroup" not in name:
            assert mirror.digest[1] in text
            assert ("unconfirmed" in text) == (not mirror.confirmed)
    assert entry.page is None or entry.page in text or entry.page.startswith("https://github.com/")


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("openai/guided-diffusion/lsun_cat", "openai/guided-diffusion/lsun_cat"),
        ("guided-diffusion/lsun_cat", "openai/guided-diffusion/lsun_cat"),
        ("celeba_hq", "ermongroup/SDEdit/celeba_hq"),
        ("sun_horse", None),
    ],
)
def test_a_name_is_found_by_its_last_parts(text, name):
    entry = find_entry(text, REGISTRY)
    assert (entry and entry.name) == name


def test_an_ambiguous_name_is_refused():
    with pytest.raises(ValueError, match="could be openai/guided-diffusion/lsun_cat or pesser/"):
        find_entry("lsun_cat", REGISTRY)


def test_near_names():
    assert near_names("lsun_hrse", REGISTRY)[0] == "openai/guided-diffusion/lsun_horse"
    assert near_names("zzzz", REGISTRY) == []


def test_the_cache_folder_follows_the_conventions(monkeypatch):
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == Path("~/.cache/torch/hub/checkpoints").expanduser()
    monkeypatch.setenv("XDG_CACHE_HOME", "/c")
    assert cache_folder() == Path("/c/torch/hub/checkpoints")
    monkeypatch.setenv("TORCH_HOME", "/t")
    assert cache_folder() == Path("/t/hub/checkpoints")
    assert cache_folder(Path("/w")) == Path("/w")


def groups(text):
    """Return the lines of each entry, by its group and name."""
    found = {}
    for group in text.split("\n\n")[:-1]:
        title, *lines = group.splitlines()
        entries = found[title.removesuffix(":")] = {}
        for line in lines:
            if not line.startswith(" "):
                entries[line.split("  ")[0]] = []
            entries[[*entries][-1]].append(line)
    return found


def test_the_table_shows_what_is_on_disk_first(tmp_path, capsys):
    entry = REGISTRY["openai/guided-diffusion/256x256_diffusion_uncond"]
    found = groups(table(tmp_path))
    assert next(iter(found)) == "on disk"
    assert found["on disk"] == {
        "demo/fruits64": [
            "demo/fruits64  17 MB, licence MIT, this project",
            "    The demo: 16 kinds of fruit, 64x64, trained by tools/demo/train_shipped.py",
        ]
    }
    assert found["downloaded when first used"][entry.name] == [
        f"{entry.name}  2,211 MB, licence MIT",
        "    ImageNet 256x256, unconditional",
        "    openaipublic.blob.core.windows.net, sha256",
    ]
    (tmp_path / entry.file).write_bytes(b"too short")
    assert entry.on_disk(tmp_path) is None
    small = REGISTRY["openai/guided-diffusion/lsun_cat"]
    (tmp_path / small.file).write_bytes(b"x")
    assert small.on_disk(tmp_path) == tmp_path / small.file
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main(["--weights_dir", str(tmp_path), "--list_weights"])
    assert caught.value.code == 0
    assert list(groups(capsys.readouterr().out)["on disk"]) == ["demo/fruits64", small.name]


def test_the_table_has_every_entry_once_and_fits_a_terminal(tmp_path):
    text = table(tmp_path)
    found = groups(text)
    names = [name for entries in found.values() for name in entries]
    assert sorted(names) == sorted(REGISTRY)
    assert max(map(len, text.splitlines()[:-1])) <= 80
    assert {len(lines) for entries in found.values() for lines in entries.values()} == {1, 2, 3, 4}
    by_hand = found["to be fetched by hand, from the page given"]
    for name, lines in by_hand.items():
        assert REGISTRY[name].page in " ".join(lines).split()  # whole, to be copied
    hub = found["downloaded when first used, unless the hub's cache has them"]
    assert set(hub) == {entry.name for entry in REGISTRY.values() if entry.file is None}


@pytest.mark.parametrize("wanted", ["lsun_cat", "LSUN cat 256", "church", "512"])
def test_the_table_of_some(capsys, wanted):
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main(["--list_weights", wanted])
    assert caught.value.code == 0
    found = [name for entries in groups(capsys.readouterr().out).values() for name in entries]
    assert 0 < len(found) < len(REGISTRY) / 4
    for name in found:
        assert wanted.lower() in f"{name} {REGISTRY[name].pictures}".lower()


@pytest.mark.parametrize("flag", ["--list_weights", "--help_all"])
def test_whoever_reads_may_stop(flag):
    """As `head` does, which closes the pipe."""
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} sample_sdedit.py {flag} | head -n 1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


def test_a_table_of_none_is_a_mistake(capsys):
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main(["--list_weights", "unicorns"])
    assert caught.value.code == 2
    assert "--list_weights unicorns: no published weights" in capsys.readouterr().err


def test_a_very_long_entry_is_folded(tmp_path):
    entry = Entry(name="a/" + "n" * 70, licence="a licence " * 12, source="x", page="https://h/" + "p" * 80)
    name, *lines = _describe(entry, None)
    assert name == entry.name
    assert all(line.startswith("    ") for line in lines)
    assert max(map(len, lines[:-1])) <= 80
    assert lines[-1].strip() == entry.page


def test_a_wrong_key_is_named(tmp_path):
    (tmp_path / "r.yaml").write_text("a/b:\n  licence: MIT\n  source: x\n  fiel: a.pt\n")
    with pytest.raises(ValueError, match="a/b: unknown fiel"):
        read_registry(tmp_path / "r.yaml")
