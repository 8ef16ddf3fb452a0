"""Predictions: the three forms agree, clipping is consistent, odd channel counts are refused."""

import math

import pytest
import torch
from golden_samplers import ddpm_schedule, gaussian

from diffusions import DDIM, DDPM
from diffusions.prediction import interpret, split_variance, to_eps, to_x_0
from diffusions.schedule import Level

FORMS = ["eps", "x0", "v", "score"]


def vp_level(A):
    return Level(math.sqrt(A), math.sqrt(1 - A), 7)


def parts(A, generator=None):
    x_0, eps = torch.randn(2, 4, 3, 2, 2, generator=generator, dtype=torch.float64)
    x_t = math.sqrt(A) * x_0 + math.sqrt(1 - A) * eps
    outputs = {
        "eps": eps,
        "x0": x_0,
        "v": math.sqrt(A) * eps - math.sqrt(1 - A) * x_0,
        "score": -eps / math.sqrt(1 - A),
    }
    return x_0, eps, x_t, outputs


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("A", [0.9999, 0.5, 0.01])
def test_every_form_gives_both_parts_back(form, A):
    x_0, eps, x_t, outputs = parts(A, torch.Generator().manual_seed(0))
    found = interpret(outputs[form], x_t, vp_level(A), form)
    torch.testing.assert_close(found, (x_0, eps), rtol=0, atol=1e-12)
    torch.testing.assert_close(to_x_0(eps, x_t, vp_level(A)), x_0, rtol=0, atol=1e-12)
    torch.testing.assert_close(to_eps(x_0, x_t, vp_level(A)), eps, rtol=0, atol=1e-12)


def test_v_by_hand():
    """A = 0.64: sqrt(A) = 0.8, sqrt(1 - A) = 0.6."""
    x_0, eps = interpret(torch.tensor([[2.0]]), torch.tensor([[1.0]]), vp_level(0.64), "v")
    torch.testing.assert_close((x_0, eps), (torch.tensor([[-0.4]]), torch.tensor([[2.2]])))


def test_v_and_x0_stay_accurate_in_float32_where_hardly_any_signal_is_left():
    A = 1e-8  # from eps, x_0 would be off by 1e-7 / sqrt(A) = 1e-3
    x_0, _, x_t, outputs = parts(A, torch.Generator().manual_seed(1))
    for form in ("x0", "v"):
        found, _ = interpret(outputs[form].float(), x_t.float(), vp_level(A), form)
        torch.testing.assert_close(found.double(), x_0, rtol=0, atol=1e-6)


def test_clipping_derives_eps_from_the_clipped_x_0():
    schedule = ddpm_schedule("linear", 10)
    process = DDPM(schedule, range(10))
    x_t = torch.tensor([[3.0, -3.0, 0.1]], dtype=torch.float64)
    free = process.predict(lambda x, t: 0.5 * x, x_t, 4, clip=False)
    clipped = process.predict(lambda x, t: 0.5 * x, x_t, 4, clip=True)
    assert free.x_0[0, 0] > 1
    assert torch.equal(clipped.x_0, free.x_0.clamp(-1, 1))
    signal, noise, _ = process.levels[4]
    torch.testing.assert_close(signal * clipped.x_0 + noise * clipped.eps, x_t)
    assert torch.equal(free.eps, 0.5 * x_t)
    torch.testing.assert_close(clipped.eps[0, 2], free.eps[0, 2])


@pytest.mark.parametrize("form", ["x0", "v", "score"])
@pytest.mark.parametrize("method", [DDPM, DDIM])
def test_the_forms_of_one_network_take_the_same_steps(method, form):
    """Also on the way up, where state and timestep belong to different levels."""
    schedule = ddpm_schedule("linear", 50)
    eps_process, other = method(schedule, range(0, 50, 5)), method(schedule, range(0, 50, 5), form)
    eps_model = gaussian(schedule, 0.3, 0.2)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).view(2, 3)
    moves = [(6, 5), (1, 0)] + [(0, 1), (4, 5)] * (method is DDIM)

    for source, target in moves:

        def model(x_t, t):
            A = schedule.alphas_cumprod[t].view(-1, 1)
            eps = eps_model(x_t, t)
            x_0 = (x_t - (1 - A).sqrt() * eps) / A.sqrt()
            outputs = {"x0": x_0, "v": A.sqrt() * eps - (1 - A).sqrt() * x_0, "score": -eps / (1 - A).sqrt()}
            return outputs[form]

        expected = eps_process.step(eps_model, x, source, target, lambda: torch.ones_like(x))
        actual = other.step(model, x, source, target, lambda: torch.ones_like(x))
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_split_variance():
    output = torch.arange(24.0).view(2, 6, 2)
    prediction, variance = split_variance(output, 3)
    assert torch.equal(prediction, output[:, :3])
    assert torch.equal(variance, output[:, 3:])
    prediction, variance = split_variance(output, 6)
    assert prediction is output
    assert variance is None


def test_odd_channels_are_refused():
    with pytest.raises(ValueError, match="returned 4 channels for images of 3; allowed are 3, or 6 with"):
        split_variance(torch.zeros(1, 4, 2, 2), 3)


def test_unknown_prediction_is_refused():
    with pytest.raises(ValueError, match="unknown prediction 'epsilon', choose one of eps, x0, v, score"):
        DDPM(ddpm_schedule("linear", 4), range(4), "epsilon")


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("state", [torch.float32, torch.float64])
def test_a_network_of_lower_precision_is_cast_before_it_is_used(form, state):
    process, x = DDPM(ddpm_schedule("linear", 10), range(10), form), torch.full((1, 2), 0.3, dtype=state)
    found = process.predict(lambda x_t, t: torch.cat([x_t, x_t], dim=1).bfloat16(), x, 5, clip=False)
    assert {part.dtype for part in found} == {state}
    exact = process.predict(lambda x_t, t: x_t.bfloat16().to(state), x, 5, clip=False)
    assert torch.equal(found.x_0, exact.x_0)
    assert torch.equal(found.eps, exact.eps)
