"""The pages for users: links lead somewhere, examples run, options are described. Commands: tests/docs."""

import re
from pathlib import Path

import pytest

import sample_ddib
import sample_sdedit

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "weights/README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = [page for page in PAGES if page.name != "extend.md"]
"""Its blocks are new files, which tests/docs/test_extend.py writes."""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


def slug(heading: str) -> str:
    """Return the anchor that GitHub gives a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_pages_lead_to_a_heading(page):
    for target, anchor in re.findall(r"\]\((?!https?://)([^)#]*)#([^)]+)\)", page.read_text()):
        text = (page.parent / target if target else page).read_text()
        headings = re.findall(r"^#+ (.*)$", text, flags=re.M)
        assert anchor in map(slug, headings), (target, anchor)


@pytest.mark.parametrize("page", EXAMPLES, ids=lambda page: page.name)
def test_python_examples_run(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(example, str(page), "exec"), {})


def flags(command) -> set[str]:
    return {name for name in command.build_parser()._option_string_actions if name.startswith("--")} - {
        "--help",
        "--help_all",
    }


def described(page: str) -> set[str]:
    """Return the flags in the first column of a page's tables."""
    first_columns = re.findall(r"^\| (.*?) \|", (ROOT / page).read_text(), flags=re.M)
    return {flag for cell in first_columns for flag in re.findall(r"--\w+", cell)}


def test_every_option_is_described_and_no_other():
    assert described("docs/SDEdit.md") == flags(sample_sdedit)
    assert described("docs/DDIB.md") == flags(sample_ddib)
