"""Tiles and padding: their geometry, what a network is asked, and a field of exact predictions."""

from itertools import pairwise

import pytest
import torch

from diffusions import DDIM, decode, make_schedule, respace
from diffusions.tiles import Tiles, padded

SIDE = 8


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Counted:
    """A network of one pixel: it predicts of each what it is told, and keeps the sizes of its batches."""

    def __init__(self):
        self.batches = []

    def __call__(self, x, t, *told):
        self.batches.append(tuple(x.shape))
        return torch.cat([x * t[:, None, None, None], *(x + y[:, None, None, None] for y in told)], dim=1)


@pytest.mark.parametrize("length", [8, 9, 12, 13, 16, 17, 31, 100])
def test_tiles_go_from_border_to_border_and_cover_half_of_each_other(length):
    starts = Tiles(SIDE, 1).starts(length)
    assert (starts[0], starts[-1] + SIDE) == (0, length)
    steps = [b - a for a, b in pairwise(starts)]
    assert all(0 < step <= SIDE // 2 for step in steps)
    assert max(steps, default=0) - min(steps, default=0) <= 1
    assert Tiles(SIDE, 1).count(length, 16) == 3 * len(starts)


def test_a_picture_below_a_tile_is_refused():
    with pytest.raises(ValueError, match="a picture 7 pixels wide or high: the tiles have 8"):
        Tiles(SIDE, 1).starts(7)


@pytest.mark.parametrize("size", [(8, 8), (8, 20), (17, 11)])
def test_what_a_network_says_of_each_pixel_alone_is_unchanged(size):
    """Of all output channels, and of every picture by its own time and label."""
    x, t, y = normal(3, 2, *size), torch.tensor([1.0, 2.0, 3.0]).double(), torch.tensor([10, 20, 30])
    network = Counted()
    assert torch.allclose(Tiles(SIDE, 4).over(network)(x, t, y), Counted()(x, t, y), rtol=1e-14)
    assert {shape[2:] for shape in network.batches} == {(SIDE, SIDE)}


def test_memory_is_that_of_a_chunk_of_tiles_whatever_the_picture():
    for size in (16, 64, 200):
        network, tiles = Counted(), Tiles(SIDE, 5)
        tiles.over(network)(normal(2, 1, size, size), torch.ones(2).double())
        assert max(shape[0] for shape in network.batches) == 5
        assert sum(shape[0] for shape in network.batches) == 2 * tiles.count(size, size)


def test_a_picture_of_one_tile_is_the_network_s_own_bit_by_bit():
    network = torch.nn.Conv2d(3, 3, 3, padding=1).requires_grad_(False)
    x = normal(2, 3, SIDE, SIDE).float()
    assert torch.equal(Tiles(SIDE, 1).over(network)(x), network(x))


def test_chunks_change_nothing():
    network = torch.nn.Conv2d(3, 6, 3, padding=1).double().requires_grad_(False)
    x = normal(2, 3, 21, 14)
    one, many = (Tiles(SIDE, most).over(network)(x) for most in (1, 100))
    assert torch.allclose(one, many, rtol=1e-13, atol=1e-15)


def test_windows_are_smooth_and_sum_to_one():
    windows = Tiles(SIDE, 1)._windows(28)  # by steps of 4, half a tile
    total = torch.zeros(28, dtype=torch.float64)
    for start, window in windows.items():
        total[start : start + SIDE] += window
        assert window.min() > 0
    assert torch.allclose(total, torch.ones(28, dtype=torch.float64), rtol=1e-14)
    sine = torch.sin((torch.arange(8) + 0.5).double() * torch.pi / 8) ** 2
    assert torch.allclose(list(windows.values())[2], sine, rtol=1e-12)


@pytest.mark.parametrize("size", [(8, 8), (9, 14), (15, 8)])
def test_padding_reflects_on_both_sides_and_is_cut_again(size):
    network = Counted()
    x, t = normal(2, 3, *size), torch.tensor([2.0, 3.0]).double()
    assert torch.equal(padded(network, SIDE)(x, t), Counted()(x, t))
    assert network.batches == [(2, 3, *(-(-length // SIDE) * SIDE for length in size))]
    row = torch.arange(5.0, dtype=torch.float64).expand(1, 1, 8, 5)
    seen = []
    padded(lambda z: seen.append(z) or z, SIDE)(row)
    assert seen[0][0, 0, 0].tolist() == [1, 0, 1, 2, 3, 4, 3, 2]


class Field:
    """The exact predictions of eps for a Gaussian field of mean 0.4 and covariance rho^(|dy| + |dx|).

    Of a whole picture, or of a tile of it for a network that sees no more.
    """

    def __init__(self, rho, schedule):
        self.rho, self.alphas = rho, schedule.alphas_cumprod

    def covariance(self, height, width):
        axes = (torch.arange(length, dtype=torch.float64) for length in (height, width))
        along = [self.rho ** (axis[:, None] - axis).abs() for axis in axes]
        return torch.kron(*along)

    def __call__(self, x, t):
        height, width = x.shape[2:]
        alpha, identity = self.alphas[t[0]], torch.eye(height * width, dtype=torch.float64)
        spread = alpha * self.covariance(height, width) + (1 - alpha) * identity
        apart = (x - 0.4 * alpha.sqrt()).flatten(1).T
        return (torch.linalg.solve(spread, apart).T * (1 - alpha).sqrt()).reshape(x.shape)


@pytest.mark.parametrize("rho", [0.3, 0.6])
def test_tiles_reach_the_moments_of_a_field_of_short_correlation(rho):
    """The way down is affine: its value at 0 is the mean, a picture for each pixel gives the covariance."""
    schedule = make_schedule("linear", 1000, 1e-4, 0.02)
    process = DDIM(schedule, respace("uniform-trailing", 1000, 40), clip_denoised=False)
    field, height, width = Field(rho, schedule), SIDE, 20
    noise = torch.eye(height * width + 1, height * width, dtype=torch.float64)  # the last row is 0
    moments = []
    for model in (field, Tiles(SIDE, 10_000).over(field)):
        *rows, mean = decode(process, model, noise.reshape(-1, 1, height, width)).flatten(1)
        spread = torch.stack(rows) - mean
        moments.append((mean, spread.T @ spread))
    (mean, covariance), (tiled_mean, tiled) = moments
    # the steps themselves: measured 0.0092 of the mean, 0.088 of the variance
    assert (mean - 0.4).abs().max() < 0.01
    assert (covariance.diag() - 1).abs().max() < 0.09
    # the tiles beside them: 0.0007 of the mean, 0.015 of the variance, 0.050 of any covariance
    assert (tiled_mean - mean).abs().max() < 0.001
    assert (tiled.diag() - covariance.diag()).abs().max() < 0.02
    assert (tiled - covariance).abs().max() < 0.06
