"""SDEdit: recorded runs, the exact moments of its result, and how often it calls and draws."""

import math

import pytest
import torch
from golden_samplers import (
    Counted,
    Replay,
    affine_parts,
    assert_golden,
    ddpm_schedule,
    gaussian,
    make_model,
    read_case,
    ve_denoiser,
    ve_score,
    worst,
    xyf_case,
)

from diffusions import DDIM, DDPM, NoiseSchedule, edit, make_schedule, respace
from diffusions.ve import VESchedule


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_xyf(dtype, tolerance):
    _, golden, schedule, timesteps = xyf_case("sdedit_uniform50_edit25_small")
    process, noise = DDPM(schedule, timesteps), Replay(golden["noise"], dtype)
    model = make_model(xyf_case("sdedit_uniform50_edit25_small")[0]["model"], schedule)
    edited = edit(process, model, golden["x_init"].to(dtype), 25, noise)
    assert edited.dtype == dtype
    assert noise.used == len(golden["noise"]) == 25
    assert_golden(edited.double(), golden["traj.f64"][-1], tolerance)
    noised = process.diffuse(golden["x_init"].double(), 25, golden["noise"][0])
    assert_golden(noised, golden["traj.f64"][0])


def authors(process, model, x_0, keep, level, noise_e, noise_steps):
    """The authors' loop: one noise a repeat for start and background, which is one level too noisy."""
    states, samples = [], []
    for e, draws in zip(noise_e, noise_steps, strict=True):
        x = process.diffuse(x_0, level, e)
        for k, z in zip(range(level, 0, -1), draws, strict=True):
            states.append(x)
            stepped = process.step(model, x, k, k - 1, lambda z=z: z)
            x = torch.where(keep, process.diffuse(x_0, k, e), stepped)
        samples.append(x)
        x_0 = torch.where(keep, x_0, x)
    return torch.stack(states), torch.stack(samples)


@pytest.mark.parametrize("case", ["small_t40_K3", "large_t25_K2"])
def test_the_authors_runs_and_ours(case):
    """The pictures agree where they may change, as the recorded networks do not look at the neighbours.

    What is kept (theirs: mask == 1) has the noise of level 1 in theirs and is the guide in ours.
    """
    meta, golden = read_case("sdedit", case)
    schedule, level = ddpm_schedule("linear", 1000), meta["t"]
    var_type = {"fixedsmall": "fixed_small", "fixedlarge": "fixed_large"}[meta["var_type"]]
    process = DDPM(schedule, range(1000), var_type=var_type, clip_denoised=False)
    model, keep = make_model(meta["model"], schedule), golden["mask"] == 1
    guide = (golden["img01"].double() * 2 - 1).expand(2, -1, -1, -1)
    noises = golden["noise_e"], golden["noise_steps"]
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-5)):
        given = [tensor.to(dtype) for tensor in noises]
        states, samples = authors(process, model, guide.to(dtype), keep, level, *given)
        assert_golden(states.double(), golden["states_before_denoise.f64"].flatten(0, 1), tolerance)
        assert_golden(samples.double(), golden["samples.f64"], tolerance)

    draws = [z for e, steps in zip(*noises, strict=True) for z in (e, *steps[:-1])]
    noise, changed = Replay(draws, torch.float64), (~keep).expand(2, -1, -1, -1)
    repeats = meta["K"]
    ours = edit(process, model, guide, level, noise, mask=changed.float(), fixed_noise=True, repeats=repeats)
    assert noise.used == len(draws) == repeats * level
    assert torch.equal(ours[~changed], guide[~changed])
    theirs = golden["samples.f64"][-1]
    assert_golden(ours[changed], theirs[changed])
    assert_golden(process.diffuse(guide, 1, noises[0][-1])[~changed], theirs[~changed])
    assert (theirs - ours)[~changed].std() * 127.5 > 0.8  # grey levels


def paper(process, step, diffuse, guide, mask, noise, levels):
    """The paper's masked algorithm: what is kept gets the noise of the level that the step leaves."""
    states, ends, x = [], [], guide
    for _ in range(2):
        z = noise()
        x = torch.lerp(diffuse(guide, levels[0], z), diffuse(x, levels[0], z), mask)
        states.append(x)
        for level in levels:
            z = noise()
            stepped = process.step(step, x, level, level - 1, lambda z=z: z)
            x = torch.lerp(diffuse(guide, level, z), stepped, mask)
            states.append(x)
        ends.append(x)
    return torch.stack(states), torch.stack(ends)


def test_the_paper_s_masked_ve_algorithm_and_ours():
    """DDPM's fixed_large on the sigmas from t = 0 to t0; it ends at sigma_min, where ours goes on to 0."""
    meta, golden = read_case("sdedit_paper", "ve_masked_N20_K2")
    sigmas = 0.01 * 1000 ** (torch.arange(21, dtype=torch.float64) / 40)
    process = DDPM(VESchedule(sigmas), range(21), "score", "fixed_large", clip_denoised=False)
    model, draws = ve_score(meta["denoiser"]), golden["noise"].double()
    guide, mask = golden["x_guide"].double(), golden["omega"].double().expand(2, -1, -1, -1)
    noise = Replay(draws, torch.float64)
    states, ends = paper(process, model, process.diffuse, guide, mask, noise, range(21, 1, -1))
    assert_golden(states, golden["traj.f64"])
    assert_golden(ends, golden["end_of_repeat.f64"])

    kept, changed = mask == 0, mask == 1
    for repeat in (0, 1):
        start, *steps = draws[21 * repeat : 21 * (repeat + 1)]
        fresh = Replay([start, *(part for z in steps for part in (z, z + 1))], torch.float64)
        ours = edit(process, model, guide, 21, fresh, mask=mask)
        assert fresh.used == 1 + 2 * 20
        assert torch.equal(ours[kept], guide[kept])
        last = process.step(model, ends[repeat], 1, 0)
        assert_golden(ours[changed], last[changed])
        assert 0.01 < worst((ends[repeat] - guide)[kept]) < 0.1
        guide = torch.where(changed, ends[repeat], guide)


def test_the_paper_s_masked_vp_algorithm():
    """Its betas beta(t) dt give DDPM's fixed_large steps, but its alpha(t) is not their product."""
    meta, golden = read_case("sdedit_paper", "vp_masked_N20_K2")
    network = ve_denoiser(meta["denoiser"])
    low, high, dt = 0.1, 20.0, 0.5 / 20

    def alpha(n):
        return math.exp(-((n * dt) ** 2) * (high - low) / 4 - n * dt * low / 2)

    def score(x, t):
        signal, variance = alpha(int(t[0])), 1 - alpha(int(t[0])) ** 2
        sigma = torch.full((len(x),), math.sqrt(variance) / signal, dtype=x.dtype)
        return (signal * network(x / signal, sigma) - x) / variance

    def diffuse(x, level, z):
        return alpha(level - 1) * x + math.sqrt(1 - alpha(level - 1) ** 2) * z

    # level n + 1 is t = n dt; below the first of them lies one of almost no noise, where they end
    betas = torch.tensor(
        [1e-4, *((low + n * dt * (high - low)) * dt for n in range(1, 21))], dtype=torch.float64
    )
    process = DDPM(NoiseSchedule(betas), range(21), "score", "fixed_large", clip_denoised=False)
    guide, mask = golden["x_guide"].double(), golden["omega"].double().expand(2, -1, -1, -1)
    noise = Replay(golden["noise"], torch.float64)
    states, ends = paper(process, score, diffuse, guide, mask, noise, range(21, 1, -1))
    assert_golden(states, golden["traj.f64"])
    assert_golden(ends, golden["end_of_repeat.f64"])
    assert process.levels[21].signal / alpha(20) < 0.9


@pytest.mark.parametrize(
    ("kind", "respacing", "K"),
    [("linear", "uniform", 25), ("linear", "quad", 10), ("cosine", "uniform-trailing", 10)],
)
@pytest.mark.parametrize("prediction", ["eps", "v"])
def test_moments_for_gaussian_data_at_every_level(kind, respacing, K, prediction):
    """With the exact predictor of N(m, s^2): mean and variance of the result against their recursion.

    v_k = A_k s^2 + 1 - A_k is the variance of the noised data. A step multiplies the distance from
    the mean by sqrt(A_k / A_{k-1}) v_{k-1} / v_k and adds the fixed_small variance; over all steps
    the factors telescope, so that the mean is m + (guide - m) s^2 / (s^2 + sigma_k^2).
    """
    m, s, guide = 0.3, 0.4, -0.8
    schedule = make_schedule("cosine", 1000) if kind == "cosine" else ddpm_schedule(kind, 1000)
    process = DDPM(schedule, respace(respacing, 1000, K), prediction, clip_denoised=False)
    A = torch.cat([torch.ones(1).double(), schedule.alphas_cumprod[list(process.timesteps)]])
    v = A * s**2 + 1 - A
    for level in range(1, K + 1):
        variance = 1 - A[level]
        for k in range(level, 0, -1):
            beta = 1 - A[k] / A[k - 1]
            variance = variance * A[k] / A[k - 1] * (v[k - 1] / v[k]) ** 2 + beta * (1 - A[k - 1]) / (
                1 - A[k]
            )
        expected = m + (guide - m) * s**2 / (s**2 + process.sigma(level) ** 2), variance.item()
        actual = affine_parts(process, gaussian(schedule, m, s, prediction), guide, level)
        assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_variance_of_the_result_tends_to_that_of_the_data():
    """From level K with ever more steps, the result is distributed as the data, N(0.3, 0.4^2)."""
    schedule = make_schedule("cosine", 1000)
    errors = []
    for K in (10, 40, 160):
        process = DDPM(schedule, respace("uniform-linspace", 1000, K), clip_denoised=False)
        mean, variance = affine_parts(process, gaussian(schedule, 0.3, 0.4), -0.8, K)
        assert mean == pytest.approx(0.3, abs=1e-3)
        errors.append(abs(variance - 0.16))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.01


@pytest.mark.parametrize("level", [1, 3, 6])
def test_calls_and_draws(level):
    """One call a level; one draw to noise the guide and one for each step but the last."""
    process = DDPM(ddpm_schedule("linear", 60), [4, 10, 20, 30, 40, 59])
    model, noise = Counted(lambda x, t: 0.1 * x), Replay(torch.zeros(6, 2, 3), torch.float32)
    edit(process, model, torch.zeros(2, 3), level, noise)
    assert model.timesteps == [59, 40, 30, 20, 10, 4][6 - level :]
    assert noise.used == level


@pytest.mark.parametrize(("eta", "draws"), [(0.0, 1), (0.5, 4)])
def test_also_along_the_ode(eta, draws):
    process = DDIM(ddpm_schedule("linear", 40), [4, 10, 20, 39], eta=eta)
    noise = Replay(torch.zeros(4, 1, 1), torch.float32)
    edit(process, lambda x, t: 0.1 * x, torch.zeros(1, 1), 4, noise)
    assert noise.used == draws


def test_a_clipping_process_ends_in_range():
    process = DDPM(ddpm_schedule("linear", 40), [10, 20, 39])
    generator = torch.Generator().manual_seed(0)
    guide = torch.full((2, 3, 4, 4), 0.9)
    edited = edit(
        process, lambda x, t: 0.1 * x, guide, 3, lambda: torch.randn(guide.shape, generator=generator)
    )
    assert edited.abs().max() == 1


@pytest.mark.parametrize("level", [0, 4, -1])
def test_levels_are_checked_before_anything_is_drawn(level):
    process, noise = DDPM(ddpm_schedule("linear", 40), [10, 20, 39]), Replay([], torch.float32)
    with pytest.raises(
        ValueError, match=f"level {level}: this process has levels 1 to 3; choose one of them"
    ):
        edit(process, lambda x, t: x, torch.zeros(1, 1), level, noise)
    assert noise.used == 0
