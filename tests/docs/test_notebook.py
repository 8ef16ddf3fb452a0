"""The notebook: it runs from a clean state, and the outputs that it shows are those of its cells."""

import base64
import io
import json
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: requirements-dev.txt")
pytest.importorskip("ipykernel", reason="needs nbclient and ipykernel: requirements-dev.txt")

from tools.demo import run_notebook

STORED = json.loads(run_notebook.NOTEBOOK.read_text())
SIDE = 96
"""Of the pictures that the notebook shows, in pixels."""
CODE = [cell for cell in STORED["cells"] if cell["cell_type"] == "code"]


def pictures(cell: dict) -> list[np.ndarray]:
    found = [output["data"]["image/jpeg"] for output in cell["outputs"] if "data" in output]
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(jpeg)))).astype(int) for jpeg in found]


def said(cell: dict) -> str:
    """Return what a cell printed, without what differs between machines: numbers, how long it will take."""
    texts = ["".join(output["text"]) for output in cell["outputs"] if output["output_type"] == "stream"]
    text = re.sub(r"\d[\d.e-]*", "#", "".join(texts))
    return re.sub(r".*, about # s left\n", "", text)


def test_it_runs_from_a_clean_state_and_what_is_stored_is_what_it_gives(tmp_path):
    """In one test, as several on several processes would run it several times."""
    notebook = run_notebook.run(tmp_path / "project")
    fresh = [cell for cell in notebook.cells if cell.cell_type == "code"]
    check_cells(fresh)
    check_pictures([picture for cell in fresh for picture in pictures(cell)])
    for stored, cell in zip(CODE, fresh, strict=True):
        assert stored["execution_count"] == cell["execution_count"]
        assert said(stored) == said(cell)
        for old, new in zip(pictures(stored), pictures(cell), strict=True):
            assert old.shape == new.shape
            assert np.abs(old - new).mean() < 2, "run python -m tools.demo.run_notebook"  # grey levels


def check_cells(fresh: list[dict]) -> None:
    """All ran, in order, as they are stored, and none complained."""
    assert [cell["execution_count"] for cell in fresh] == list(range(1, len(CODE) + 1))
    assert [cell["source"] for cell in fresh] == ["".join(cell["source"]) for cell in CODE]
    for cell in fresh:
        for output in cell["outputs"]:
            assert output["output_type"] in ("stream", "display_data")
            assert output.get("name") != "stderr", output


def check_pictures(found: list[np.ndarray]) -> None:
    """There are six, and no tile of one is blank."""
    assert len(found) == 7
    for picture in found:
        height, width, _ = picture.shape
        for y in range(0, height, SIDE):
            for x in range(0, width - SIDE + 1, SIDE):
                assert picture[y : y + SIDE, x : x + SIDE].std() > 10


def test_the_file_is_small_and_names_no_machine():
    text = run_notebook.NOTEBOOK.read_text()
    assert len(text) < 400_000
    printed = "".join(json.dumps(output.get("text", "")) for cell in CODE for output in cell["outputs"])
    assert "/tmp" not in printed
    assert not re.search(r"(?<![\w.])/\w", printed)  # a path from the root


def test_its_links_lead_somewhere():
    for cell in STORED["cells"]:
        if cell["cell_type"] == "markdown":
            for target in re.findall(r"\]\((?!https?://)([^)#]+)", "".join(cell["source"])):
                assert (run_notebook.NOTEBOOK.parent / target).exists(), target


def test_outside_of_a_clone_the_first_cell_clones_and_installs(tmp_path, monkeypatch):
    commands = []

    def pretend(words, check):
        assert check
        commands.append(words)
        if words[0] == "git":
            Path(words[-1]).mkdir()

    monkeypatch.setattr(subprocess, "run", pretend)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # so that what the cell adds is taken away again
    source = "".join(CODE[0]["source"])
    with pytest.raises(ValueError, match="put the address of the repository into REPOSITORY"):
        exec(compile(source, "cell 1", "exec"), {})
    source = source.replace('REPOSITORY = ""', 'REPOSITORY = "https://host/it"')
    exec(compile(source, "cell 1", "exec"), {})
    clone = tmp_path / "sdedit-ddib"
    assert Path.cwd() == clone
    assert [words[0] for words in commands] == ["git", commands[1][0]]
    assert commands[0] == ["git", "clone", "--depth", "1", "https://host/it", str(clone)]
    assert commands[1][1:] == ["-m", "pip", "install", "--quiet", "-r", str(clone / "requirements.txt")]
