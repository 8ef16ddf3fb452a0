"""Every shell command in the pages is run, or is listed here with the reason why it is only parsed."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import COUNTS
from tests.docs.command_lines import (
    LAUNCHERS,
    SCRIPTS,
    alternatives,
    call,
    complete,
    fewer,
    launcher_parsers,
    parse,
    unwrap,
)
from tests.docs.pages import PAGES, ROOT, commands, spans
from utils.jobs import launch

WEIGHTS, CONFIG = "weights/fruits64.safetensors", "configs/demo/fruits64.yaml"

PICTURES = (
    *("fruits/lemon/0.png", "strokes/kiwi.png", "edits/guides/bruise.png", "edits/masks/bruise.png"),
    "clip/lemon.png",
    *("region/photos/plate.png", "region/masks/plate.png"),
    *("edits/painting/raspberry.png", "edits/strengths/raspberry.png", "large/table.png", "large/lemons.png"),
)
"""Those of assets that the commands find."""

STAND_INS = {
    "CONFIG": CONFIG,
    "WEIGHTS": WEIGHTS,
    "LINEAR_CONFIG": "linear.yaml",
    **dict.fromkeys(("INPUT_DIR", "/in"), "assets/fruits/lemon"),
    **dict.fromkeys(("SAVE_DIR", "/out"), "out/results"),
    **{"EDIT_STEPS": "30", "T0": "0.5", "L2": "0.3", "CLASS_A": "lemon", "CLASS_B": "lime", "SEED": "1"},
    **{"VAR_TYPE": "fixed_large", "RESPACE_TYPE": "quad", "RESPACE_STEPS": "100", "MICRO_BATCH": "2"},
    **{"PHOTOS": "assets/fruits", "STROKES": "out/strokes", "FOLDER": "assets/fruits", "N": "2"},
    **dict.fromkeys(("HOST", "$head"), "127.0.0.1"),
    **{"$SLURM_ARRAY_TASK_ID": "0", "$SLURM_ARRAY_TASK_COUNT": "1", "$SLURM_NNODES": "2"},
    **{"$SLURM_JOB_ID": "7", "$JOB_COMPLETION_INDEX": "0"},
}
"""What is put in place of the words in capitals."""

OF_MODULE = {
    "tools.convert": {"SOURCE": "both.pt", "TARGET": "out/w.safetensors", "NAME": "ema.unet_cond"},
    "tools.describe": {"FILE": WEIGHTS, "N": "64"},
    "tools.studies.transfer_colors": {
        "SOURCE": "assets/fruits/lemon/0.png",
        "REFERENCE": "assets/strokes/kiwi.png",
        "RESULT": "out/colors.png",
    },
    "tools.evaluate": {
        **{"GUIDES": "guides", "RESULTS": "sweep", "RESULTS2": "sweep2", "MASKS": "masks"},
        **{"REAL": "assets/fruits", "FILE": "out/table"},
    },
}
"""Likewise, of one program."""

USUAL = f"--weights {WEIGHTS} --input_dir assets/strokes --save_dir out/usual".split()
USUAL += ["--respace_steps", "100", "--edit_steps", "50"]
"""Arguments of sample_sdedit.py where a page has dots."""

LESS = {
    "tools.studies.benchmark_command": f"--config {CONFIG} --precision fp32 --device cpu "
    "--repeats 1 --images 2 --calls 1",
    "tools.studies.compare_inversions": "--points 2",
    "tools.studies.compare_samplers": "--num_guides 1 --seeds 2 --t0 0.01 --contenders ddpm:2",
    "tools.evaluate": "--metrics l2 --plot out/plot.png",  # the others need weights from elsewhere
    "tools.studies.plot_2d": "--points 8 --respace_steps 2 --figure out/figure.png",
    "tools.studies.transfer_colors": "--train_steps 2 --respace_steps 2",
}
"""What is added to the arguments of a tool so that it does little; the last of two values counts."""

_PHOTOS = "needs train.npz, photos that are no part of the project"
OF_GALAXIES = (("sample_sdedit", "hsc64"), ("sample_sdedit", "ztf64"), ("sample_ddib", "ztf64"))
OF_TEXT = (("sample_sdedit", "stable"), ("sample_ddib", "stable"), ("sample_sdedit", "openai/glide"))
NOT_RUN = {
    **dict.fromkeys(
        [f"python {name}.py --weights {w}" for name, w in OF_GALAXIES],
        "needs weights without a licence; tests/real/test_galaxies.py runs the like",
    ),
    "pip download": "likewise, and fetches them",
    **dict.fromkeys(
        [f"accelerate-launch {name}.py --weights {w}" for name, w in OF_TEXT],
        "needs gigabytes of weights; tests/commands/test_text_command.py runs the like on tiny ones",
    ),
    "python -m tools.studies.benchmark_text": "takes minutes and gigabytes; what it runs are two commands",
    "bash tools/demo.sh": "installs; its own commands are run below",
    "bash tools/test.sh": "installs, and runs these tests; CI runs it",
    "pip install -r requirements-": "installs; bash tools/test.sh does it too",
    "python -m tools.paint": "serves until Ctrl-C; tests/tools/paint/test_paint.py starts and ends it",
    "python -m pytest tests/faults": "takes long; CI runs it with the counts of tests/conftest.py",
    "pytest tests/faults": "likewise",
    "python -m pytest tests/browser": "runs with these tests",
    "python -m tools.demo.train_shipped": _PHOTOS,
    "python -m tools.demo.evaluate": _PHOTOS,
    "python -m tools.studies.compare_edits": _PHOTOS,
    "python -m tools.studies.compare_translations": _PHOTOS,
    "python -m tools.demo.judge": _PHOTOS,
    "python -m tools.studies.train_2d": "takes minutes; tests/tools/studies/test_2d.py trains one",
    "python -m tools.studies.benchmark ": "takes minutes; tests/tools/studies/test_benchmark.py measures one",
    "unzip painting.zip": "what the page saved; tests/browser/test_paint_page.py saves and opens one",
    "python -m tools.check_published": "fetches; tests/tools/test_check_published.py runs it on small ones",
    "python -m tools.studies.list_published": "tests/tools/studies/test_list_published.py compares its rows",
    "exiftool": "another program; tests/utils/images/test_marks.py parses what it shows",
    "ssh -L": "needs another machine",
    "head=$(scontrol": "needs SLURM",
    "scontrol requeue": "needs SLURM",
}
"""How these commands begin, and why they are not run. Those of this project are parsed."""

EVERY = {command: page for page in PAGES if page.name != "extend.md" for command in commands(page)}
"""Each command, and a page that has it; tests/docs/test_extend.py runs those of extend.md."""


def identity(value: object) -> str:
    return value.name if isinstance(value, Path) else value[:60]


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """Make what the commands find in a clone, with one picture in each folder, and go there."""
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    (tmp_path / "weights").mkdir()
    for path in (ROOT / "weights").glob("*.safetensors"):
        (tmp_path / "weights" / path.name).symlink_to(path)
    for name in PICTURES:
        copy(ROOT / "assets" / name, tmp_path / "assets" / name)
    (tmp_path / "assets/strokes.csv").write_text("kiwi.png,kiwi\n")
    for name in ("guides", "masks"):  # of painting.zip
        copy(ROOT / f"assets/edits/{name}/bruise.png", tmp_path / name / "bruise.png")
    linear = (ROOT / CONFIG).read_text().replace("cosine", "linear\n  beta_start: 0.0001\n  beta_end: 0.02")
    (tmp_path / "linear.yaml").write_text(linear)
    copy(ROOT / WEIGHTS, tmp_path / "runs/linear/fruits64.safetensors")
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    launch.start(cpu=True, precision="fp32")  # the first start in a process decides
    return tmp_path


def copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(source, target)
    if "large" in target.parts:  # by tiles these take long
        Image.open(source).crop((0, 0, 96, 80)).save(target)


def sweep() -> None:
    """Make the results that tools.evaluate measures, twice."""
    words = [*USUAL, "--input_dir", "guides", "--mask_dir", "masks", "--edit_steps", "20", "40"]
    call("sample_sdedit", [*fewer(words), "--save_dir", "sweep"])
    shutil.copytree("sweep", "sweep2")


def both() -> None:
    """Make a file of two networks, as xyfJASON's are."""
    import torch
    from safetensors.torch import load_file

    state = load_file(WEIGHTS)
    parts = ("unet_cond", "unet_uncond")
    named = {f"{part}.{key}": tensor for part in parts for key, tensor in state.items()}
    torch.save({"ema": named}, "both.pt")


FOLDERS = ("--input_dir", "--save_dir")
PREPARE = {"tools.evaluate": sweep, "tools.convert": both}


def variants(command: str) -> list[tuple[str, list[str]]]:
    """Return what a command of a page calls, once for each way that it shows: a module and its arguments."""
    found = []
    for line in alternatives(command):
        module = re.search(r"-m (tools[\w.]+)", line)
        stand_ins = STAND_INS | OF_MODULE.get(module and module[1], {})
        found.append(unwrap(complete(line, stand_ins, USUAL)))
    return found


def reason(command: str) -> str | None:
    return next((NOT_RUN[start] for start in NOT_RUN if command.startswith(start)), None)


@pytest.mark.filterwarnings("ignore:std")  # of the one picture that tools.studies.compare_samplers has here
@pytest.mark.parametrize(("command", "page"), EVERY.items(), ids=identity)
def test_every_command_runs_or_is_listed(command, page, clone, capfd):
    if reason(command):
        check_listed(command)
        return
    for program, words in variants(command):
        known = program in SCRIPTS or program.startswith(("tools.", "utils."))
        assert known, f"{page.name}: {command}: neither run nor in NOT_RUN"
        if first_alike(program, words) != command:  # what it differs by would be left out: the other is run
            parse(program, words)
            continue
        if program in SCRIPTS:
            run_script(program, fewer(words))
            continue
        if program in PREPARE:
            PREPARE[program]()
        call(program, reduced(program, words))


def reduced(program: str, words: list[str]) -> list[str]:
    return fewer(words) if program in SCRIPTS else [*words, *LESS.get(program, "").split()]


def first_alike(program: str, words: list[str]) -> str:
    """Return the first command of the pages that calls a program with the same values, once reduced."""
    wanted = values(reduced(program, words))
    return next(
        command
        for command in EVERY
        if not reason(command)
        for name, other in variants(command)
        if name == program and values(reduced(program, other)) == wanted
    )


def values(words: list[str]) -> dict[str, list[str]]:
    """Return the values of each flag, the last where it comes twice; those before any under no name."""
    found: dict[str, list[str]] = {"": []}
    for word in words:
        if word.startswith("--"):
            flag, found[word] = word, []
        else:
            found[flag if len(found) > 1 else ""].append(word)
    return found


def run_script(script: str, words: list[str]) -> None:
    """Run sample_sdedit.py or sample_ddib.py: every input must have a result."""
    call(script, words)
    input_dir, save_dir = (Path(words[len(words) - words[::-1].index(flag)]) for flag in FOLDERS)
    inputs = [path for path in (input_dir, *input_dir.rglob("*")) if path.is_file()]
    assert len(list(save_dir.rglob("*.png"))) >= len(inputs) > 0
    shutil.rmtree(save_dir)  # the next variant writes there too


def check_listed(command: str) -> None:
    """Check what can be, of a command that is not run."""
    if command.startswith("head=$("):
        return
    if " pytest " in f" {command}":
        check_pytest(command.partition("pytest ")[2].split())
    elif command.startswith(("python", "accelerate-launch")):
        for program, words in variants(command):
            parse(program, words)
    elif command.startswith("bash"):
        subprocess.run(["bash", "-n", ROOT / command.split()[1]], check=True)
    elif command.startswith("pip install"):
        assert f"-r {command.split()[-1]}" in (ROOT / "requirements-dev.txt").read_text().splitlines()


def check_pytest(words: list[str]) -> None:
    flag = ""
    for word in words:
        flag, before = (word, flag) if word.startswith("-") else ("", flag)
        assert not flag or flag == "-s" or flag in COUNTS, word
        assert flag or word.isdecimal() or (ROOT / word).exists(), word
        assert not word.isdecimal() or before in COUNTS, word


def test_no_page_counts_edit_steps_of_all_timesteps():
    """Of a thousand of them 50 are t0 0.05, hardly an edit."""
    for command in EVERY:
        assert not re.search(r"--edit_steps \d", command) or "--respace_steps" in command, command


def test_no_entry_of_the_tables_is_left_over():
    assert [start for start in NOT_RUN if not any(line.startswith(start) for line in EVERY)] == []
    run = {program for line in EVERY if not reason(line) for program, _ in variants(line)}
    assert set(LESS) | set(OF_MODULE) | set(PREPARE) <= run
    assert set(SCRIPTS) <= run


def test_commands_are_found_where_they_are_hidden(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "See `torchrun\na.py`, `torchrun`, `x = 1`.\n\n    bash \\\n        b.sh\n    # no\n    new c\n\n"
        "    x = y\n\n    kind: Job\n    spec:\n      command: [sh, -c, python d.py]\n\n"
        "```sh\npip install e\n```\n\n```python\nprint()\n```\n\n| a | `ssh f` |\n"
    )
    wanted = ["bash b.sh", "new c", "python d.py", "pip install e", "torchrun a.py", "ssh f"]
    assert commands(page) == wanted


def test_the_demo_script_does_what_it_says(clone, capfd):
    """With programs in its .venv that only write down how they were called."""
    for name in ("demo.sh", "setup.sh"):
        copy(ROOT / "tools" / name, clone / "tools" / name)
    programs = clone / ".venv/bin"
    programs.mkdir(parents=True)
    for name in ("python", "accelerate-launch"):
        (programs / name).write_text('#!/bin/sh\nprintf "%s\\n" "${0##*/} $*" >> calls\n')
        (programs / name).chmod(0o755)
    environment = {**os.environ, "PYTHON": sys.executable}
    subprocess.run(["bash", "tools/demo.sh"], check=True, env=environment)
    install, *calls = (clone / "calls").read_text().splitlines()
    assert install.endswith(
        "pip install --quiet --disable-pip-version-check --no-compile -r requirements.txt"
    )
    assert len(calls) == 2
    for line in calls:
        script, words = unwrap(shlex.split(line))
        run_script(script, fewer(words))


def test_every_flag_that_a_page_names_exists():
    known = {"--array", *COUNTS}  # of sbatch, and of our tests
    for command in EVERY:
        if command.startswith(("python ", *LAUNCHERS)) and " pytest " not in command:
            for program, words in variants(command):
                known |= set(parse(program, words)._option_string_actions)
    for parser in launcher_parsers():
        known |= set(parser._option_string_actions)
    for page in PAGES:
        for span in spans(page):
            flags = set(re.findall(r"(?<![\w-])--\w[\w-]*", span))
            assert flags <= known, f"{page.name}: {span}: {flags - known}"
