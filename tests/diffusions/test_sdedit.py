"""SDEdit: a recorded run, the exact moments of its result, and how often it calls and draws."""

import pytest
import torch
from golden_samplers import Counted, Replay, assert_golden, ddpm_schedule, gaussian, make_model, xyf_case

from diffusions import DDIM, DDPM, edit, make_schedule, respace


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


def affine_parts(process, model, guide, level):
    """Mean and variance of `edit` on scalars, exact where every step is affine in the state.

    Row r of the batch meets draw number r as 1 and all others as 0; the last row meets zeros only.
    """
    draws = torch.eye(level + 1, dtype=torch.float64)[:level, :, None]
    rows = edit(
        process,
        model,
        torch.full((level + 1, 1), guide, dtype=torch.float64),
        level,
        Replay(draws, torch.float64),
    )
    mean = rows[-1]
    return mean.item(), ((rows[:-1] - mean) ** 2).sum().item()


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
