"""Heun's method against the recorded programs, both ways by hand, and its order of convergence."""

import math

import pytest
import torch
from golden_samplers import (
    assert_golden,
    ddpm_schedule,
    down,
    make_model,
    orders,
    read_case,
    ve_denoiser,
    walk,
    worst,
)
from solver_cases import A_DATA, B_DATA, Calls, Problem, X, errors

from diffusions import DDIM, Heun, decode, edit, encode, make_schedule, make_ve_schedule, respace, translate
from diffusions.ve import VESchedule

MIXTURE = {"kind": "gmm", "w": [0.3, 0.7], "m": [-0.6, 0.5], "s": [0.2, 0.35]}
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_k_diffusion(dtype, tolerance):
    """Their sigmas end at 0, our level 0."""
    meta, golden = read_case("heun", "heun12")
    schedule = VESchedule(golden["sigmas.f32"][:-1].flip(0).double())
    process = Heun(schedule, range(12), "x0", clip_denoised=False)
    model = Calls(ve_denoiser(meta["denoiser"]))
    states = down(process.start(model), golden["x_init"].to(dtype), 12)
    assert states.dtype == dtype
    assert_golden(states.double(), golden["traj.f64"], tolerance)
    assert len(model.told) == 2 * 11 + 1


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_xyf(dtype, tolerance):
    meta, golden = read_case("heun", "head_heun20")
    schedule = ddpm_schedule("linear", 1000)
    process = Heun(schedule, meta["sequence"], clip_denoised=False)
    states = down(process.start(make_model(meta["model"], schedule)), golden["x_init"].to(dtype), 20)
    assert_golden(states.double(), golden["traj.f64"], tolerance)


@pytest.mark.parametrize("kind", ["linear", "cosine", "ve"])
def test_both_ways_by_hand(kind):
    """In y = x / signal over sigma, as the paper has it, between any two levels above 0."""
    schedule = {
        "linear": ddpm_schedule("linear", 1000),
        "cosine": make_schedule("cosine", 1000),
        "ve": make_ve_schedule(0.02, 20.0, 1000),
    }[kind]
    process = Heun(schedule, respace("uniform", 1000, 10), clip_denoised=False)

    def eps(y, sigma):  # any network
        return (0.4 + 0.1 / (1 + sigma)) * torch.sin(y + sigma)

    def model(x, t):
        level = next(here for here in process.levels[1:] if here.condition == t[0].item())
        return eps(x / level.signal, level.noise / level.signal)

    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    for j, k in [(2, 3), (3, 2), (9, 10), (10, 9), (1, 6), (6, 1)]:
        here, there = process.sigma(j), process.sigma(k)
        y = x / process.levels[j].signal
        guess = y + (there - here) * eps(y, here)
        expected = y + (there - here) / 2 * (eps(y, here) + eps(guess, there))
        actual = process.step(model, x, j, k)
        torch.testing.assert_close(actual / process.levels[k].signal, expected, rtol=1e-12, atol=1e-12)


def test_the_ends():
    """Down to level 0 is Euler's step; up from it, two passes towards the state that this step takes back."""
    process = Heun(make_ve_schedule(0.5, 4.0, 3), range(3), clip_denoised=False)
    model = Calls(lambda x, sigma: 0.6 * x)
    x = torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    for (source, target), factor in {(1, 0): 0.7, (0, 1): 1 + 0.3 * 1.3, (0, 3): 1 + 2.4 * 3.4}.items():
        torch.testing.assert_close(process.step(model, x, source, target), factor * x, rtol=1e-14, atol=0)
    assert model.told == [0.5, 0.5, 0.5, 4.0, 4.0]


def test_the_step_to_level_0_is_that_of_ddim():
    schedule = ddpm_schedule("linear", 1000)
    timesteps, model = range(9, 1000, 99), make_model(MIXTURE, schedule)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    for clip in (True, False):
        heun, ddim = (method(schedule, timesteps, clip_denoised=clip) for method in (Heun, DDIM))
        for level in (1, 4, 10):
            expected = ddim.step(model, x, level, 0)
            torch.testing.assert_close(heun.step(model, x, level, 0), expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("prediction", ["eps", "x0"])
def test_orders_on_gaussian_data(kind, prediction):
    """Second; third where one network goes both ways, as a step down undoes most of what one up missed."""
    found = [errors(Heun, kind, K, prediction) for K in (40, 80, 160)]
    for way, order in {"encode": 2, "decode": 2, "translate": 2, "same": 3, "cycle": 3}.items():
        assert orders([run[way] for run in found]) == pytest.approx([order, order], abs=0.1), way
    assert found[-1]["translate"] < 5e-5
    assert found[-1]["cycle"] < 1e-5


def test_far_closer_than_ddim_with_as_many_calls():
    heun, ddim = errors(Heun, "vp", 40), errors(DDIM, "vp", 80)
    for way in heun:
        assert heun[way] < ddim[way] / 6, way
    assert heun["cycle"] < ddim["cycle"] / 200


def test_calls():
    """Two a step, but for the one to level 0: 200 calls a translation take 50 steps."""
    problem = Problem("vp", 50)
    process, source, target = (
        problem.process(Heun),
        Calls(problem.model((0, 1))),
        Calls(problem.model((0, 1))),
    )
    translate(process, source, target, X)
    assert len(source.told) == 100
    assert len(target.told) == 99
    assert source.told == [0, 0, *(t for k in range(49) for t in (k, k + 1))]
    assert target.told == [*(t for k in range(49, 0, -1) for t in (k, k - 1)), 0]


def test_encoding_is_never_clipped_or_guided_and_decoding_is():
    schedule = ddpm_schedule("linear", 100)
    options = {"schedule": schedule, "timesteps": range(4, 100, 5)}
    clipping, free = Heun(**options), Heun(**options, clip_denoised=False)
    guided = clipping.guided(lambda x, t: 0.3 + 0 * x)
    model, x = make_model(MIXTURE, schedule), 2 * X
    latent = encode(clipping, model, x)
    assert torch.equal(latent, encode(free, model, x))
    assert torch.equal(latent, encode(guided, model, x))
    assert decode(clipping, model, latent).abs().max() == 1
    assert decode(free, model, latent).abs().max() > 1.5
    assert (decode(guided, model, latent) - decode(clipping, model, latent)).max() > 0.05


def test_it_edits():
    """As a sampler of SDEdit, from any level, in the state's precision, with one draw."""
    process = Heun(ddpm_schedule("linear", 40), [4, 10, 20, 39])
    draws = []

    def noise():
        draws.append(torch.ones(2, 3))
        return draws[-1]

    for level in (1, 4):
        edited = edit(
            process, lambda x, t: (0.1 * x).bfloat16(), torch.full((2, 3), 0.5).half(), level, noise
        )
        assert edited.dtype == torch.float32
        assert edited.abs().max() <= 1
    assert len(draws) == 2


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_float32_follows_float64(kind):
    problem = Problem(kind, 40)
    process, models = problem.process(Heun), [problem.model(data) for data in (A_DATA, B_DATA)]
    latent = encode(process, models[0], X.float())
    assert latent.dtype == torch.float32
    expected = encode(process, models[0], X)
    torch.testing.assert_close(latent.double(), expected, rtol=0, atol=1e-5 * worst(expected))
    y = decode(process, models[1], latent)
    torch.testing.assert_close(y.double(), translate(process, *models, X), rtol=0, atol=1e-5)


def test_rows_of_a_batch_do_not_meet():
    process, model = Heun(ddpm_schedule("linear", 100), [9, 49, 99]), lambda x, t: 0.3 * x.sin()
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    together = translate(process, model, model, x)
    for row in range(3):
        assert torch.equal(translate(process, model, model, x[row, None])[0], together[row])


def test_the_image_comes_back_where_eps_is_as_simple_as_the_method():
    """An eps of sigma alone, linear in it: Heun's trapezium is exact, both ways."""
    process = Heun(make_ve_schedule(0.1, 10.0, 6), range(6), clip_denoised=False)
    x = torch.zeros(1, 1, dtype=torch.float64)
    latent = walk(process.start(lambda x, s: (3 * s).view(-1, 1)), x, range(1, 7))[-1]
    assert latent.item() == pytest.approx(1.5 * (10**2 - 0.1**2), rel=1e-13)
    back = down(process.start(lambda x, s: (3 * s).view(-1, 1)), latent, 6, 1)[-1]
    assert math.isclose(back.item(), 0, abs_tol=1e-11)


@pytest.mark.parametrize(
    ("source", "target", "message"),
    [
        (2, 2, "a step from level 2 to itself; give two different levels"),
        (4, 1, "level 4: this process has levels 0 to 3"),
        (0, -1, "level -1: this process has levels 0 to 3"),
    ],
)
def test_steps_are_checked(source, target, message):
    with pytest.raises(ValueError, match=message):
        Heun(ddpm_schedule("linear", 10), [0, 5, 9]).step(lambda x, t: x, torch.zeros(1, 1), source, target)


def test_predictions_are_checked():
    with pytest.raises(ValueError, match="unknown prediction 'noise', choose one of eps"):
        Heun(ddpm_schedule("linear", 10), range(10), "noise")
