"""Steps at low noise made again: which ones, noised up how, and that they lead to the true conditional."""

import math

import pytest
import torch
from golden_samplers import worst

from diffusions import DDPM, DPMSolver, edit, levels_walked, make_schedule, make_ve_schedule, respace

COSINE = make_schedule("cosine", 1000)


@pytest.mark.parametrize("schedule", [COSINE, make_ve_schedule(0.02, 50, 1000)])
def test_the_levels_walked(schedule):
    process = DDPM(schedule, respace("uniform-trailing", 1000, 20), clip_denoised=False)
    assert levels_walked(process, 8) == [8, 7, 6, 5, 4, 3, 2, 1]
    walked = levels_walked(process, 20, 3)
    for k in range(1, 21):
        assert walked.count(k) == (3 if k > 1 and process.sigma(k) <= 0.5 else 1)
    assert walked == sorted(walked, reverse=True)


def test_noised_up_again_a_state_has_the_moments_of_its_new_level():
    process = DDPM(COSINE, respace("uniform-trailing", 1000, 20))
    x_0, noise = torch.randn(2, 1, 100_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    state = process.diffuse(x_0, 5, noise)
    again = process.renoise(state, 5, 9, torch.randn_like(state, dtype=torch.float32))
    assert again.dtype == torch.float64
    here, there = process.levels[5], process.levels[9]
    assert again.var().item() == pytest.approx(there.signal**2 + there.noise**2, rel=0.02)
    assert torch.equal(process.renoise(x_0, 0, 5, noise), process.diffuse(x_0, 5, noise))
    assert worst(process.renoise(state, 5, 9, 0 * noise) - there.signal / here.signal * state) < 1e-12
    with pytest.raises(ValueError, match="level 5: this process has levels 6 to 20"):
        process.renoise(state, 5, 5, noise)


SIZE, FREE = 16, slice(6, 12)
INDEX = torch.arange(SIZE, dtype=torch.float64)
COVARIANCE = 0.25 * torch.exp(-(INDEX[:, None] - INDEX).abs() / 4)
"""Of a row of pixels whose neighbours are alike."""


def denoise(x, t):
    """Return the exact x_0 of such rows."""
    A = COSINE.alphas_cumprod[t[0]].item()
    gain = A**0.5 * COVARIANCE @ torch.linalg.inv(A * COVARIANCE + (1 - A) * torch.eye(SIZE).double())
    return x @ gain.T


def errors(num_steps, resample, count=5_000):
    """Paint the free pixels anew; return calls, and how far their mean and covariance are from the truth."""
    generator = torch.Generator().manual_seed(1)
    kept = torch.ones(SIZE, dtype=torch.bool)
    kept[FREE] = False
    guide = torch.linalg.cholesky(COVARIANCE) @ torch.randn(SIZE, generator=generator, dtype=torch.float64)
    across = COVARIANCE[FREE][:, kept] @ torch.linalg.inv(COVARIANCE[kept][:, kept])
    mean = across @ guide[kept]
    covariance = COVARIANCE[FREE, FREE] - across @ COVARIANCE[kept][:, FREE]
    process = DPMSolver(
        COSINE, respace("uniform-trailing", 1000, num_steps), "x0", stochastic=True, clip_denoised=False
    )
    calls = []

    def model(x, t):
        calls.append(t)
        return denoise(x, t)

    made = edit(
        *(process, model, (guide * kept).expand(count, SIZE), num_steps),
        lambda: torch.randn(count, SIZE, generator=generator, dtype=torch.float64),
        mask=(~kept).double().expand(count, SIZE),
        resample=resample,
    )
    assert len(calls) == len(levels_walked(process, num_steps, resample))
    assert torch.equal(made[:, kept], guide[kept].expand(count, -1))
    free = made[:, FREE]
    off = (free.mean(0) - mean).square().mean().sqrt() / mean.square().mean().sqrt()
    spread = (torch.cov(free.T) - covariance).norm() / covariance.norm()
    return len(calls), off.item(), spread.item()


def test_free_pixels_come_to_the_true_conditional_as_steps_are_made_again():
    """More levels do not cure what more times do: at equal calls a quarter of the mean's error less."""
    (once, off_1, spread_1), (four, off_4, spread_4) = errors(40, 1), errors(20, 4)
    (_, off_16, _), (_, off_many, _) = errors(40, 16), errors(160, 1)
    assert four <= once
    assert off_4 < 0.85 * off_1
    assert spread_4 < 0.5 * spread_1
    assert off_16 < 0.5 * off_1
    assert off_many > 0.9 * off_1
    assert not math.isnan(spread_4)
