"""The command line: the option set is pinned, mistakes are answered fast and helpfully."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest

import sample_ddib
import sample_sdedit
from diffusions import preconditioning
from utils import diffusion_config, exits, sampling, settings
from utils.command import options
from utils.running import Running
from utils.settings import Edit, Network, Translate

ROOT = Path(__file__).resolve().parents[3]
COMMON = {
    *("--calls", "--guidance_interval"),
    *("--shard", "--verify", "--overwrite", "--weights_dir", "--list_weights"),
    *(
        "-h",
        "--help",
        "--help_all",
        "-c",
        "--config",
        "--weights",
        "--input_dir",
        "--save_dir",
        "--seed",
        "--noise_by",
    ),
    *("--respace_type", "--respace_steps", "--micro_batch", "--precision", "--compile", "--cpu", "--fit"),
    *("--size", "--tiles", "--noise_by", "--range", "--format", "--bits", "--channels"),
    *("--comparison", "--trajectory", "--no_metadata", "--no_report", "--dry_run", "--set"),
    *("--guidance_scale", "--negative_prompt", "--unconditional", "--classifier", "--classifier_scale"),
}
COMMANDS = {"sdedit": (sample_sdedit, Edit), "ddib": (sample_ddib, Translate)}
REQUIRED = ["-c", "c", "--weights", "w", "--input_dir", "i", "--save_dir", "s"]


def flags(command):
    return set(command.build_parser()._option_string_actions)


def test_the_option_set_is_pinned():
    assert flags(sample_sdedit) == COMMON | {
        *("--edit_steps", "--t0", "--sigma0", "--auto_t0", "--faithfulness", "--class_label"),
        *(
            "--samples",
            "--repeats",
            "--sampler",
            "--var_type",
            "--corrector_steps",
            "--snr",
            *("--strength_dir", "--region", "--region_margin"),
        ),
        *("--mask_dir", "--mask_invert", "--mask_feather", "--mask_default", "--mask_noise", "--resample"),
        *("--prompt", "--prompt_file", "--upsample"),
    }
    assert flags(sample_ddib) == COMMON | {
        *("--class_A", "--class_B", "--config_B", "--weights_B", "--offload", "--solver", "--inversion"),
        *("--cycle", "--save_latents", "--from_latents", "--prompt_A", "--prompt_B", "--t0"),
    }


@pytest.mark.parametrize("name", COMMANDS)
def test_every_field_has_its_flag_and_its_place_in_help(name):
    command, kind = COMMANDS[name]
    fields = [one.name for part in (Network, kind, Running) for one in dataclasses.fields(part)]
    assert len(fields) == len(set(fields))
    renamed = {"overrides": "set"}
    assert {f"--{renamed.get(field, field)}" for field in fields} <= flags(command)
    placed = [field for group in options.GROUPS.values() for field in group]
    assert len(placed) == len(set(placed))
    assert set(fields) <= set(placed)
    help_all = command.build_parser().show_help(everything=True)
    assert all(one in help_all for one in flags(command))


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_twelve_options_in_eighty_columns_and_a_line_that_runs(name, capsys):
    command, _ = COMMANDS[name]
    with pytest.raises(SystemExit):
        command.main(["-h"])
    said = capsys.readouterr().out
    shown = [line.split()[0] for line in said.splitlines() if line.startswith("  -")]
    assert len(shown) == 12 + 2
    assert {"-c,", "--weights", "--input_dir", "--save_dir"} < set(shown)
    whole = command.build_parser().show_help(everything=True)
    assert max(map(len, f"{said}\n{whole}".splitlines())) <= 80
    words = command.EXAMPLE.replace("\\\n", "").split()
    assert words[:2] == ["python", f"sample_{name}.py"]
    assert command.main([*words[2:], "--dry_run", "--cpu"]) == 0


def test_every_sampler_that_may_be_named_is_there():
    assert set(settings.SAMPLERS) == {"ddpm", *sampling.SAMPLERS}


def test_every_preconditioning_that_a_config_may_name_is_there():
    assert set(diffusion_config.PRECONDITIONINGS) == set(preconditioning.PRECONDITIONINGS)


def read(*words, command=sample_sdedit):
    kind = Edit if command is sample_sdedit else Translate
    return options.read(command.build_parser().parse_args([*REQUIRED, *words]), kind)


@pytest.fixture
def files(tmp_path, monkeypatch):
    """Files that the required options name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i").mkdir()
    for name in ("c", "w"):
        (tmp_path / name).touch()
    return tmp_path


def test_defaults(files):
    network, edit, running = read("--edit_steps", "3")
    assert (network.config, network.weights, network.overrides) == (Path("c"), "w", ())
    assert (edit.seed, edit.respace_type, edit.respace_steps, edit.var_type) == (0, None, None, None)
    assert (edit.sampler, edit.spacing) == (None, "uniform-trailing")
    assert (running.micro_batch, running.shard, running.save_dir) == (None, (), Path("s"))
    assert read("--class_B", "0", command=sample_ddib).method.spacing == "quad90"


def test_values_are_those_of_their_fields(files):
    network, edit, running = read(
        *("--t0", "0.25", "0.5", "--shard", "1/4", "--micro_batch", "auto", "--var_type", "fixedsmall"),
        *("--set", "a.b=1", "--set", "c=d", "--classifier", "w", "--trajectory", "4", "--comparison"),
    )
    assert (edit.t0, edit.var_type, edit.classifier) == ((0.25, 0.5), "fixed_small", ("w",))
    assert (edit.trajectory, edit.comparison, edit.auto_t0) == (4, True, False)
    assert (running.shard, running.micro_batch) == ((1, 4), "auto")
    assert network.overrides == ("a.b=1", "c=d")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "how far to go is not said; give --t0 0.5"),
        (["--edit_steps", "3", "--t0", "0.5"], "--edit_steps and --t0: give one of them"),
        (["--edit_steps", "0"], "--edit_steps 0: allowed is a whole number from 1"),
        (["--edit_steps", "1.5"], "'1.5' is not a whole number"),
        (["--edit_steps", "\u0663"], "is not a whole number"),
        (["--t0", "1_0"], "'1_0' is not a number"),
        (["--t0", "nan"], "--t0 nan: allowed is above 0 to 1"),
        (["--t0", "0"], "--t0 0.0: allowed is above 0 to 1"),
        (["--edit_step", "3"], "unknown flag --edit_step, did you mean --edit_steps?"),
        (["--edit", "3"], "unknown flag --edit, did you mean --edit_steps?"),
        (["--output_dir", "x"], "unknown flag --output_dir, did you mean --save_dir?"),
        (["--strength", "0.5"], "unknown flag --strength, did you mean --t0?"),
        (["--num-inference-steps", "5"], "did you mean --respace_steps?"),
        (["--edit_steps", "3", "--class_A", "1"], "unknown flag --class_A"),
        (
            ["--edit_steps", "3", "--micro_batch", "0"],
            "allowed is a whole number from 1, or auto",
        ),
        (["--edit_steps", "3", "--micro_batch", "all"], "--micro_batch all: allowed is"),
        (["--edit_steps", "3", "--seed", "-1"], "--seed"),
        (
            ["--edit_steps", "3", "--fit", "croop"],
            "crop, pad, stretch; did you mean crop?",
        ),
        (["--edit_steps", "3", "--trajectory", "1"], "--trajectory 1: allowed is a whole number from 2"),
        (["--edit_steps", "3", "--trajectory"], "expected one argument"),
        (["--edit_steps", "3", "b.png"], "'b.png' is not a whole number"),
        (["--edit_steps", "3", "--shard", "4/4"], "'4/4' is not I/N with I from 0 to N - 1"),
        (["--t0", "1", "--classifier", "a", "b", "c"], "3 words; give [CONFIG] WEIGHTS"),
    ],
)
def test_mistakes_are_answered_in_a_line(words, message, capsys, files):
    with pytest.raises(SystemExit) as caught:
        sample_sdedit.main([*REQUIRED, *words])
    assert caught.value.code == exits.USAGE
    said = capsys.readouterr().err
    assert message in said
    assert said.startswith(f"{Path(sys.argv[0]).name}: error: ")
    assert said.count("\n") == 1


def test_all_wrong_paths_are_named_at_once(tmp_path):
    (tmp_path / "fruits64.yaml").touch()
    (tmp_path / "file").touch()
    words = {
        "-c": f"{tmp_path}/fruits.yaml",
        "--weights": f"{tmp_path}/w.pt",
        "--input_dir": f"{tmp_path}/in",
        "--mask_dir": f"{tmp_path}/file",
        "--save_dir": f"{tmp_path}/file",
    }

    def message(**changes):
        given = words | {f"--{key}": value for key, value in changes.items()}
        with pytest.raises(ValueError, match="--config") as caught:
            read("--t0", "0.5", *(word for pair in given.items() for word in pair))
        return str(caught.value)

    said = message()
    assert f"does not exist (there is {tmp_path}/fruits64.yaml)" in said
    assert f"--weights {tmp_path}/w.pt: no such file or folder, and no published weights" in said
    assert f"--input_dir {tmp_path}/in: does not exist" in said
    assert f"--mask_dir {tmp_path}/file: is a file" in said
    assert f"--save_dir {tmp_path}/file: is a file" in said
    assert "results would replace inputs" in message(save_dir=words["--input_dir"])
    assert f"{tmp_path}/file is a file; give another folder" in message(save_dir=f"{tmp_path}/file/out")


def test_config_and_weights_the_wrong_way_round(files):
    (files / "net.yaml").touch()
    words = ["-c", "w", "--weights", "net.yaml", "--t0", "1"]
    with pytest.raises(ValueError, match=r"^--weights net.yaml and --config w are the wrong way round$"):
        read(*words)


@pytest.mark.parametrize("words", [["-h"], ["--edit_step", "3"], [*REQUIRED, "--t0", "0.5"]])
def test_help_typos_and_missing_paths_are_answered_before_torch_is_imported(words):
    command = [sys.executable, "-X", "importtime", "sample_sdedit.py", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == (0 if words == ["-h"] else 2)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if "import time" in line}
    assert "argparse" in imported
    assert not imported & {"torch", "PIL", "accelerate", "numpy"}
    quickest = min(_seconds([sys.executable, *command[3:]]) for _ in range(3))
    assert quickest < 1  # measured 0.1, where torch alone takes 2 and more


def _seconds(command):
    """Run a command and return what it took of a processor, however busy the machine is."""
    before = os.times()
    subprocess.run(command, cwd=ROOT, capture_output=True, check=False)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system
