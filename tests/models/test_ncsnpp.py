"""NCSN++ against score_sde's, element by element, and its changes of size alone."""

import dataclasses

import pytest
import torch
from safetensors.torch import load_file

from models.ncsnpp import Downsample, InputResidual, NCSNPPConfig, Upsample
from tests.models.golden_nets import FOLDER, load, ncsnpp_config

CASES = ["ncsnpp_church_family", "ncsnpp_cifar_family", "ncsnpp_biggan_nofir"]
CONFIG = NCSNPPConfig(
    image_size=16,
    model_channels=8,
    channel_mult=(1, 1),
    num_res_blocks=1,
    attention_resolutions=(),
    num_scales=10,
)


@pytest.mark.parametrize("case", CASES)
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(ncsnpp_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 2e-14
    assert net.largest_error(ncsnpp_config, torch.float32, "f64_emb64") < 2e-5  # measured at most 4e-6
    # Not closer, because the program's angle log(sigma) W 2 pi is rounded to float32.
    assert net.largest_error(ncsnpp_config, torch.float32, "f32") < 2e-4  # measured at most 5e-5


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-14), (torch.float32, 2e-6)])
def test_changes_of_size_are_the_recorded_ones(dtype, tolerance):
    golden = load_file(FOLDER / "fir_resample.safetensors")
    suffix = "f64" if dtype == torch.float64 else "f32"
    x = golden["x"].to(dtype)
    conv_down = InputResidual(dataclasses.replace(CONFIG, skip_rescale=False), 3, 5).to(dtype)
    conv_down.Conv2d_0.weight.data.copy_(golden["w"])
    conv_down.Conv2d_0.bias.data.zero_()
    with torch.no_grad():
        results = {
            "up": Upsample(fir=True)(x),
            "down": Downsample(fir=True).to(dtype)(x),
            "conv_down": conv_down(x, torch.zeros(2, 5, 3, 4, dtype=dtype))[0],
        }
    for name, result in results.items():
        expected = golden[f"1_3_3_1.{name}.{suffix}"]
        torch.testing.assert_close(result, expected, rtol=0, atol=tolerance, msg=name)


@pytest.mark.parametrize("fir", [True, False])
def test_changes_of_size_keep_the_memory_format_and_their_input(fir):
    x = torch.randn(2, 8, 4, 6).contiguous(memory_format=torch.channels_last)
    before = x.clone()
    for resample, shape in ((Upsample(fir), (2, 8, 8, 12)), (Downsample(fir), (2, 8, 2, 3))):
        out = resample(x)
        assert out.shape == shape
        assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, before)


def test_gradients_pass_through_the_changes_of_size():
    for resample in (Upsample(fir=True), Downsample(fir=True)):
        x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(resample.double(), x)


def test_the_score_is_in_units_of_images_from_0_to_1():
    net = load("ncsnpp_church_family")
    plain = net.build(ncsnpp_config(net.configs["a"]))
    centered = net.build(ncsnpp_config(net.configs["centered_true"]))
    x, sigma = net.inputs(0, torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(plain(x, sigma), centered(2 * x - 1, sigma), rtol=0, atol=0)
        torch.testing.assert_close(plain(x, sigma.double()), plain(x, sigma), rtol=0, atol=0)


def test_what_the_files_hold_besides_weights_is_kept_as_it_is():
    net = load("ncsnpp_church_family")
    network = net.build(ncsnpp_config(net.configs["a"]))
    assert network.sigmas.dtype == torch.float64
    assert torch.equal(network.sigmas, net.weights["sigmas"])
    frozen = [key for key, parameter in network.named_parameters() if not parameter.requires_grad]
    assert frozen == ["all_modules.0.W"]


def test_a_network_of_the_meta_device_is_whole_once_its_weights_are_assigned():
    net = load("ncsnpp_cifar_family")
    network = net.build(ncsnpp_config(net.configs["a"]))
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))


def test_sizes_that_do_not_halve_are_refused():
    net = load("ncsnpp_church_family")
    network = net.build(ncsnpp_config(net.configs["a"]))
    with torch.no_grad():
        assert network(torch.zeros(1, 3, 4, 12), torch.tensor([1.0])).shape == (1, 3, 4, 12)
    with pytest.raises(ValueError, match=r"images of 8x10.*multiples of 4; resize or pad"):
        network(torch.zeros(1, 3, 8, 10), torch.tensor([1.0]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"progressive": "residual"}, "progressive 'residual': allowed are output_skip, none"),
        ({"progressive_input": "none"}, "progressive_input 'none': allowed are input_skip, residual"),
        ({"progressive_input": "residual", "fir": False}, "fir false: allowed with .* 'input_skip' only"),
    ],
)
def test_other_architectures_are_refused(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(CONFIG, **change)
