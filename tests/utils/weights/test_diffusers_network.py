"""Folders that none of our networks computes, on diffusers' own class: equal to it, in every precision."""

import json
import sys

import pytest
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler, UNet2DModel
from PIL import Image

import sample_ddib
import sample_sdedit
from models import CONFIG_CLASSES, build_empty
from models.diffusers_unet import DiffusersUNetConfig
from models.precision import cast_network
from tests.utils.weights.test_diffusers_folder import NCSNPP, SHELF, network_of
from tools.convert import main as convert
from utils.config import load_config
from utils.weights import load_weights, read_config

TRAINED = {  # as train_unconditional.py of diffusers makes it, but narrow, of three resolutions
    "sample_size": 16,
    "layers_per_block": 2,
    "block_out_channels": (32, 32, 64),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
}
CASES = {
    "train_unconditional": TRAINED,
    "classes": TRAINED | {"num_class_embeds": 4, "resnet_time_scale_shift": "scale_shift"},
    "resnets": TRAINED
    | {
        "down_block_types": ("ResnetDownsampleBlock2D",) * 3,
        "up_block_types": ("ResnetUpsampleBlock2D",) * 3,
        "block_out_channels": (32, 48, 96),
        "norm_num_groups": 16,
        "add_attention": False,
    },
    "scores": NCSNPP | {"block_out_channels": (32, 64, 64)},
}


def save(folder, facts, seed=0, place="unet"):
    network = network_of(facts, seed)
    network.save_pretrained(folder / place)
    scheduler = ScoreSdeVeScheduler(num_train_timesteps=20) if facts.get("norm_eps") else DDPMScheduler()
    scheduler.save_pretrained(folder / "scheduler")
    return network


def ours(folder, dtype=torch.float32, config=None):
    config = config or read_config(SHELF.find(_Folder(folder)), CONFIG_CLASSES)
    network = build_empty(config.model)
    network.load_state_dict(load_weights(folder, SHELF.shapes(config.model)), strict=True, assign=True)
    return cast_network(network, dtype)


class _Folder:
    """What `Shelf.find` asks of a checkpoint in a folder."""

    def __init__(self, path):
        self.path = path


def outputs(network, theirs, facts):
    x = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([7, 900]) if "norm_eps" not in facts else torch.tensor([0.3, 40.0])
    words = [torch.tensor([0, 3])] if facts.get("num_class_embeds") else []
    with torch.no_grad():
        wanted = theirs(x, t, *words).sample
        found = network(x, t, *words)
    assert wanted.std() > 0.01
    assert found.dtype == torch.float32
    return found, wanted


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_those_of_diffusers(case, tmp_path, caplog):
    caplog.set_level("INFO")
    facts = CASES[case]
    theirs = save(tmp_path, facts)
    found, wanted = outputs(ours(tmp_path), theirs, facts)
    # measured 2.5e-5 of scores, where sigma 0.3 divides, and up to 9e-6 of the others
    torch.testing.assert_close(found, wanted, rtol=0, atol=6e-5 if case == "scores" else 2e-5)
    family = "ncsnpp" if case == "scores" else "ddpm_unet"
    assert f"runs on diffusers' UNet2DModel, which differs from our {family} in " in caplog.messages[0]


@pytest.mark.parametrize("case", CASES)
def test_in_bfloat16_they_are_as_near_as_its_digits(case, tmp_path):
    facts = CASES[case]
    theirs = save(tmp_path, facts)
    network = ours(tmp_path, torch.bfloat16)
    assert network.conv_in.weight.dtype == torch.bfloat16
    assert network.conv_out.weight.dtype == network.time_embedding.linear_1.weight.dtype == torch.float32
    found, wanted = outputs(network, theirs, facts)
    assert 0 < (found - wanted).std() / wanted.std() < 0.03


def test_the_average_beside_is_taken(tmp_path):
    save(tmp_path, TRAINED)
    average = save(tmp_path, TRAINED, seed=1, place="unet_ema")
    found, wanted = outputs(ours(tmp_path), average, TRAINED)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_old_names_of_attention_are_read(tmp_path):
    theirs = save(tmp_path, TRAINED)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    state = {}
    for name, tensor in theirs.state_dict().items():
        for today, then in old.items():
            name = name.replace(f".{today}.", f".{then}.") if ".attentions." in name else name
        state[name] = tensor
    (tmp_path / "unet/diffusion_pytorch_model.safetensors").unlink()
    torch.save(state, tmp_path / "unet/diffusion_pytorch_model.bin")
    found, wanted = outputs(ours(tmp_path), theirs, TRAINED)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_converted_to_a_file_and_to_a_folder_again_it_is_the_same(tmp_path):
    theirs = save(tmp_path / "folder", TRAINED)
    file, back = tmp_path / "own.safetensors", tmp_path / "back"
    assert convert([str(tmp_path / "folder"), str(file)]) == 0
    config = load_config(tmp_path / "own.yaml", CONFIG_CLASSES)
    assert convert([str(file), str(back), "-c", str(tmp_path / "own.yaml")]) == 0
    assert read_config(SHELF.find(_Folder(back)), CONFIG_CLASSES) == config
    again = UNet2DModel.from_pretrained(back, subfolder="unet").eval()
    for network in (ours(file, config=config), ours(back), lambda x, t: again(x, t).sample):
        found, wanted = outputs(network, theirs, TRAINED)
        torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5)


def test_both_commands_run_such_a_folder(tmp_path, capfd):
    save(tmp_path / "own", TRAINED | {"num_class_embeds": 4})
    (tmp_path / "in").mkdir()
    Image.new("RGB", (16, 16), (200, 90, 40)).save(tmp_path / "in/a.png")
    words = ["--weights", str(tmp_path / "own"), "--input_dir", str(tmp_path / "in"), "--cpu"]
    words += ["--respace_steps", "4", "--save_dir"]
    assert sample_sdedit.main([*words, str(tmp_path / "e"), "--edit_steps", "2", "--class_label", "3"]) == 0
    assert (tmp_path / "e/a.png").exists()
    assert sample_ddib.main([*words, str(tmp_path / "t"), "--class_A", "0", "--class_B", "1"]) == 0
    assert list((tmp_path / "t").rglob("a.png"))
    assert "runs on diffusers' UNet2DModel" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"down_block_types": ["NoBlock"] * 3},
            "diffusers makes no UNet2DModel of these fields: NoBlock does",
        ),
        ({"norm_num_groups": 0}, "diffusers makes no UNet2DModel of these fields"),
        ({"mid_block_scale_factor": "x"}, "mid_block_scale_factor: found 'x', expected a number"),
        ({"center_input_sample": 1}, "center_input_sample: found 1, expected true or false"),
        ({"freq_shift": None}, "freq_shift: found None, expected a number"),
        ({"more": 1}, "diffusers makes no UNet2DModel of these fields: .*'more'"),
        (
            {"num_class_embeds": 4, "class_embed_type": "timestep"},
            "class_embed_type: found 'timestep', allowed",
        ),
        (
            {"down_block_types": ["KDownBlock2D"] * 3, "up_block_types": ["KUpBlock2D"] * 3},
            "diffusers|filters",
        ),
    ],
)
def test_what_diffusers_does_not_make_is_refused(tmp_path, changes, message):
    (tmp_path / "config.json").write_text(json.dumps(TRAINED | changes))
    DDPMScheduler().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        build_empty(read_config(tmp_path / "config.json", CONFIG_CLASSES).model)


def test_without_diffusers_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ValueError, match="needs diffusers, which is not installed: pip install diffusers"):
        build_empty(DiffusersUNetConfig(image_size=16, fields=("sample_size: 16",)))


@pytest.mark.parametrize("field", ["sample_size", "a: [", "a: " + "[" * 100_000])
def test_fields_are_in_json(field):
    with pytest.raises(ValueError, match="expected 'name: value', the value in JSON"):
        DiffusersUNetConfig(image_size=16, fields=(field,))


def test_images_that_the_levels_do_not_halve_and_missing_classes_are_refused(tmp_path):
    save(tmp_path, CASES["classes"])
    network = ours(tmp_path)
    with pytest.raises(ValueError, match=r"images of 18x16.*multiples of 4; resize or pad"):
        network(torch.zeros(1, 3, 18, 16), torch.tensor([5]))
    with pytest.raises(ValueError, match=r"needs a class in 0\.\.3, got y = None"):
        network(torch.zeros(1, 3, 16, 16), torch.tensor([5]))
