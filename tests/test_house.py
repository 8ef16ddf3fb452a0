"""The rules that hold the house together: who may import whom, and what may happen at import."""

import ast
import re
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = {"torch", "accelerate", "PIL", "yaml", "tqdm", "numpy", "safetensors"}
THIRD_PARTY |= {"filelock", "huggingface_hub"}
GROUND = {"option", "settings", "config", "exits", "files", "interrupt", "launchers", "log", "quote"}
GROUND |= {"threads", "diffusion_config", "running"}
FLOORS = ("sources", "weights", "pipelines", "arrays", "codecs", "images", "jobs", "command")
FLOORS += ("sampling", "assemble")
"""Flats of utils/, from the ground up: each imports only those before it, and the ground floor."""
BELOW = {"command": {"sources"}}
"""Flats that may import less: the command line answers before torch is there."""
ALLOWED = {
    "diffusions": {"diffusions", "torch"},
    "models": {"models", "torch", "diffusers", "transformers"},
    "utils": {"utils", *THIRD_PARTY},
    **{f"utils/{flat}": {"utils", *THIRD_PARTY} for flat in FLOORS[:-2]},
    "utils/pipelines": {"utils", "torch", "transformers", "tokenizers"},
    **{f"utils/{flat}": {"diffusions", "models", "utils", "torch", "PIL"} for flat in FLOORS[-2:]},
}
SOURCES = [*ROOT.glob("*.py"), *(ROOT / "utils").rglob("*.py"), *(ROOT / "tools").rglob("*.py")]
TOP = {"sample_sdedit.py", "sample_ddib.py", "diffusions", "models", "configs", "utils", "weights", "assets"}
TOP |= {"docs", "tests", "tools", "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml"}
PAGES = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
TOOLS = {
    "paint": set(),
    "demo": set(),
    "description": set(),
    "evaluation": {"demo"},
    "studies": {"demo", "evaluation"},
}
"""The rooms of tools/, and which others each builds on."""


def sources(room: str) -> list[Path]:
    files = sorted((ROOT / room).glob("*.py"))
    assert files, f"{room} is empty"
    return files


@cache
def modules(path: Path) -> set[str]:
    """Return what a file imports, in full: `from a import b` as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def imports(path: Path) -> set[str]:
    return {name.split(".")[0] for name in modules(path)}


def floors(path: Path) -> set[str]:
    """Return which parts of utils/ a file imports."""
    return {name.split(".")[1] for name in modules(path) if name.startswith("utils.")}


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="only a clone knows what is tracked")
def test_nothing_lies_at_the_top_but_what_belongs_there():
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    top = {line.split("/")[0] for line in tracked.splitlines() if not line.startswith(".")}
    assert top - TOP == {name for name in top if name.startswith("requirements") and name.endswith(".txt")}


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    for path in sources(room):
        assert imports(path) <= ALLOWED[room] | set(sys.stdlib_module_names), path


def test_libraries_that_few_need_are_imported_where_they_are_needed_alone():
    users = {"diffusers": ["models/wrapped.py"]}
    users["transformers"] = ["models/text_encoder.py", "utils/pipelines/tokens.py"]
    rooms = [*(ROOT / "models").glob("*.py"), *(ROOT / "utils").rglob("*.py")]
    for library, wanted in users.items():
        found = sorted(path for path in rooms if library in imports(path))
        assert [path.relative_to(ROOT).as_posix() for path in found] == wanted
        for path in found:
            assert not re.search(rf"^(from|import) {library}", path.read_text(), re.MULTILINE)


def test_every_file_of_utils_has_its_floor():
    assert {path.stem for path in sources("utils")} == GROUND
    assert {path.parent.name for path in (ROOT / "utils").glob("*/*.py")} == {*FLOORS}


@pytest.mark.parametrize("flat", FLOORS)
def test_a_flat_imports_only_what_stands_below_it(flat):
    below = BELOW.get(flat, {*FLOORS[: FLOORS.index(flat)]})
    for path in sources(f"utils/{flat}"):
        assert floors(path) <= {flat} | below | GROUND, path


def test_the_ground_floor_imports_no_flat():
    for path in sources("utils"):
        assert floors(path) <= GROUND, path


@pytest.mark.parametrize("flat", FLOORS)
def test_a_flat_hands_out_what_others_use(flat):
    """Beyond a flat, its names come from its __init__, which hands out no other."""
    names = set(ast.literal_eval(_assigned(ROOT / "utils" / flat / "__init__.py", "__all__")))
    words = {word for page in PAGES for word in re.findall(r"\w+", page.read_text())}
    for path in SOURCES:
        if path.parent != ROOT / "utils" / flat:
            inner = {name for name in modules(path) if name.startswith(f"utils.{flat}.")}
            assert {name.removeprefix(f"utils.{flat}.") for name in inner} <= names, path
            words |= set(re.findall(r"\w+", path.read_text()))
    assert names <= words


def _assigned(path: Path, name: str) -> str:
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == name:
            return ast.unparse(node.value)
    raise AssertionError(f"{path}: no {name}")


def test_files_and_functions_stay_small():
    lengths, flats = [], {}
    for room in ALLOWED:
        for path in sources(room):
            text = path.read_text()
            num_lines = len(text.splitlines())
            assert num_lines <= 400, path
            flats[room] = flats.get(room, 0) + num_lines
            for node in ast.walk(ast.parse(text)):
                if isinstance(node, ast.FunctionDef):
                    lengths.append(node.end_lineno - node.lineno + 1)
    assert max(count for room, count in flats.items() if room.startswith("utils")) <= 2500
    lengths.sort()
    assert lengths[len(lengths) // 2] <= 12
    assert lengths[len(lengths) * 9 // 10] <= 40


@pytest.mark.parametrize("script", ["sample_sdedit.py", "sample_ddib.py"])
def test_a_command_reads_like_its_paper(script):
    text = (ROOT / script).read_text()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 40
    other = (ROOT / ({"sample_sdedit.py", "sample_ddib.py"} - {script}).pop()).read_text().splitlines()
    lines = [line for line in text.splitlines() if line.strip()]
    there = "\n".join(line for line in other if line.strip())
    for start in range(len(lines) - 5):
        assert "\n".join(lines[start : start + 6]) not in there


def test_argparse_ends_in_the_command_line():
    for room in ALLOWED.keys() - {"utils/command"}:
        for path in sources(room):
            assert "argparse" not in path.read_text(), path


def test_rooms_of_tools_build_on_few_others():
    assert {path.name for path in (ROOT / "tools").iterdir() if any(path.glob("*.py"))} == TOOLS.keys()
    for room, others in TOOLS.items():
        for path in sources(f"tools/{room}"):
            found = {name.split(".")[1] for name in modules(path) if name.startswith("tools.")}
            assert found <= {room, "parser", *others}, path


def test_only_commands_and_tools_import_what_joins_the_rooms():
    for room in ALLOWED.keys() - {"utils/sampling", "utils/assemble"}:
        for path in sources(room):
            assert not floors(path) & {"sampling", "assemble"}, path


@pytest.mark.parametrize("path", [*sorted((ROOT / "utils/command").glob("*.py")), ROOT / "sample_ddib.py"])
def test_what_answers_first_needs_only_the_standard_library(path):
    top_level = [n for n in ast.parse(path.read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)]
    names = {a.name.split(".")[0] for n in top_level if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module.split(".")[0] for n in top_level if isinstance(n, ast.ImportFrom)}
    assert names <= set(sys.stdlib_module_names) | {"utils"}


def test_importing_the_library_has_no_side_effect():
    code = (
        "import torch, threading; state = torch.get_rng_state(); threads = torch.get_num_threads();"
        "dtype = torch.get_default_dtype();"
        "import diffusions, models, utils.assemble;"
        "assert torch.equal(state, torch.get_rng_state()) and threads == torch.get_num_threads();"
        "assert dtype == torch.get_default_dtype() and torch.is_grad_enabled();"
        "assert not torch.distributed.is_initialized() and threading.active_count() == 1"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_no_unsafe_load_and_no_dynamic_import():
    for room in [*ALLOWED, "tools", *(f"tools/{room}" for room in TOOLS), "."]:
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "globals", "__import__", "importlib.import_module"}, path
                if name == "torch.load":
                    flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert flags.get("weights_only") == "True", path
