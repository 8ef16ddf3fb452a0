"""The table of published weights in the docs is that of the registry and the configs."""

from pathlib import Path

from tools.studies import list_published

ROOT = Path(__file__).resolve().parents[3]


def test_docs_have_the_table_of_now():
    """Where this fails: python -m tools.studies.list_published prints it."""
    text = (ROOT / "docs/weights.md").read_text()
    for row in list_published.rows():
        assert row in text
    assert text.count("\n| `openai/consistency_models/") == 12
