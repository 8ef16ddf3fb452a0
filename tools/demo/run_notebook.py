"""Run docs/quickstart.ipynb in a copy of the project and keep its outputs.

Readers on GitHub see what it gives; tests/docs/test_notebook.py compares that with a fresh run.
"""

import shutil
import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

from tools.parser import make_parser
from utils.files import write_atomically

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "docs/quickstart.ipynb"
_LEFT_OUT = shutil.ignore_patterns(".*", "out", "runs", "tests", "__pycache__")
TIMEOUT_S = 600
"""Of a cell."""


def run(folder: Path) -> nbformat.NotebookNode:
    """Run the stored cells as one does who has just cloned the project, in a new kernel.

    Args:
        folder: Where the copy of the project goes; it must not exist.

    Returns:
        The notebook with its new outputs.

    Raises:
        nbclient.exceptions.CellExecutionError: A cell failed.
    """
    shutil.copytree(ROOT, folder, ignore=_LEFT_OUT)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(folder / "docs")}}
    return NotebookClient(notebook, timeout=TIMEOUT_S, resources=place, record_timing=False).execute()


def main() -> None:
    """Run it and store it."""
    make_parser(__doc__, __spec__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        notebook = run(Path(folder) / "project")
    notebook.metadata.language_info = {"name": "python"}  # not the version that happened to run it
    write_atomically(NOTEBOOK, (nbformat.writes(notebook) + "\n").encode())


if __name__ == "__main__":
    main()
