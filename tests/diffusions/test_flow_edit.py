"""FlowEdit: the image itself for one model, and its closed form between Gaussians of one width."""

import math

import pytest
import torch
from golden_samplers import worst
from solver_cases import X
from test_cycle_diffusion import SCHEDULES, SINE, draws, exact, make_model

from diffusions import DDPM, flow_edit, make_schedule, respace


@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_one_model_changes_nothing(kind, clip):
    network = make_model(SINE, SCHEDULES["linear"])
    process = DDPM(SCHEDULES[kind], respace("uniform-linspace", 1000, 9), clip_denoised=clip)
    assert worst(flow_edit(process, network, network, X, draws(X.shape, 9)) - X) < 1e-12


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("kind", ["linear", "ve"])
def test_between_gaussians_of_one_width_it_is_a_shift_whatever_the_noise(kind, seed):
    """d - D obeys sigma d' = sigma^2 / (sigma^2 + s^2) (d - D): d(0) = D (1 - s / sqrt(s^2 + sigma_K^2))."""
    s, m_A, m_B, errors = 0.3, 0.4, -0.5, []
    for K in (100, 200):
        process = DDPM(SCHEDULES[kind], respace("uniform-linspace", 600, K), clip_denoised=False)
        models = [exact(kind, m, s) for m in (m_A, m_B)]
        y = flow_edit(process, *models, X, draws(X.shape, K, seed))
        shift = (m_B - m_A) * (1 - s / math.hypot(s, process.sigma(K)))
        assert worst(y - X - (y - X).mean()) < 1e-10
        errors.append(abs((y - X).mean().item() - shift))
    assert errors[1] < 0.6 * errors[0] < 0.02  # of first order


def test_from_noise_without_signal_it_is_what_the_models_make_of_noise():
    schedule = make_schedule("linear", 1000, 1e-4, 0.02).without_last_signal()
    process = DDPM(schedule, [999], "x0", clip_denoised=False)
    made = flow_edit(process, lambda x, t: 0.25 * x, lambda x, t: x, X, draws(X.shape, 1))
    noise = draws(X.shape, 1)()
    torch.testing.assert_close(made, X + 0.75 * noise)
