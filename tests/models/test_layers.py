"""The layers that every network shares: sinusoids, changes of size, and what works in place."""

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from models.layers import SiLU, UpConv2d, add, check_size, scale_shift, timestep_embedding
from tests.models.golden_nets import FOLDER


@pytest.mark.parametrize("dim", [32, 64, 128])
@pytest.mark.parametrize(
    ("family", "cos_first", "full_range"),
    [("adm", True, False), ("pesser", False, True), ("xyf", False, True)],
)
def test_sinusoids_are_each_programs_own(family, dim, cos_first, full_range):
    golden = load_file(FOLDER / "sinusoidal_embeddings.safetensors")
    ours = timestep_embedding(golden["t"], dim, cos_first=cos_first, full_range=full_range)
    assert ours.dtype == torch.float64
    if f"{family}.{dim}.f64" in golden:
        torch.testing.assert_close(ours, golden[f"{family}.{dim}.f64"], rtol=0, atol=1e-12)
    # The programs' float32 angles are off by up to 2e-4 near t = 1000.
    torch.testing.assert_close(ours.float(), golden[f"{family}.{dim}.f32"], rtol=0, atol=3e-4)
    if f"{family}.{dim}.frac.f32" in golden:
        ours = timestep_embedding(golden["t_frac"], dim, cos_first=cos_first, full_range=full_range)
        torch.testing.assert_close(ours.float(), golden[f"{family}.{dim}.frac.f32"], rtol=0, atol=3e-4)


def test_odd_width_ends_in_a_zero():
    embedding = timestep_embedding(torch.tensor([7]), 5, cos_first=True, full_range=False)
    assert embedding.shape == (1, 5)
    assert embedding[0, 4] == 0
    assert embedding[0, 0] == torch.tensor(7.0, dtype=torch.float64).cos()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_up_conv_is_nearest_neighbour_then_convolution(dtype, tolerance):
    x = torch.randn(2, 5, 4, 3, generator=torch.Generator().manual_seed(0), dtype=dtype)
    conv = UpConv2d(5, 7).to(dtype)
    expected = F.conv2d(F.interpolate(x, scale_factor=2, mode="nearest"), conv.weight, conv.bias, padding=1)
    assert torch.equal(conv(x), expected)
    conv.fuse()
    fused = conv(x)
    torch.testing.assert_close(fused, expected, rtol=0, atol=tolerance)
    assert not torch.equal(fused, expected)  # the sums were used
    assert set(conv.state_dict()) == {"weight", "bias"}


def test_fused_up_conv_keeps_the_memory_format_and_the_batch_apart():
    conv = UpConv2d(32, 16).to(memory_format=torch.channels_last)
    conv.fuse()
    x = torch.randn(3, 32, 8, 8).contiguous(memory_format=torch.channels_last)
    out = conv(x)
    assert out.is_contiguous(memory_format=torch.channels_last)
    for row in range(3):
        assert torch.equal(conv(x[row : row + 1]), out[row : row + 1])


def operations() -> dict:
    scale_and_shift = torch.tensor([[0.5, -1.0, 3.0, 0.25]])
    return {
        "add": (lambda x: add(x, torch.ones(1, 2, 1, 1)), lambda x: x + 1),
        "scale_shift": (
            lambda x: scale_shift(x, scale_and_shift),
            lambda x: torch.stack([x[:, 0] * 1.5 + 3.0, x[:, 1] * 0.0 + 0.25], dim=1),
        ),
        "silu": (SiLU(), lambda x: x * torch.sigmoid(x)),
    }


@pytest.mark.parametrize("name", operations())
def test_fresh_tensors_are_overwritten_only_where_no_gradient_is_wanted(name):
    operation, formula = operations()[name]
    x = torch.randn(1, 2, 3, 3)
    expected = formula(x)
    before = x.clone()
    with_gradient = operation(x)
    assert torch.equal(x, before)
    torch.testing.assert_close(with_gradient, expected)
    with torch.no_grad():
        in_place = operation(x)
    assert in_place.data_ptr() == x.data_ptr()
    assert torch.equal(in_place, with_gradient)


def test_sizes_are_checked_in_both_directions():
    check_size(torch.zeros(1, 1, 8, 12), 4)
    with pytest.raises(ValueError, match=r"images of 8x10: .* multiples of 4; resize or pad them"):
        check_size(torch.zeros(1, 1, 8, 10), 4)
    with pytest.raises(ValueError, match=r"images of 6x8: .* multiples of 4"):
        check_size(torch.zeros(1, 1, 6, 8), 4)
