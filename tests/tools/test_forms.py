"""Every tool starts in the forms that are promised: as a module, and those on top as a file as well."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from tests.commands.command_case import ROOT

FILES = sorted((ROOT / "tools").glob("*.py"))
STARTED = 'if __name__ == "__main__":'
TOOLS = [path for path in sorted((ROOT / "tools").rglob("*.py")) if STARTED in path.read_text()]
ON_TOP = [path for path in TOOLS if path.parent == ROOT / "tools"]
OF_OTHERS = {"diffusers", "matplotlib", "nbclient", "nbformat"}
"""Packages that some tools need and that requirements.txt does not bring."""

AS_FILES = """
import runpy, sys

root, ours, tools = sys.argv[1], set(sys.argv[2].split()), sys.argv[3:]
rest = [path for path in sys.path[1:] if path != root]
for tool in tools:
    sys.path[:] = [f"{root}/tools", *rest]  # as Python does for a file
    for name in [name for name in sys.modules if name.partition(".")[0] in ours]:
        del sys.modules[name]
    sys.argv = [tool, "-h"]
    try:
        runpy.run_path(tool, run_name="__main__")
    except SystemExit as end:
        print(end.code, tool)
"""
"""Start files one after the other, each as if it were the first, but for torch, which takes seconds."""


def name_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")


def test_on_top_lie_what_users_call_and_the_parser():
    assert {path.stem for path in FILES} - {path.stem for path in ON_TOP} == {"parser"}


@pytest.mark.parametrize("module", [name_of(path) for path in TOOLS])
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_as_a_module(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, "-h"])
    try:
        with pytest.raises(SystemExit) as ended:
            runpy.run_module(module, run_name="__main__")
    except ModuleNotFoundError as error:
        if error.name not in OF_OTHERS:
            raise
        pytest.skip(f"needs {error.name}")
    assert not ended.value.code
    said = capsys.readouterr().out
    assert "-h, --help" in said
    assert "usage:" not in said or said.startswith(f"usage: python -m {module} ")


def test_as_a_file_from_anywhere(tmp_path):
    ours = " ".join(path.stem for path in ROOT.iterdir())
    some = ON_TOP[::2]  # all begin alike, and each imports the project anew
    words = [sys.executable, "-c", AS_FILES, ROOT, ours, *some]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.stderr == ""
    assert re.findall(r"^(\S+) (/\S+)$", done.stdout, re.MULTILINE) == [("0", str(path)) for path in some]
    assert done.stdout.count("-h, --help") == len(some)
