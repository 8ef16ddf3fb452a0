"""Conversion of weights: the same tensors in another form, or a message and no file."""

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.faults.edm_pickles import network, pickled
from tools.convert import main
from utils.sources.registry import ROOT

DEMO = ROOT / "weights/fruits64.safetensors"


def test_to_a_checkpoint_and_back(tmp_path, capsys):
    assert main([str(DEMO), str(tmp_path / "w.ckpt")]) == 0
    assert "configs/demo/fruits64.yaml" in capsys.readouterr().out
    config = ["-c", str(ROOT / "configs/demo/fruits64.yaml")]
    assert main([str(tmp_path / "w.ckpt"), str(tmp_path / "w.safetensors"), *config]) == 0
    original = load_file(DEMO)
    for state in (torch.load(tmp_path / "w.ckpt", weights_only=True), load_file(tmp_path / "w.safetensors")):
        assert state.keys() == original.keys()
        assert all(torch.equal(state[key], tensor) for key, tensor in original.items())
    assert not list(tmp_path.glob("*.yaml"))  # the config is a shipped one


def test_by_name_and_one_of_two_networks(tmp_path):
    assert main(["fruits64", str(tmp_path / "w.pt")]) == 0
    state = torch.load(tmp_path / "w.pt", weights_only=True)
    both = {f"unet_cond.{k}": t for k, t in state.items()} | {
        f"unet_uncond.{k}": -t for k, t in state.items()
    }
    torch.save({"model": both}, tmp_path / "both.pt")
    config = ["-c", str(ROOT / "configs/demo/fruits64.yaml")]
    main([str(tmp_path / "both.pt"), str(tmp_path / "u.pt"), "--part", "unet_uncond", *config])
    assert torch.equal(torch.load(tmp_path / "u.pt", weights_only=True)["out.2.bias"], -state["out.2.bias"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([str(DEMO), "{}/folder"], "diffusers has no network of the kind adm; write a file instead"),
        ([str(DEMO), "{}/w.onnx"], "give .safetensors, .pt, .pth or .ckpt, or a folder"),
        ([str(DEMO), str(DEMO)], "is there already; give a new name"),
        (["nothing", "{}/w.pt"], "no published weights of this name"),
        ([str(DEMO), "{}/w.pt", "--part", "unet_cond"], "it holds one network"),
        (
            [str(DEMO), "{}/w.pt", "-c", str(ROOT / "configs/pesser/pytorch_diffusion/cifar10.yaml")],
            "they are of configs/demo/fruits64.yaml",
        ),
    ],
)
def test_what_cannot_be_converted_is_said(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit) as caught:
        main([argument.format(tmp_path) for argument in arguments])
    assert caught.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_pickle_of_edm_that_no_config_fits_keeps_its_keys(tmp_path, capsys):
    state = {"model.enc.32x32_conv.weight": torch.randn(2, 3), "model.out.bias": torch.randn(2).half()}
    content = {"ema": network(state), "loss_fn": None}
    (tmp_path / "w.pkl").write_bytes(pickled(content))
    assert main([str(tmp_path / "w.pkl"), str(tmp_path / "w.safetensors")]) == 0
    assert "2 tensors, by no config: their keys are those of the source" in capsys.readouterr().out
    found = load_file(tmp_path / "w.safetensors")
    assert found.keys() == state.keys()
    assert all(torch.equal(found[key], tensor.float()) for key, tensor in state.items())
    (tmp_path / "two.pkl").write_bytes(pickled({**content, "net": network(state)}))
    for source, target, message in (
        ("two.pkl", "n.safetensors", "holds several networks; choose one with --part, of ema, net"),
        ("w.pkl", "folder", "no config fits these weights, and diffusers needs one"),
    ):
        with pytest.raises(SystemExit):
            main([str(tmp_path / source), str(tmp_path / target)])
        assert message in capsys.readouterr().err
    assert main([str(tmp_path / "two.pkl"), str(tmp_path / "n.pt"), "--part", "net"]) == 0


def test_a_config_that_came_from_a_folder_is_written_beside(tmp_path):
    from tests.utils.weights.test_diffusers_folder import DDPM, network_of, scheduler_of

    network_of(DDPM).save_pretrained(tmp_path / "in")
    scheduler_of(DDPM).save_pretrained(tmp_path / "in")
    assert main([str(tmp_path / "in"), str(tmp_path / "w.safetensors")]) == 0
    config = yaml.safe_load((tmp_path / "w.yaml").read_text())
    assert config["model"] == {
        "name": "ddpm_unet",
        "image_size": 16,
        "model_channels": 32,
        "channel_mult": [1, 2, 2],
        "num_res_blocks": 1,
        "attention_resolutions": [8],
    }
    assert config["diffusion"]["var_type"] == "fixed_large"
