"""The pages for users: links lead somewhere, examples run, every option is described."""

import re
from pathlib import Path

import pytest

import sample_ddib
import sample_sdedit

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "weights/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?://)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_examples_run(page):
    for example in re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S):
        exec(compile(example, str(page), "exec"), {})


def flags(command) -> set[str]:
    return {name for name in command.build_parser()._option_string_actions if name.startswith("--")} - {
        "--help"
    }


def described(page: str) -> set[str]:
    """Return the flags in the first column of a page's tables."""
    first_columns = re.findall(r"^\| (.*?) \|", (ROOT / page).read_text(), flags=re.M)
    return {flag for cell in first_columns for flag in re.findall(r"--\w+", cell)}


def test_every_option_is_described_and_no_other():
    assert described("docs/SDEdit.md") == flags(sample_sdedit)
    assert described("docs/DDIB.md") == flags(sample_ddib)


def test_commands_in_the_pages_use_only_options_that_exist():
    for page in PAGES:
        for name, command in (("sample_sdedit.py", sample_sdedit), ("sample_ddib.py", sample_ddib)):
            for call in re.findall(rf"{name} ((?:[^`\n]*\\\n)*[^`\n]*)", page.read_text()):
                assert set(re.findall(r"(?<![\w-])--\w+", call)) <= flags(command), call
