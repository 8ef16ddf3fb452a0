"""DDPM's UNet against pesser's, element by element."""

import pytest
import torch

from tests.models.golden_nets import ddpm_config, load


@pytest.mark.parametrize("case", ["pesser_base", "pesser_mult12_noconv_gray"])
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(ddpm_config, torch.float32, "f32") < 2e-5  # measured at most 4e-6
    assert net.largest_error(ddpm_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 1e-14


def test_float_timesteps_are_accepted():
    net = load("pesser_base")
    network = net.build(ddpm_config(net.configs["a"]))
    x, t = net.inputs(0, torch.float32)
    with torch.no_grad():
        assert torch.equal(network(x, t), network(x, t.float()))
        assert not torch.equal(network(x, t), network(x, t + 0.5))


def test_other_sizes_run_where_the_levels_halve_evenly():
    net = load("pesser_base")
    network = net.build(ddpm_config(net.configs["a"]))
    t = torch.tensor([5])
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 6, 12), t).shape == (1, 3, 6, 12)
    for height, width in ((7, 8), (8, 9)):
        with pytest.raises(ValueError, match=f"images of {height}x{width}.*multiples of 2; resize or pad"):
            network(torch.zeros(1, 3, height, width), t)
