"""The command line: the option set is pinned, mistakes are answered fast and helpfully."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import sample_ddib
import sample_sdedit
from utils import assemble, exits
from utils.command import options

ROOT = Path(__file__).resolve().parents[3]
COMMON = {
    *("--shard", "--verify", "--overwrite", "--weights_dir", "--list_weights"),
    *("-h", "--help", "-c", "--config", "--weights", "--input_dir", "--save_dir", "--seed"),
    *("--respace_type", "--respace_steps", "--micro_batch", "--precision", "--compile", "--cpu", "--fit"),
    *("--comparison", "--trajectory", "--no_metadata", "--no_report", "--dry_run", "--set"),
}
GUIDANCE = {"--guidance_scale", "--unconditional", "--classifier", "--classifier_scale"}
COMMANDS = {"sdedit": sample_sdedit, "ddib": sample_ddib}


def test_the_option_set_is_pinned():
    flags = {name: set(c.build_parser()._option_string_actions) for name, c in COMMANDS.items()}
    assert flags["sdedit"] == COMMON | GUIDANCE | {
        *("--edit_steps", "--t0", "--auto_t0", "--faithfulness", "--class_label", "--samples", "--repeats"),
        *("--sampler", "--var_type", "--corrector_steps", "--snr"),
        *(
            "--mask_dir",
            "--mask_invert",
            "--mask_feather",
            "--mask_default",
            "--mask_noise",
            "--strength_dir",
        ),
    }
    assert flags["ddib"] == COMMON | GUIDANCE | {
        *("--class_A", "--class_B", "--config_B", "--weights_B", "--offload", "--solver", "--inversion"),
        *("--cycle", "--save_latents", "--from_latents"),
    }


def test_every_sampler_that_may_be_named_is_there():
    assert set(options.SAMPLERS) == {"ddpm", *assemble.SAMPLERS}


REQUIRED = ["-c", "c", "--weights", "w", "--input_dir", "i", "--save_dir", "s"]


def parse(*words, command=sample_sdedit):
    return command.build_parser().parse_args([*REQUIRED, *words])


def test_defaults():
    args = vars(parse("--edit_steps", "3"))
    assert {
        key: args[key] for key in ("seed", "respace_type", "respace_steps", "micro_batch", "var_type")
    } == {
        "seed": 0,
        "respace_type": "uniform-trailing",
        "respace_steps": None,
        "micro_batch": None,
        "var_type": None,
    }
    assert parse("--class_B", "0", command=sample_ddib).respace_type == "quad90"


def test_ancestors_spelling_of_variances_is_accepted():
    assert parse("--t0", "0.5", "--var_type", "fixedsmall").var_type == "fixed_small"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "one of the arguments --edit_steps --t0 --auto_t0 is required"),
        (["--edit_steps", "3", "--t0", "0.5"], "not allowed with"),
        (["--edit_steps", "0"], "'0' is not a whole number of at least 1"),
        (["--edit_steps", "1.5"], "'1.5' is not a whole number"),
        (["--edit_step", "3"], "unknown flag --edit_step, did you mean --edit_steps?"),
        (["--edit", "3"], "unknown flag --edit, did you mean --edit_steps?"),
        (["--edit_steps", "3", "--class_A", "1"], "unknown flag --class_A"),
        (["--edit_steps", "3", "--micro_batch", "0"], "--micro_batch"),
        (["--edit_steps", "3", "--seed", "-1"], "--seed"),
        (["--edit_steps", "3", "--fit", "croop"], "choose from"),
        (["--edit_steps", "3", "--trajectory", "1"], "'1' is not a whole number of at least 2"),
        (["--edit_steps", "3", "--trajectory"], "expected one argument"),
        (["--edit_steps", "3", "b.png"], "'b.png' is not a whole number"),
    ],
)
def test_mistakes_are_usage_errors(words, message, capsys):
    with pytest.raises(SystemExit) as caught:
        parse(*words)
    assert caught.value.code == exits.USAGE
    assert message in capsys.readouterr().err


def test_all_wrong_paths_are_named_at_once(tmp_path):
    (tmp_path / "fruits64.yaml").touch()
    (tmp_path / "file").touch()
    words = [
        "-c",
        f"{tmp_path}/fruits.yaml",
        "--weights",
        f"{tmp_path}/w.pt",
        "--input_dir",
        f"{tmp_path}/in",
    ]
    args = parse("--t0", "0.5", *words, "--save_dir", f"{tmp_path}/file")
    with pytest.raises(ValueError, match="--config") as caught:
        options.check_paths(args)
    message = str(caught.value)
    assert f"does not exist (there is {tmp_path}/fruits64.yaml)" in message
    assert f"--weights {tmp_path}/w.pt: no such file or folder, and no published weights" in message
    assert f"--input_dir {tmp_path}/in: does not exist" in message
    assert f"--save_dir {tmp_path}/file: is a file" in message
    args.save_dir = args.input_dir
    with pytest.raises(ValueError, match="results would replace inputs"):
        options.check_paths(args)
    args.compile, args.micro_batch = True, "auto"
    with pytest.raises(ValueError, match="give --micro_batch a number, not auto"):
        options.check_paths(args)


@pytest.mark.parametrize("words", [["-h"], ["--edit_step", "3"], [*REQUIRED, "--t0", "0.5"]])
def test_help_typos_and_missing_paths_are_answered_before_torch_is_imported(words):
    command = [sys.executable, "-X", "importtime", "sample_sdedit.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if words == ["-h"] else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time" in line}
    assert "argparse" in imported
    assert not imported & {"torch", "PIL", "accelerate", "numpy"}
    quickest = min(_seconds([sys.executable, *command[3:]]) for _ in range(3))
    assert quickest < 0.3


def _seconds(command):
    """Run a command and return what it took of a processor, however busy the machine is."""
    before = os.times()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
