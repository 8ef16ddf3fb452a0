"""docs/extend.md, done to a copy of the project: the new sampler and network work as the page says."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.docs.pages import ROOT, Block, blocks, commands

PAGE = ROOT / "docs/extend.md"
ROOMS = (
    "configs",
    "diffusions",
    "models",
    "tools",
    "utils",
    "tests/diffusions",
    "tests/golden/samplers",
    "docs",
)
FILES = ("pyproject.toml", "sample_sdedit.py", "sample_ddib.py", "weights/fruits64.safetensors")
FILES += ("README.md", "weights/registry.yaml", "assets/strokes/kiwi.png", "tests/test_house.py")


@pytest.fixture(scope="module")
def extended(tmp_path_factory) -> Path:
    """Copy what the page is about, and do what the page says."""
    root = tmp_path_factory.mktemp("project")
    for room in ROOMS:
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    for block in blocks(PAGE):
        if block.language == "diff":
            apply(root, block.text)
        elif block.language:
            path = root / named(block)
            assert not path.exists(), path
            path.write_text(block.text)
    return root


def named(block: Block) -> str:
    """Return the path that the sentence before a block ends with."""
    return re.search(r"`([\w/.]+)`:\n\n$", block.before)[1]


def apply(root: Path, diff: str) -> None:
    """Apply hunks, each under the path of its file; the lines that were there must be so, and once."""
    for hunk in re.split(r"^--- ", diff, flags=re.MULTILINE)[1:]:
        name, *lines = hunk.splitlines(keepends=True)
        path = root / name.strip()
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        assert path.read_text().count(old) == 1, f"{name}: not there once: {old}"
        path.write_text(path.read_text().replace(old, new))


def run(root: Path, *words: object) -> str:
    """Run Python in the copy."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *map(str, words)]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_commands_of_the_page_work(extended):
    code = (
        "from pathlib import Path; from safetensors.torch import save_file; from models import build_model;"
        "from utils import sampling;"
        "network = build_model(sampling.read_config(Path('configs/demo/plain.yaml')).model);"
        "save_file(network.state_dict(), 'plain.safetensors')"
    )
    own_sampler, own_network, _ = ([*shlex.split(command), "--cpu"] for command in commands(PAGE))
    calls = [f"sample_sdedit.main({words})" for _, script, *words in (own_sampler, own_network)]
    assert [own_sampler[:2], own_network[:2]] == [["python", "sample_sdedit.py"]] * 2
    said = run(extended, "-c", "; ".join([code, "import sample_sdedit", *calls]))
    assert said.count("1 images in") == 2
    assert settings(extended, own_sampler)["sampler"] == "adams-bashforth"
    assert settings(extended, own_network)["config"]["model"] == {
        **{"image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 16}
    }


def settings(root: Path, words: list[str]) -> dict:
    """Return what a command of the page records, which must have made a picture of many colours."""
    save_dir = root / words[words.index("--save_dir") + 1]
    with Image.open(save_dir / "kiwi.png") as result:
        assert result.size == (64, 64)
        assert len(result.getcolors(64 * 64)) > 100
    return json.loads((save_dir / "run.json").read_text())["settings"]


def test_the_tests_of_the_page_and_of_the_house_pass(extended):
    order = "tests/diffusions/test_dpm_solver.py::test_order_on_gaussian_data"
    slow = (
        "tests/test_house.py::test_importing_the_library_has_no_side_effect"  # of which the page says nothing
    )
    words = ["-v", "-p", "no:cacheprovider", "--deselect", slow, order, "tests/test_house.py"]
    said = run(extended, "-m", "pytest", *words)
    assert len(re.findall(r"\[\w+-AdamsBashforth-2\] PASSED", said)) == 2, said


def test_its_blocks_have_our_style(extended):
    paths = [named(block) for block in blocks(PAGE) if block.language == "python"]
    paths += re.findall(r"^--- (.*\.py)$", PAGE.read_text(), flags=re.MULTILINE)
    for command in (["check"], ["format", "--check"]):
        run(extended, "-m", "ruff", *command, *paths)


def test_it_can_be_read_in_a_few_minutes():
    assert len(PAGE.read_text().splitlines()) <= 120
