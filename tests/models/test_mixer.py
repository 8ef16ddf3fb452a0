"""The MLP-Mixer against galaxygrad's, element by element."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import build_empty, build_model
from models.mixer import MixerConfig
from models.precision import cast_network
from utils.weights import load_weights

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "galaxygrad"
FACTS = json.loads((FOLDER / "tiny.json").read_text())
RECORDED = load_file(FOLDER / "tiny.safetensors")


def load() -> torch.nn.Module:
    network = build_empty(MixerConfig(**FACTS["config"]))
    shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
    network.load_state_dict(load_weights(FOLDER / "tiny.eqx", shapes), strict=True, assign=True)
    return network.eval()


def error(network: torch.nn.Module, dtype: torch.dtype) -> float:
    with torch.no_grad():
        score = network(RECORDED["in0.x"].to(dtype), RECORDED["in0.t"])
    assert (score.dtype, score.shape) == (dtype, (3, 1, 12, 12))
    return float((score - RECORDED["out.0.f64"]).abs().max()) / FACTS["absmax"]


def test_outputs_are_the_recorded_ones():
    assert error(load().double(), torch.float64) < 1e-9  # measured 3e-16
    assert error(load(), torch.float32) < 1e-6  # measured 1.3e-7, as the program itself


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 0.01), (torch.float16, 0.002)]
)  # measured 0.0026, 0.0006
def test_low_precision_stays_close_and_returns_float32(dtype, bound):
    network = cast_network(load(), dtype)
    assert error(network, torch.float32) < bound
    low = {key for key, parameter in network.named_parameters() if parameter.dtype == dtype}
    assert low == {key for key in network.state_dict() if ".layers." in key}


def test_gradients_reach_the_input():
    x = RECORDED["in0.x"].clone().requires_grad_()
    load()(x, RECORDED["in0.t"]).sum().backward()
    assert torch.all(x.grad != 0)


def test_time_is_told_in_parts_of_its_end():
    config = FACTS["config"] | {"t_end": 5.0}
    other = build_model(MixerConfig(**config)).eval()
    other.load_state_dict(load().state_dict())
    x, t = RECORDED["in0.x"], RECORDED["in0.t"]
    with torch.no_grad():
        assert torch.equal(other(x, t / 2), load()(x, t))
        assert not torch.equal(other(x, t), load()(x, t))


@pytest.mark.parametrize(("height", "width"), [(12, 15), (9, 16), (6, 24)])
def test_other_sizes_are_refused_also_of_as_many_patches(height, width):
    with pytest.raises(ValueError, match=f"images of {height}x{width}: this network takes 12x12 alone"):
        load()(torch.zeros(1, 1, height, width), torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("image_size", 30, "image_size 30: allowed are multiples of patch_size 4"),
        ("hidden", 0, "hidden 0: allowed is 1 to 8192"),
        ("t_end", 0.0, "t_end 0.0: allowed is 1e-06 to 1000000.0"),
        ("t_end", float("nan"), "t_end nan"),
    ],
)
def test_impossible_configs_are_refused(field, value, message):
    with pytest.raises(ValueError, match=message):
        MixerConfig(**({"image_size": 32} | {field: value}))
