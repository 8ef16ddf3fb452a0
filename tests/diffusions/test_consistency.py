"""Consistency models and EDM's sampler against the recorded programs, and the exact consistency function."""

import math

import pytest
import torch
from golden_samplers import Replay, affine_parts, assert_golden, column, down, read_case, ve_denoiser, worst

from diffusions import DDIM, DDPM, Consistency, Heun, edit, make_karras_schedule, respace
from diffusions.ve import VESchedule

LEAST = 0.002
MEAN, STD = 0.2, 0.4
SAMPLERS = [
    ("edm", "edm8", Heun),
    ("edm", "edm6_net_range", Heun),
    ("consistency", "heun8", Heun),
    ("consistency", "euler8", DDIM),
    ("consistency", "ancestral8", DDPM),
    ("consistency", "onestep", Consistency),
    ("consistency", "multistep_0_22_39", Consistency),
    ("consistency", "multistep_0_67_150", Consistency),
]


class Told:
    """A model that keeps the sigmas it was told."""

    def __init__(self, model):
        self.model, self.sigmas = model, []

    def __call__(self, x, sigma):
        self.sigmas.append(sigma[0].item())
        return self.model(x, sigma)


def kept_levels(meta: dict) -> list[int]:
    """Timesteps of the calls that a recorded run of several made; openai count them from most noise."""
    ts = meta.get("ts", [0, 1])[:-1]
    return [meta.get("steps", meta.get("n")) - 1 - t for t in reversed(ts)]


def last_draw(golden: dict) -> torch.Tensor | float:
    """What openai add to the image: sigma of the last level and the least noise differ by a rounding."""
    return 1.1271865066977384e-10 * golden["noise"][-1].double() if "noise" in golden else 0.0


@pytest.mark.parametrize(("family", "case", "sampler"), SAMPLERS)
def test_the_programs_of_nvlabs_and_openai(family, case, sampler):
    meta, golden = read_case(family, case)
    if sampler is Consistency:
        timesteps = kept_levels(meta)
        schedule = make_karras_schedule(LEAST, 80.0, meta.get("steps", meta.get("n")))
    else:
        grid = golden["sigma_grid.f64" if family == "edm" else "sigmas.f64"]
        schedule = VESchedule(grid[grid > 0].flip(0))
        timesteps = range(schedule.num_timesteps)
    process = sampler(schedule, timesteps, "x0", clip_denoised=False)
    model, noise = Told(ve_denoiser(meta["denoiser"])), Replay(golden.get("noise", []), torch.float64)
    top = schedule.sigmas[timesteps[-1]]
    states = down(process.start(model, noise), golden["z"].double() * top, len(timesteps))
    assert_golden(states[-1], golden["final.f64"] - last_draw(golden) * (sampler is Consistency))
    assert model.sigmas == pytest.approx(golden["model_sigmas.f64"].tolist(), rel=1e-12)


def test_what_a_mask_keeps_is_noised_with_the_rest():
    """openai's inpainting has one noise a step; ours draws another for what is kept, which meets no pixel."""
    meta, golden = read_case("consistency_editing", "inpaint")
    timesteps = kept_levels(meta)
    process = Consistency(make_karras_schedule(LEAST, 80.0, meta["steps"]), timesteps)
    guide, known = golden["images"].double(), golden["mask"].double()
    first = golden["z"].double() - guide / 80  # openai begin with noise alone
    noise = Replay([first, *golden["noise"].repeat_interleave(2, dim=0)], torch.float64)
    found = edit(process, ve_denoiser(meta["denoiser"]), guide, len(timesteps), noise, mask=1 - known)
    assert worst((found + last_draw(golden) - golden["final.f64"]) * (1 - known)) < 1e-12
    assert torch.equal(found * known, guide * known)
    assert noise.used == 1 + 2 * (len(timesteps) - 1)


def consistency_function(x, sigma):
    """Where the ODE of data N(MEAN, STD^2) leads to, at the least noise."""
    shrink = math.hypot(STD, LEAST) / (STD**2 + column(sigma, x) ** 2).sqrt()
    return MEAN + shrink * (x - MEAN)


@pytest.mark.parametrize("num_calls", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [5, 20, 40])
def test_mean_and_variance_of_edits(num_calls, start):
    timesteps = respace("uniform-trailing", start, num_calls)
    schedule = make_karras_schedule(LEAST, 80.0, 40)
    process = Consistency(schedule, timesteps, clip_denoised=False)
    guide = -0.7
    mean, variance = affine_parts(process, consistency_function, guide, num_calls)
    expected, spread = guide, 0.0
    for i, sigma in enumerate(reversed([level.noise for level in process.levels[1:]])):
        fresh = sigma**2 - (LEAST**2 if i else 0)
        shrink = math.hypot(STD, LEAST) / math.hypot(STD, sigma)
        expected, spread = MEAN + shrink * (expected - MEAN), shrink**2 * (spread + fresh)
    assert mean == pytest.approx(expected, rel=1e-12)
    assert variance == pytest.approx(spread, rel=1e-12)
    if start == 40:  # from pure noise it is the data, whatever the guide
        assert (mean, variance) == pytest.approx((MEAN, STD**2), abs=0.01)


def test_an_image_of_the_least_noise_is_itself():
    process = Consistency(make_karras_schedule(LEAST, 80.0, 40), [0, 39], clip_denoised=False)
    x = torch.linspace(-1, 1, 5).double().view(5, 1)
    assert worst(process.start(consistency_function)(x, 1, 0) - x) < 1e-15


def test_it_goes_down_only():
    process = Consistency(make_karras_schedule(LEAST, 80.0, 40), [0, 39])
    with pytest.raises(ValueError, match="step down, found a step from level 1 to 2"):
        process.start(consistency_function)(torch.zeros(1, 1), 1, 2)
