"""The VP SDE: its levels, and networks whose images have a range of their own."""

import math

import pytest
import torch
from golden_samplers import affine_parts, column

from diffusions import DDIM, DDPM, VPSDE, Heun, decode, encode, karras_sigmas, match_timesteps

SCHEDULE = VPSDE(1.0, 1e-3, 10.0, 1000)
OWN_UNITS = VPSDE(1.0, 1e-3, 10.0, 1000, (0.0, 10.0))


def score_of_gaussian(mean: float, std: float):
    """The exact score of N(mean, std^2), in whatever units."""

    def score(x, t):
        signal = column((-t / 2).exp(), x)
        return (mean * signal - x) / ((std * signal) ** 2 + 1 - signal**2)

    return score


def test_the_levels_of_a_vp_sde():
    first, last = SCHEDULE.levels([0, 999])
    assert (first.condition, last.condition) == (1e-3, pytest.approx(10.0, rel=1e-14))
    for level in SCHEDULE.levels([0, 0.5, 400, 999]):
        assert level.signal**2 + level.noise**2 == pytest.approx(1, abs=1e-14)
        assert level.signal**2 == pytest.approx(math.exp(-level.condition), rel=1e-12)
    wanted = karras_sigmas(0.05, 100.0, 30)
    kept = DDIM(SCHEDULE, match_timesteps(SCHEDULE, wanted), "score")
    assert [kept.sigma(k) for k in range(1, 31)] == pytest.approx(wanted, rel=1e-9)


@pytest.mark.parametrize("schedule", [SCHEDULE, OWN_UNITS])
def test_a_gaussian_comes_back(schedule):
    """N(0.3, 0.5^2) on [-1, 1]; the network knows it in its own units, and the latent is noise in those."""
    low, high = schedule.image_range
    score = schedule.adapt(score_of_gaussian((low + high) / 2 + 0.3 * schedule.unit, 0.5 * schedule.unit))
    ends = [level.noise / level.signal for level in schedule.levels([0, 999])]
    process = Heun(schedule, match_timesteps(schedule, karras_sigmas(*ends, 100)), "score", False)
    x = torch.linspace(-1, 2, 7).double().view(7, 1)
    latent = encode(process, score, x)
    torch.testing.assert_close(latent * schedule.unit, (x - 0.3) / 0.5, rtol=0, atol=0.1)
    assert (decode(process, score, latent) - x).abs().max() < 2e-3


def test_the_same_data_in_other_units_is_edited_alike():
    """At equal sigma: the units of the network change the levels' timesteps, and nothing else."""
    found = []
    for schedule in (SCHEDULE, OWN_UNITS):
        low, high = schedule.image_range
        score = schedule.adapt(score_of_gaussian((low + high) / 2 + 0.3 * schedule.unit, 0.5 * schedule.unit))
        timesteps = match_timesteps(schedule, karras_sigmas(0.05, 5.0, 12))
        process = DDPM(schedule, timesteps, "score", clip_denoised=False)
        found.append(affine_parts(process, score, -0.8, 12))
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.parametrize(
    "arguments", [(0, 1e-3, 10, 9), (1, 0, 10, 9), (1, 2, 1, 9), (1, 1e-3, 10, 1), (1, 1e-3, 10, 9, (1, 0))]
)
def test_what_is_no_schedule(arguments):
    with pytest.raises(ValueError, match=r"a VP SDE needs|black below white"):
        VPSDE(*arguments)
