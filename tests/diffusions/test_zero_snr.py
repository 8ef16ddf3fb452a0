"""Schedules whose last timestep has no signal, against closed forms and diffusers' table."""

import math

import pytest
import torch
from diffusers import DDIMScheduler
from golden_samplers import affine_parts, column, ddpm_schedule, worst

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    DPMSolver,
    FixedPointInversion,
    Heun,
    NoiseSchedule,
    SourceInversion,
    decode,
    edit,
    encode,
    karras_sigmas,
    make_schedule,
    match_timesteps,
    respace,
)

MEAN, STD = 0.2, 0.4
SCHEDULE = ddpm_schedule("linear", 1000).without_last_signal()
X = torch.linspace(-0.7, 1.0, 6, dtype=torch.float64).view(6, 1)


def network(prediction: str, schedule: NoiseSchedule = SCHEDULE):
    """The exact one for N(MEAN, STD^2)."""

    def model(x, t):
        A = column(schedule.alphas_cumprod[t], x)
        x_0 = MEAN + A.sqrt() * STD**2 / (A * STD**2 + 1 - A) * (x - A.sqrt() * MEAN)
        eps = (x - A.sqrt() * x_0) / (1 - A).sqrt()
        return {"x0": x_0, "v": A.sqrt() * eps - (1 - A).sqrt() * x_0}[prediction]

    return model


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_the_table_is_that_of_diffusers(name):
    theirs = DDIMScheduler(beta_schedule=name, rescale_betas_zero_snr=True).alphas_cumprod.double()
    ours = {"linear": "linear", "scaled_linear": "quad"}.get(name, "cosine")
    plain = make_schedule(ours, 1000) if ours == "cosine" else make_schedule(ours, 1000, 1e-4, 0.02)
    found = plain.without_last_signal().alphas_cumprod
    assert found[-1] == 0
    torch.testing.assert_close(found, theirs, rtol=0, atol=2e-6)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("sampler", [DDPM, DDIM, Heun, DPMSolver])
def test_edits_from_no_signal_are_the_data_whatever_the_guide(sampler, prediction):
    timesteps = respace("uniform-trailing", 1000, 200)
    process = sampler(SCHEDULE, timesteps, prediction, clip_denoised=False)
    assert process.sigma(200) == math.inf
    draws = 200 if sampler is DDPM else 1
    found = [affine_parts(process, network(prediction), guide, 200, draws) for guide in (-0.9, 0.9)]
    assert found[0] == pytest.approx(found[1], rel=1e-12)
    assert found[0] == pytest.approx((MEAN, STD**2), abs=0.015)


@pytest.mark.parametrize("prediction", ["x0", "v"])
@pytest.mark.parametrize("method", [DDIM, FixedPointInversion, SourceInversion, Heun, BDIA])
def test_there_and_back(method, prediction):
    """The last step up leaves the eps of the level below, which is noise of the data's own distribution."""
    process = method(SCHEDULE, respace("uniform-trailing", 1000, 100), prediction, clip_denoised=False)
    latent = encode(process, network(prediction), X)
    assert latent.isfinite().all()
    expected = (X - MEAN) / STD
    assert worst(latent[:, :1] - expected) < (0.5 if method is SourceInversion else 0.1)
    bound = {BDIA: 1e-9, Heun: 0.01, FixedPointInversion: 0.01}.get(method, 0.2)
    assert worst(decode(process, network(prediction), latent) - X) < bound


def test_a_single_step_up_and_down():
    for method in (DDIM, Heun, BDIA):
        process = method(SCHEDULE, [999], "v", clip_denoised=False)
        latent = encode(process, network("v"), X)
        assert decode(process, network("v"), latent).isfinite().all()


def test_a_classifier_leans_where_there_is_signal():
    process = DDIM(SCHEDULE, [300, 999], "v", clip_denoised=False).guided(lambda x, t: torch.ones_like(x))
    plain = DDIM(SCHEDULE, [300, 999], "v", clip_denoised=False)
    noise = torch.randn(1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found, without = (p.start(network("v"))(noise, 2, 1) for p in (process, plain))
    assert torch.equal(found, without)
    assert edit(process, network("v"), X[:1], 2, lambda: noise).isfinite().all()


def test_what_only_predicts_noise_is_refused():
    with pytest.raises(ValueError, match="prediction eps says nothing of the image at timestep 999"):
        DDPM(SCHEDULE, [10, 999])
    assert DDPM(SCHEDULE, [10, 998]).num_steps == 2
    with pytest.raises(ValueError, match="both finite"):
        karras_sigmas(0.01, math.inf, 5)


def test_it_meets_another_process_at_equal_noise():
    process = DDIM(SCHEDULE, [100, 500, 999], "v")
    sigmas = [process.sigma(k) for k in (1, 2, 3)]
    assert match_timesteps(SCHEDULE, sigmas) == [100, 500, 999]
    assert match_timesteps(SCHEDULE, sigmas[:2]) == [100, 500]
    with pytest.raises(ValueError, match="sigma inf to match, but the schedule ends at 157"):
        match_timesteps(ddpm_schedule("linear", 1000), sigmas)
