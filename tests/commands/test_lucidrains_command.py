"""A model-10.pt of denoising-diffusion-pytorch, with a config written by hand, in both commands."""

import json

import pytest
import torch
import yaml

import sample_ddib
import sample_sdedit
from diffusions import make_schedule
from models import CONFIG_CLASSES, build_model
from models.lucidrains_unet import LucidrainsUNetConfig
from tests.commands.command_case import result_bytes
from tests.commands.test_run import NAMES, pixels
from tests.models.golden_nets import FOLDER
from tools.describe import describe
from utils.config import load_config

FIELDS = {"image_size": 16, "model_channels": 8, "channel_mult": [1, 2], "attention_resolutions": [8]}
DIFFUSION = {"num_timesteps": 50, "schedule": "sigmoid", "prediction": "v"}
STEPS = ["--respace_steps", "5"]


def buffers(num_timesteps: int) -> dict[str, torch.Tensor]:
    """Of the schedule, in float32, under the names that the package registers."""
    facts = json.loads((FOLDER / "lucidrains_base.json").read_text())["checkpoint"]
    names = [key for key in facts["model"] if not key.startswith("model.")]
    assert len(names) == 13
    schedule = make_schedule("sigmoid", num_timesteps)
    own = {"betas": schedule.betas, "alphas_cumprod": schedule.alphas_cumprod}
    own["loss_weight"] = schedule.alphas_cumprod  # of a network that predicts v
    return {name: own.get(name, torch.ones(num_timesteps)).float() for name in names}


@pytest.fixture
def own(case):
    """The case with model-10.pt as the trainer saves it, the raw weights without sense."""
    config = LucidrainsUNetConfig(**{k: tuple(v) if isinstance(v, list) else v for k, v in FIELDS.items()})
    torch.manual_seed(1)
    averaged = {
        f"model.{key}": torch.randn(t.shape) * 0.05 for key, t in build_model(config).state_dict().items()
    }
    raw = {key: torch.full_like(t, torch.nan) for key, t in averaged.items()}
    beside = buffers(DIFFUSION["num_timesteps"])
    ema = {f"online_model.{key}": t for key, t in (raw | beside).items()}
    ema |= {f"ema_model.{key}": t for key, t in (averaged | beside).items()}
    ema |= {"initted": torch.tensor(True), "step": torch.tensor(10_000)}
    content = {"step": 10_000, "model": raw | beside, "opt": {"state": {}, "param_groups": []}, "ema": ema}
    case.weights = case.weights.with_name("model-10.pt")
    torch.save(content | {"scaler": None, "version": "2.2.5"}, case.weights)
    write(case, DIFFUSION)
    return case


def write(case, diffusion) -> None:
    case.config.write_text(
        yaml.safe_dump({"model": {"name": "lucidrains_unet"} | FIELDS, "diffusion": diffusion})
    )


def test_both_commands_run_it(own, tmp_path, capfd):
    assert sample_sdedit.main([*own.words(), "--edit_steps", "3", *STEPS]) == 0
    edited = {name: pixels(data) for name, data in result_bytes(own.save_dir).items()}
    assert sorted(edited) == NAMES
    assert "took the EMA weights under ema.ema_model.model" in capfd.readouterr().err
    words = [*own.words(tmp_path / "to"), "--config_B", str(own.config), "--weights_B", str(own.weights)]
    assert sample_ddib.main([*words, *STEPS]) == 0
    assert sorted(result_bytes(tmp_path / "to")) == NAMES


def test_the_tool_writes_the_config(own, tmp_path):
    by_hand = load_config(own.config, CONFIG_CLASSES)
    own.config.write_text(describe(own.weights, 16))
    assert load_config(own.config, CONFIG_CLASSES) == by_hand
    assert "  schedule: sigmoid\n  prediction: v\n" in own.config.read_text()


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"schedule": "cosine"}, "50 from 0.00632522 to 0.999 in the file"),
        ({"schedule": "linear", "beta_start": 0.002, "beta_end": 0.4}, "50 from 0.002 to 0.4 by the config"),
        ({"num_timesteps": 1000}, "1000 from 0.000300279 to 0.999 by the config"),
    ],
)
def test_a_config_of_another_schedule_is_refused_by_the_betas_in_the_file(own, capsys, changes, found):
    write(own, DIFFUSION | changes)
    with pytest.raises(SystemExit) as ended:
        sample_sdedit.main([*own.words(), "--edit_steps", "3", *STEPS])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "its betas are of another schedule than the config's" in said
    assert found in said
