"""Translation between models of different schedules: equal noise, and the latent's scale."""

import math

import pytest
import torch
from golden_samplers import ddpm_schedule, gaussian, orders, ve_gaussian, worst
from solver_cases import A_DATA, B_DATA, SIGMA, Calls, Problem, X, cubic_sigmas, vp_schedule

from diffusions import (
    BDIA,
    DDIM,
    DPMSolver,
    FixedPointInversion,
    Heun,
    carry_latent,
    decode,
    encode,
    make_schedule,
    make_ve_schedule,
    match_timesteps,
    respace,
    translate,
)
from diffusions.ve import VESchedule

LINEAR, COSINE = ddpm_schedule("linear", 1000), make_schedule("cosine", 1000)


def sigmas(process):
    return [process.sigma(level) for level in range(1, process.num_steps + 1)]


@pytest.mark.parametrize("schedule", [LINEAR, COSINE, make_ve_schedule(0.02, 50.0, 300)])
@pytest.mark.parametrize("respacing", ["uniform", "uniform-linspace", "uniform-trailing", "quad", "quad90"])
def test_a_schedule_matches_itself(schedule, respacing):
    for K in (1, 7, 100):
        timesteps = respace(respacing, schedule.num_timesteps, K)
        assert match_timesteps(schedule, sigmas(DDIM(schedule, timesteps))) == timesteps


def test_the_nearest_in_log_sigma():
    schedule = vp_schedule(torch.tensor([0.1, 0.2, 0.4, 0.8, 1.6, 3.2]).double())
    halves = math.sqrt(2)  # between 0.1 and 0.2 the middle is 0.1 sqrt(2)
    assert match_timesteps(schedule, [0.1 * halves * 0.99]) == [0]
    assert match_timesteps(schedule, [0.1 * halves * 1.01]) == [1]
    assert match_timesteps(schedule, [0.01, 0.45, 3.5]) == [0, 2, 5]


def test_a_schedule_of_any_sigma_has_exactly_those_asked_for():
    schedule = make_ve_schedule(0.1, 10.0, 5)
    wanted = [0.11, 0.3, 0.31, 4.0, 10.0]
    timesteps = match_timesteps(schedule, wanted)
    torch.testing.assert_close(sigmas(DDIM(schedule, timesteps)), wanted, rtol=1e-14, atol=0)
    crowded = match_timesteps(schedule, [0.01, 0.02, 0.3, 10.0, 10.1])
    assert sigmas(DDIM(schedule, crowded)) == pytest.approx([0.1, 0.1, 0.3, 10.0, 10.0], rel=0.01)


def test_each_timestep_is_taken_once():
    """Where two sigmas are nearest to one, the later moves up, or the earlier down at the schedule's end."""
    schedule = vp_schedule(torch.tensor([0.1, 0.2, 0.4, 0.8, 1.6, 3.2]).double())
    assert match_timesteps(schedule, [0.01, 0.02, 0.03, 0.8]) == [0, 1, 2, 3]
    assert match_timesteps(schedule, [0.2, 0.21, 0.22, 3.2]) == [1, 2, 3, 5]
    assert match_timesteps(schedule, [0.1, 3.0, 3.1, 3.2]) == [0, 3, 4, 5]
    assert match_timesteps(schedule, [0.1, 0.11, 0.12, 3.0, 3.1, 3.2]) == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(("a", "b"), [(LINEAR, COSINE), (COSINE, LINEAR)])
def test_all_levels_of_real_schedules_meet(a, b):
    """Within what neighbouring timesteps differ by, wherever both have noise."""
    process = DDIM(a, respace("uniform", 1000, 50))
    wanted = sigmas(process)
    timesteps = match_timesteps(b, wanted)
    assert len(timesteps) == 50
    assert timesteps == sorted(set(timesteps))
    found = [level.noise / level.signal for level in b.levels(timesteps)]
    for x, y in list(zip(wanted, found, strict=True))[2:]:
        assert y == pytest.approx(x, rel=0.2 if x > 20 else 0.05)


@pytest.mark.parametrize("process", ["vp", "ve"])
def test_latents_are_carried_to_the_scale_of_the_other_process(process):
    """Between VP the identity; from VE to VP by 1 / sqrt(1 + sigma^2), and back."""
    vp = DDIM(LINEAR, respace("uniform", 1000, 10))
    other = DDIM(COSINE, respace("uniform", 1000, 30))
    ve = DDIM(make_ve_schedule(0.02, 50.0, 20), range(20))
    z = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    if process == "vp":
        torch.testing.assert_close(carry_latent(z, vp, other), z, rtol=1e-14, atol=0)
        return
    torch.testing.assert_close(carry_latent(z, ve, vp), z / math.sqrt(1 + 50**2), rtol=1e-12, atol=0)
    torch.testing.assert_close(carry_latent(carry_latent(z, vp, ve), ve, vp), z, rtol=1e-14, atol=0)


METHODS = [(DDIM, 1), (FixedPointInversion, 1), (Heun, 2), (BDIA, 2)]


@pytest.mark.parametrize(("method", "order"), METHODS)
@pytest.mark.parametrize(("kind_A", "kind_B"), [("vp", "ve"), ("ve", "vp")])
def test_between_vp_and_ve_at_equal_sigmas(kind_A, kind_B, method, order):
    """Translation tends to the closed form, which knows no schedules; sigmas find the levels of B."""
    found = []
    for K in (40, 80, 160):
        a = Problem(kind_A, K)
        process = a.process(method)
        dense = cubic_sigmas(4 * K)  # a schedule with four times as many timesteps
        schedule = VESchedule(dense) if kind_B == "ve" else vp_schedule(dense)
        timesteps = match_timesteps(schedule, sigmas(process))
        assert timesteps == pytest.approx(range(3, 4 * K, 4), abs=1e-4)
        target = method(schedule, timesteps, clip_denoised=False)
        model_A = a.model(A_DATA)
        model_B = ve_gaussian(*B_DATA) if kind_B == "ve" else gaussian(schedule, *B_DATA)
        y = translate(process, model_A, model_B, X, target_process=target)
        found.append(worst(y - a.translated(X)))
    assert orders(found) == pytest.approx([order, order], abs=0.3)
    assert found[-1] < (0.04, 1e-4)[order - 1]


def test_between_linear_and_cosine():
    """100 steps of Heun; sigma ends at 71, so that almost nothing is left of A."""
    process = Heun(LINEAR, respace("uniform", 1000, 100), clip_denoised=False)
    target = Heun(COSINE, match_timesteps(COSINE, sigmas(process)), clip_denoised=False)
    y = translate(process, gaussian(LINEAR, *A_DATA), gaussian(COSINE, *B_DATA), X, target)
    (m_A, s_A), (m_B, s_B) = A_DATA, B_DATA
    assert worst(y - (m_B + s_B / s_A * (X - m_A))) < 0.01
    back = translate(target, gaussian(COSINE, *B_DATA), gaussian(LINEAR, *A_DATA), y, process)
    assert worst(back - X) < 0.002


def test_the_same_process_twice_changes_nothing():
    process = Problem("vp", 20).process(DDIM)
    source, target = Calls(lambda x, t: 0.2 * x), Calls(lambda x, t: 0.1 * x)
    expected = translate(process, source, target, X)
    torch.testing.assert_close(translate(process, source, target, X, process), expected, rtol=1e-14, atol=0)
    assert len(source.told) == len(target.told) == 40


def test_another_solver_may_decode():
    """As long as its latent is one state too."""
    problem = Problem("vp", 80)
    models = [problem.model(data) for data in (A_DATA, B_DATA)]
    expected = problem.translated(X)
    for method in (Heun, DPMSolver):
        y = translate(problem.process(Heun), *models, X, problem.process(method))
        assert worst(y - expected) < 2e-3
    for pair in [(BDIA, Heun), (Heun, BDIA)]:
        source, target = (problem.process(method) for method in pair)
        message = (
            f"a latent of {pair[0].__name__} cannot be decoded by {pair[1].__name__}: .* for both or for"
        )
        with pytest.raises(ValueError, match=message):
            translate(source, *models, X, target)


def test_bdias_two_states_are_carried_alike():
    a, b = Problem("vp", 40), Problem("ve", 40)
    latent = encode(a.process(BDIA), a.model(A_DATA), X)
    carried = carry_latent(latent, a.process(BDIA), b.process(BDIA))
    torch.testing.assert_close(carried, math.hypot(1, SIGMA) * latent, rtol=1e-12, atol=0)
    assert worst(decode(b.process(BDIA), b.model(A_DATA), carried) - X) < 1e-11


def test_more_levels_than_timesteps():
    with pytest.raises(
        ValueError, match="20 noise levels to match, but the schedule has 10 timesteps; respace"
    ):
        match_timesteps(make_schedule("cosine", 10), [0.1 * k for k in range(1, 21)])
    assert match_timesteps(make_schedule("cosine", 2), [0.03]) == [0]


def test_noise_beyond_the_schedule():
    """The cosine's last sigma is 20291, that of linear 157: nothing there is near."""
    wanted = sigmas(DDIM(COSINE, respace("uniform-linspace", 1000, 10)))
    message = (
        r"sigma 2\.029e\+04 to match, but the schedule ends at 157\.4; respace the other process so that"
    )
    with pytest.raises(ValueError, match=message):
        match_timesteps(LINEAR, wanted)
    near = make_ve_schedule(0.5, 8.0, 5)  # ends at 8 after 4: up to 8 sqrt(2) is nearest to it
    assert match_timesteps(near, [8 * 1.4]) == [4]
    with pytest.raises(ValueError, match="but the schedule ends at 8; respace"):
        match_timesteps(near, [8 * 1.42])
