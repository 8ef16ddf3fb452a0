"""xyfJASON's two UNets against his own, element by element."""

import pytest
import torch

from tests.models.golden_nets import load, xyf_config


@pytest.mark.parametrize("case", ["xyf_unet", "xyf_adagn_updown"])
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(xyf_config, torch.float32, "f32") < 2e-5  # measured at most 3e-6
    assert net.largest_error(xyf_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 6e-15


def test_without_a_class_nothing_is_added():
    net = load("xyf_adagn_updown")
    config = xyf_config(net.configs["a"])
    assert config.label_optional
    network = net.build(config)
    x, t, y = net.inputs(0, torch.float32)
    with torch.no_grad():
        unconditional = network(x, t)
        assert not torch.allclose(unconditional, network(x, t, y), atol=1e-3)
        network.class_embed.weight[y] = 0
        torch.testing.assert_close(network(x, t, y), unconditional, rtol=0, atol=0)


@pytest.mark.parametrize("case", ["xyf_unet", "xyf_adagn_updown"])
def test_sizes_that_do_not_halve_are_refused(case):
    net = load(case)
    network = net.build(xyf_config(next(iter(net.configs.values()))))
    with pytest.raises(ValueError, match=r"images of 8x5.*multiples of 2; resize or pad"):
        network(torch.zeros(1, 3, 8, 5), torch.tensor([1]))
