"""The UNet of lucidrains against the package's, element by element."""

import json

import pytest
import torch

from models import build_empty
from models.lucidrains_unet import LucidrainsUNetConfig
from tests.models.golden_nets import FOLDER, load, lucidrains_config
from utils.weights import load_weights
from utils.weights.recognize import family

CASES = ["lucidrains_base", "lucidrains_fourier", "lucidrains_gray_heads"]


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(lucidrains_config, torch.float64, "f64_emb64") < 1e-9  # measured 2e-15
    assert (
        net.largest_error(lucidrains_config, torch.float32, "f32") < 3e-6
    )  # measured 1.5e-6, the package itself as much with flash attention


@pytest.mark.parametrize("case", CASES)
def test_keys_and_shapes_are_those_of_the_package_in_order(case):
    facts = json.loads((FOLDER / f"{case}.json").read_text())
    state = build_empty(lucidrains_config(facts["variants"]["a"]["config"])).state_dict()
    assert [[key, list(tensor.shape)] for key, tensor in state.items()] == facts["state_dict"]
    assert family(state) == "lucidrains_unet"


@pytest.mark.parametrize("case", CASES)
def test_gradients_reach_the_input(case):
    net = load(case)
    x, t = net.inputs(0, torch.float64)
    network = net.build(lucidrains_config(net.configs["a"])).double()
    x.requires_grad_()
    network(x, t).sum().backward()
    assert torch.all(x.grad != 0)


def test_the_averaged_network_of_a_trainers_file_is_taken(tmp_path):
    """Its keys as recorded from the package, with other numbers in the raw weights."""
    net = load("lucidrains_base")
    facts = json.loads((FOLDER / "lucidrains_base.json").read_text())["checkpoint"]

    def tensor(key: str) -> torch.Tensor:
        own, raw = key.split("model.")[-1], not key.startswith("ema_model.")
        return net.weights[own] + raw if own in net.weights else torch.ones(3)  # a buffer of the schedule

    content = {"step": 7} | {part: {key: tensor(key) for key in facts[part]} for part in ("model", "ema")}
    content |= {"opt": {"state": {}, "param_groups": []}, "scaler": None, "version": "2.3.4"}
    torch.save(content, tmp_path / "model-1.pt")
    shapes = {key: tensor.shape for key, tensor in net.weights.items()}
    found = load_weights(tmp_path / "model-1.pt", shapes)
    assert all(torch.equal(found[key], net.weights[key]) for key in shapes)


@pytest.mark.parametrize(("height", "width"), [(9, 8), (8, 6)])
def test_sizes_that_the_levels_do_not_halve_are_refused(height, width):
    net = load("lucidrains_gray_heads")
    network = net.build(lucidrains_config(net.configs["a"]))
    with pytest.raises(ValueError, match=f"images of {height}x{width}.*multiples of 4; resize or pad"):
        network(torch.zeros(1, 1, height, width), torch.tensor([5]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("self_condition", True, "also take their last prediction are not supported"),
        ("image_size", 36, "image_size 36: allowed are multiples of 8"),
        ("model_channels", 7, "model_channels 7: half are sines"),
        ("fourier_features", 5, "fourier_features 5: half are sines"),
        ("num_heads", 0, "num_heads 0: allowed is 1 to 1024"),
        ("init_channels", 0, "init_channels 0: allowed is 1 to 8192"),
    ],
)
def test_impossible_configs_are_refused(field, value, message):
    fields = {"image_size": 32, "model_channels": 8, "attention_resolutions": ()} | {field: value}
    with pytest.raises(ValueError, match=message):
        LucidrainsUNetConfig(**fields)
