"""The rules that hold the house together: who may import whom, and what may happen at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
THIRD_PARTY = {"torch", "accelerate", "PIL", "yaml", "tqdm", "numpy", "safetensors"}
THIRD_PARTY |= {"filelock", "huggingface_hub"}
ASSEMBLE = "utils/assemble"
ALLOWED = {
    "diffusions": {"diffusions", "torch"},
    "models": {"models", "torch"},
    "utils": {"utils", *THIRD_PARTY},
    ASSEMBLE: {"diffusions", "models", "utils", "torch"},
}


def sources(room: str) -> list[Path]:
    files = sorted((ROOT / room).glob("*.py"))
    assert files, f"{room} is empty"
    return files


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_only_what_they_may(room):
    for path in sources(room):
        assert imports(path) <= ALLOWED[room] | set(sys.stdlib_module_names), path


def test_only_commands_and_tools_import_assemble():
    for room in ALLOWED.keys() - {ASSEMBLE}:
        for path in sources(room):
            assert "assemble" not in path.read_text(), path


@pytest.mark.parametrize(
    "path",
    ["utils/command/command_line.py", "utils/command/options.py", "sample_sdedit.py", "sample_ddib.py"],
)
def test_what_answers_first_needs_only_the_standard_library(path):
    top_level = [
        n for n in ast.parse((ROOT / path).read_text()).body if isinstance(n, ast.Import | ast.ImportFrom)
    ]
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
    for room in [*ALLOWED, "tools", "."]:
        for path in (ROOT / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not isinstance(node, ast.Call):
                    continue
                name = ast.unparse(node.func)
                assert name not in {"eval", "exec", "globals", "__import__", "importlib.import_module"}, path
                if name == "torch.load":
                    flags = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert flags.get("weights_only") == "True", path
