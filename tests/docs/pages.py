"""The pages for users: their blocks, and the shell commands in them."""

import re
import textwrap
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "weights/README.md", *sorted((ROOT / "docs").glob("*.md"))]

PROGRAMS = {
    *("python", "python3", "pip", "pip3", "bash", "sh", "source", "exec", "cd", "make", "git", "wget"),
    *("accelerate", "accelerate-launch", "torchrun", "pytest", "jupyter", "conda", "uv", "hf", "curl"),
    *("srun", "sbatch", "scontrol", "kubectl", "docker", "ssh", "unzip", "export", "ruff", "apt-get"),
}
"""What makes a command of a span of code in a sentence; every line of a block is one anyway."""

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?<=\n\n)(?: {4}.*\n)+")
_SPAN = re.compile(r"(?<!`)`([^`]+)`(?!`)")


class Block(NamedTuple):
    """Code between fences, or indented by four spaces."""

    language: str
    text: str
    before: str
    """The page up to it."""


def blocks(page: Path) -> list[Block]:
    """Return the blocks of code of a page, in its order."""
    text = page.read_text()
    found = [(match.start(), match[1], match[2]) for match in _FENCED.finditer(text)]
    plain = _FENCED.sub(lambda match: "\n" * match[0].count("\n"), text)
    assert plain.count("```") == 0, f"{page}: a fence without its other"
    unfenced = _FENCED.sub(lambda match: re.sub(r"[^\n]", "-", match[0]), text)
    found += [(match.start(), "", textwrap.dedent(match[0])) for match in _INDENTED.finditer(unfenced)]
    return [Block(language, code, text[:start]) for start, language, code in sorted(found)]


def spans(page: Path) -> list[str]:
    """Return what stands between single backticks outside of the blocks, each on one line."""
    prose = _INDENTED.sub("", _FENCED.sub("", page.read_text()))
    found = [span for part in re.split(r"\n\n|\|", prose) for span in _SPAN.findall(part)]
    return [" ".join(span.split()) for span in found]


def commands(page: Path) -> list[str]:
    """Return the shell commands of a page: the lines of its blocks, and the spans that call a program."""
    of_blocks = [line for block in blocks(page) for line in _lines(block)]
    return of_blocks + [span for span in spans(page) if _calls_a_program(span)]


def _lines(block: Block) -> list[str]:
    first = block.text.splitlines()[0]
    if block.language in ("python", "diff", "xml"):
        return []
    if block.language == "yaml" or re.match(r"\w+: \S", first):
        return _of_containers(yaml.safe_load(block.text))
    if re.search(r" [=+] ", first):  # a formula
        return []
    lines = re.sub(r"\s*\\\n\s*", " ", block.text).splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def _of_containers(value: object) -> list[str]:
    """Return what the containers of a Kubernetes object call, ["sh", "-c", LINE]."""
    if isinstance(value, list):
        return [line for item in value for line in _of_containers(item)]
    if not isinstance(value, dict):
        return []
    own = [value["command"][2]] if "command" in value else []
    return own + [line for item in value.values() for line in _of_containers(item)]


def _calls_a_program(span: str) -> bool:
    words = re.sub(r"^(\w+=\S+ )+", "", span).split()
    names_a_flag = len(words) == 2 and words[1].startswith("--")
    return words[0] in PROGRAMS and len(words) > 1 and not names_a_flag
