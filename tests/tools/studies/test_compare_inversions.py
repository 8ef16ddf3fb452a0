"""The comparison of inversions: its networks and its truth are right, and so are the claims made with it."""

import math

import pytest
import torch

from diffusions import BDIA, DDIM, FixedPointInversion, Heun, make_schedule, respace
from tools.studies.compare_inversions import A, Ancestor, Mixture, OneIteration, measure, true_translation

SCHEDULE = make_schedule("linear", 1000, 1e-4, 0.02)


def test_eps_is_the_gradient_of_the_density():
    y = A.sample(5).requires_grad_()
    for sigma in (0.1, 3.0):
        variance = A.std**2 + sigma**2
        squares = (y[:, None] - A.means).square().sum(2)
        (score,) = torch.autograd.grad(torch.logsumexp(-squares / (2 * variance), dim=1).sum(), y)
        torch.testing.assert_close(A.eps(y.detach(), sigma), -sigma * score, rtol=1e-10, atol=1e-12)


def test_the_truth_is_that_of_one_gaussian_and_as_fine_as_need_be():
    """For one Gaussian in closed form; for the mixtures, twice as many steps say the same."""
    one, x = Mixture(torch.tensor([[0.3, -0.2]]).double()), A.sample(8)
    there = one.follow(x, 0.0, 20.0)
    expected = one.means + (x - one.means) * math.hypot(0.15, 20) / 0.15
    torch.testing.assert_close(there, expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(one.follow(there, 20.0, 0.0), x, rtol=0, atol=1e-6)
    coarse, fine = (A.follow(x, 0.0, 20.0, steps) for steps in (400, 800))
    torch.testing.assert_close(coarse, fine, rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module", params=["uniform-linspace", "quad90"])
def rows(request):
    x, found = A.sample(64), {}
    for method, K in [
        (Ancestor, 100),
        (DDIM, 100),
        (OneIteration, 100),
        (FixedPointInversion, 20),
        (Heun, 50),
        (BDIA, 100),
    ]:
        process = method(SCHEDULE, respace(request.param, 1000, K), clip_denoised=False)
        found[method] = measure(process, SCHEDULE, x, true_translation(x, process.sigma(K)))
    return found


def test_calls(rows):
    assert [rows[method].calls for method in (Ancestor, DDIM, OneIteration, Heun, BDIA)] == [
        199,
        200,
        300,
        199,
        202,
    ]
    assert 60 < rows[FixedPointInversion].calls < 150


def test_heun_with_200_calls_is_far_closer_than_the_ancestor(rows):
    assert rows[Heun].cycle < rows[Ancestor].cycle / 20
    assert rows[Heun].reconstruction < rows[Ancestor].reconstruction / 15
    assert rows[Heun].translation < rows[Ancestor].translation / 4


def test_each_convention_improves_on_the_one_before(rows):
    for better, worse in [(DDIM, Ancestor), (OneIteration, DDIM), (Heun, DDIM), (BDIA, DDIM)]:
        assert all(x < y for x, y in zip(rows[better][1:], rows[worse][1:], strict=True)), better
    assert rows[BDIA].reconstruction < 1e-12


def test_a_fixed_point_of_20_steps_returns_better_than_100_steps_at_two_thirds_of_their_calls(rows):
    assert rows[FixedPointInversion].cycle < rows[DDIM].cycle / 20
    assert rows[FixedPointInversion].reconstruction < rows[DDIM].reconstruction / 40
