"""DDPM++ and NCSN++ of Karras et al. against NVlabs' own, element by element."""

import dataclasses

import pytest
import torch

from models.song_unet import SongUNetConfig, filter_of
from tests.models.golden_nets import load, song_config

CASES = ["edm_ddpmpp_uncond", "edm_ddpmpp_cond", "edm_ncsnpp", "edm_song_skip"]
CONFIG = SongUNetConfig(
    image_size=8, model_channels=8, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(song_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 2e-13
    assert net.largest_error(song_config, torch.float32, "f64_emb64") < 2e-5  # measured at most 4e-6


def test_weights_for_augmentation_are_kept_and_have_no_effect():
    net = load("edm_ddpmpp_cond")
    network = net.build(song_config(net.configs["a"]))
    assert torch.equal(network.map_augment.weight, net.weights["map_augment.weight"])
    before = network(*net.inputs(0, torch.float32))
    network.map_augment.weight.data.fill_(100)
    assert torch.equal(network(*net.inputs(0, torch.float32)), before)


@pytest.mark.parametrize("case", ["edm_ddpmpp_cond", "edm_ncsnpp"])
def test_filters_in_the_files_are_those_of_the_config(case):
    net = load(case)
    config = song_config(net.configs["a"])
    filters = [tensor for key, tensor in net.weights.items() if key.endswith("resample_filter")]
    assert len(filters) in (8, 10)
    assert all(torch.equal(tensor, filter_of(config.resample_filter)) for tensor in filters)


def test_an_image_of_its_own_class_is_predicted_without_regard_to_the_others():
    net = load("edm_ddpmpp_cond")
    network = net.build(song_config(net.configs["a"])).double()
    x, t, y = net.inputs(0, torch.float64)
    with torch.no_grad():
        one = network(x[1:2], t[1:2], y[1:2])
        torch.testing.assert_close(network(x, t, y)[1:2], one, rtol=0, atol=1e-12)
        assert (network(x[1:2], t[1:2]) - one).abs().max() > 1e-3


def test_wrong_classes_and_sizes_are_refused():
    net = load("edm_ddpmpp_uncond")
    network = net.build(song_config(net.configs["a"]))
    with pytest.raises(ValueError, match=r"has no classes, got y = tensor\(\[0\]\)"):
        network(torch.zeros(1, 3, 8, 8), torch.zeros(1), torch.tensor([0]))
    with pytest.raises(ValueError, match=r"images of 8x9.*multiples of 2; resize or pad"):
        network(torch.zeros(1, 3, 8, 9), torch.zeros(1))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 2, 10), torch.zeros(1)).shape == (1, 3, 2, 10)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"embedding": "zero"}, "embedding 'zero': allowed are positional, fourier"),
        ({"encoder_type": "none"}, "encoder_type 'none': allowed are standard, residual, skip"),
        ({"decoder_type": "residual"}, "decoder_type 'residual': allowed are standard, skip"),
        ({"resample_filter": (1, 2, 1)}, r"\(1, 2, 1\): allowed are \(1, 1\), \(1, 3, 3, 1\)"),
        ({"augment_dim": -1}, "augment_dim -1: allowed is 0 to 1024"),
        ({"channel_mult_noise": 0}, "channel_mult_noise 0: allowed is 1 to 64"),
    ],
)
def test_other_architectures_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONFIG, **change)
