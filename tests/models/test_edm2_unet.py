"""The UNet of EDM2 against NVlabs' own, element by element, and its parts by what they keep."""

import pytest
import torch

from models import build_model
from models.edm2_unet import EDM2UNetConfig, MPConv3x3, MPLinear, mp_cat, mp_silu, mp_sum, normalize
from models.precision import cast_network
from tests.models.golden_nets import edm2_config, load

CASES = ["edm2_cond", "edm2_uncond"]


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(edm2_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 8e-15
    assert net.largest_error(edm2_config, torch.float32, "f64_emb64") < 2e-5  # measured at most 3e-6


@pytest.mark.parametrize("case", CASES)
def test_fused_weights_compute_the_same(case):
    net = load(case)
    network = net.build(edm2_config(net.configs["a"])).double()
    for _ in range(2):  # and are not normalized twice
        for module in network.modules():
            if hasattr(module, "fuse"):
                module.fuse()
        with torch.no_grad():
            assert net.error(network(*net.inputs(0, torch.float64)), "a", 0, "f64_emb64") < 1e-9


def test_magnitudes_are_kept():
    torch.manual_seed(0)
    a, b = torch.randn(2, 48, 64, 64, dtype=torch.float64), torch.randn(2, 16, 64, 64, dtype=torch.float64)

    def size(x):
        return float(x.square().mean().sqrt())

    assert size(mp_silu(a)) == pytest.approx(1, abs=0.01)
    assert size(mp_sum(a[:, :16], b, 0.3)) == pytest.approx(1, abs=0.01)
    both = mp_cat(a, b, 0.5)
    assert size(both) == pytest.approx(1, abs=0.01)
    assert size(both[:, :48]) * 48**0.5 == pytest.approx(size(both[:, 48:]) * 16**0.5, rel=0.02)
    assert size(normalize(5 * a, dim=1)) == pytest.approx(1, abs=1e-4)
    for layer, x in ((MPConv3x3(48, 32), a), (MPLinear(64, 32), a)):
        assert size(layer.double()(x).detach()) == pytest.approx(1, abs=0.05)


def test_weights_count_by_their_direction_only_and_fusing_leaves_the_file_alone():
    net = load("edm2_cond")
    weights = {key: tensor.clone() for key, tensor in net.weights.items()}
    with torch.device("meta"):
        network = build_model(edm2_config(net.configs["a"]))
    network.load_state_dict(weights, assign=True)
    cast_network(network, torch.float32)
    assert all(torch.equal(tensor, net.weights[key]) for key, tensor in weights.items())
    rows = network.dec["8x8_in0"].conv_res0.weight.flatten(1).norm(dim=1)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=0, atol=1e-3)


def test_activations_beyond_the_limit_are_cut_off():
    net = load("edm2_uncond")
    network = net.build(edm2_config(net.configs["a"]))
    seen = []
    for block in network.dec.values():
        block.register_forward_hook(lambda module, args, out: seen.append(float(out.abs().max())))
    network.enc["16x16_conv"].register_forward_hook(lambda module, args, out: out * 1e4)
    with torch.no_grad():
        network(*net.inputs(0, torch.float32))
    assert max(seen) == 256


def test_wrong_classes_heads_and_sizes_are_refused():
    net = load("edm2_uncond")
    network = net.build(edm2_config(net.configs["a"]))
    with pytest.raises(ValueError, match=r"has no classes, got y = tensor\(\[0\]\)"):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"images of 9x8.*multiples of 2; resize or pad"):
        network(torch.zeros(1, 3, 9, 8), torch.zeros(1))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 2, 10), torch.zeros(1)).shape == (1, 3, 2, 10)
    config = EDM2UNetConfig(
        image_size=8, model_channels=32, channel_mult=(1,), num_res_blocks=1, attention_resolutions=(8,)
    )
    with pytest.raises(ValueError, match="32 channels cannot be shared by 0 heads"):
        build_model(config)
