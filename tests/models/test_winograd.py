"""Minimal filtering: the same convolutions, up to rounding, and only where they pay."""

import pytest
import torch
import torch.nn.functional as F

from models import build_model, winograd
from models.ddpm_unet import DDPMUNetConfig
from models.layers import Conv3x3
from models.precision import cast_network

BOUNDS = {torch.float32: 2e-6, torch.bfloat16: 6e-3}  # of the error's norm; measured 6e-7 and 3.3e-3


@pytest.fixture
def no_amx(monkeypatch):
    monkeypatch.setattr(winograd, "_has_amx", lambda: False)


def random(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def maps(batch: int, channels: int, height: int, width: int, dtype: torch.dtype) -> torch.Tensor:
    return random(batch, channels, height, width, dtype=dtype).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("height", [4, 8, 32])
def test_is_the_convolution_up_to_rounding_at_every_row(dtype, height):
    x, weight, bias = (
        maps(2, 48, height, 5, dtype),
        random(24, 48, 3, 3, dtype=dtype, seed=1),
        random(24, seed=2),
    )
    kept = x.clone()
    out = winograd.convolve(x, winograd.transform(weight), bias.to(dtype))
    expected = F.conv2d(x.double(), weight.double(), bias.to(dtype).double(), padding=1)
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(x, kept)
    for row in range(height):
        error = (out[:, :, row] - expected[:, :, row]).norm() / expected[:, :, row].norm()
        assert error < BOUNDS[dtype], row


def test_pairs_of_rows_are_exact_where_nothing_is_rounded():
    """F(2, 3) divides by powers of two only: small integers come out as they are."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-2, 3, (1, 4, 6, 7), generator=generator).bfloat16()
    weight = torch.randint(-2, 3, (3, 4, 3, 3), generator=generator).bfloat16() * 2
    out = winograd.convolve(x, winograd.transform(weight), None)
    assert torch.equal(out.float(), F.conv2d(x.float(), weight.float(), padding=1))


@pytest.mark.parametrize("dtype", BOUNDS)
def test_an_image_does_not_depend_on_its_batch_or_the_threads(dtype):
    x, kernels = maps(3, 64, 32, 32, dtype), winograd.transform(random(64, 64, 3, 3, dtype=dtype, seed=1))
    bias = torch.zeros(64, dtype=dtype)
    out, num_threads = winograd.convolve(x, kernels, bias), torch.get_num_threads()
    torch.set_num_threads(3 - min(2, num_threads))
    try:
        for i in range(3):
            assert torch.equal(winograd.convolve(x[i : i + 1], kernels, bias)[0], out[i])
    finally:
        torch.set_num_threads(num_threads)


@pytest.mark.parametrize(
    ("channels", "out_channels", "height", "dtype", "pays"),
    [
        (128, 128, 64, torch.float32, True),
        (128, 128, 64, torch.bfloat16, True),
        (128, 128, 64, torch.float16, False),
        (128, 128, 64, torch.float64, False),
        (128, 127, 64, torch.float32, False),  # fewer products than pay
        (3, 8192, 64, torch.float32, False),  # the first layer: hardly anything to save
        (1024, 1024, 8, torch.float32, False),  # a small map
        (128, 128, 66, torch.float32, False),  # no multiple of four rows
        (128, 128, 66, torch.bfloat16, True),
    ],
)
def test_where_it_pays(no_amx, channels, out_channels, height, dtype, pays):
    x = torch.empty(1, channels, height, 64, dtype=dtype)
    weight = torch.empty(1, dtype=dtype).expand(out_channels, channels, 3, 3)
    with torch.no_grad():
        assert winograd.pays(x, weight) is pays
        assert winograd.pays(x.expand(8, -1, -1, -1), weight) is pays  # the same for every batch
    assert not winograd.pays(x, weight)  # a gradient may be wanted


def test_bfloat16_is_left_to_amx(monkeypatch):
    x, weight = torch.empty(1, 128, 64, 64), torch.empty(128, 128, 3, 3)
    monkeypatch.setattr(winograd, "_has_amx", lambda: True)
    with torch.no_grad():
        assert winograd.pays(x, weight)
        assert not winograd.pays(x.bfloat16(), weight.bfloat16())


def test_a_layer_follows_its_weights_until_they_are_final():
    layer, x = Conv3x3(128, 128).requires_grad_(False), maps(1, 128, 64, 64, torch.float32)
    with torch.no_grad():
        direct = F.conv2d(x, layer.weight, layer.bias, padding=1)
        assert torch.equal(layer(x), direct)
        assert layer.kernels is None
        layer.fuse()
        out = layer(x)
    assert layer.kernels is not None
    assert not torch.equal(out, direct)
    torch.testing.assert_close(out, direct, rtol=0, atol=5e-5)
    assert torch.equal(layer(x), direct)  # with gradients enabled
    assert set(layer.state_dict()) == {"weight", "bias"}


@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_whole_network_stays_as_close_as_its_precision(no_amx, monkeypatch, dtype, bound):
    config = DDPMUNetConfig(
        image_size=128, model_channels=64, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=()
    )
    torch.manual_seed(0)
    network = build_model(config)
    for parameter in network.parameters():  # zeroed layers would hide what comes before them
        if parameter.ndim == 4 and not parameter.any():
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
    x, t = maps(1, 3, 128, 128, torch.float32), torch.tensor([500.0])
    with torch.no_grad():
        expected = network(x, t)
        cast_network(network, dtype)
        out = network(x, t)
        used = sum(module.kernels is not None for module in network.modules() if isinstance(module, Conv3x3))
        monkeypatch.setattr(winograd, "pays", lambda *_: False)
        direct = network(x, t)
    assert used >= 8
    assert not torch.equal(out, direct)
    assert (out - expected).norm() / expected.norm() < bound
