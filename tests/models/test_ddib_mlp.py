"""The network for points against the DDIB authors', element by element."""

import pytest
import torch

from models.ddib_mlp import DDIBMLP, DDIBMLPConfig
from models.precision import cast_network
from tests.models.golden_nets import load


def to_config(raw: dict) -> DDIBMLPConfig:
    return DDIBMLPConfig(**raw)


def test_outputs_are_the_recorded_ones():
    net = load("ddib_synthetic")
    assert net.largest_error(to_config, torch.float64, "f64_emb64") < 1e-9  # measured 5e-14
    assert net.largest_error(to_config, torch.float32, "f64_emb64") < 2e-5  # measured 3e-6
    # Not closer, because the program's sinusoid of timesteps up to 3999 is rounded to float32.
    assert net.largest_error(to_config, torch.float32, "f32") < 2e-4  # measured 7e-5


def test_defaults_are_those_of_the_published_checkpoints():
    with torch.device("meta"):
        state = DDIBMLP(DDIBMLPConfig()).state_dict()
    assert len(state) == 90
    assert sum(tensor.numel() for tensor in state.values()) == 3103234
    assert list(state)[:2] == ["time_embed.0.weight", "time_embed.0.bias"]
    assert list(state)[-1] == "out.2.bias"
    assert state["output_blocks.0.2.emb_layers.1.weight"].shape == (512, 256)


def test_points_do_not_depend_on_their_batch():
    net = load("ddib_synthetic")
    network = net.build(to_config(net.configs["a"])).double()
    x, t = net.inputs(0, torch.float64)
    with torch.no_grad():
        alone = torch.cat([network(x[i : i + 1], t[i : i + 1]) for i in range(len(x))])
        torch.testing.assert_close(alone, network(x, t), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.01)])
def test_low_precision_stays_close_and_returns_float32(dtype, bound):
    net = load("ddib_synthetic")
    network = cast_network(net.build(to_config(net.configs["a"])), dtype)
    x, t = net.inputs(0, torch.float32)
    with torch.no_grad():
        out = network(x, t)
    assert out.dtype == torch.float32
    expected = net.tensors["out.a.0.f64_emb64"]
    assert (out - expected).norm() / expected.norm() < bound


@pytest.mark.parametrize("width", [32, 80, 100])
def test_widths_that_the_norm_cannot_take_are_refused(width):
    with pytest.raises(ValueError, match=rf"model_channels {width}: .* allowed are multiples of 32 from 64"):
        DDIBMLPConfig(model_channels=width)
