"""Networks adapted to a VE process: those of VP schedules, and those of images in [0, 1]."""

import pytest
import torch
from golden_samplers import ddpm_schedule, gaussian, make_model, ve_gaussian, ve_score

from diffusions import DDIM, DDPM, PredictorCorrector, as_ve, edit, from_unit_range, make_schedule
from diffusions.ve import VESchedule, make_ve_schedule

MIXTURE = {"w": [0.3, 0.7], "m": [-0.6, 0.5], "s": [0.2, 0.35]}
SCHEDULES = [ddpm_schedule("linear", 1000), make_schedule("cosine", 1000)]


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_as_ve_is_exact_between_timesteps(schedule, prediction):
    """Any sigma inside the schedule: a VP network that interpolates log sigma alike gives the VE eps."""
    network = gaussian(schedule, 0.3, 0.4, prediction)
    sigma = torch.logspace(-1.5, 1.9, 57, dtype=torch.float64)
    x = torch.linspace(-2, 2, 57 * 3, dtype=torch.float64).view(57, 3) * sigma[:, None]
    model = as_ve(lambda x, t: torch.cat([network(x, t), x], dim=1), schedule, prediction)  # and a variance
    eps = model(x, sigma)
    assert eps.shape == x.shape
    torch.testing.assert_close(eps, ve_gaussian(0.3, 0.4)(x, sigma), rtol=0, atol=1e-10)


def test_as_ve_tells_the_timestep_of_a_sigma_and_the_ends_beyond():
    schedule, told = ddpm_schedule("linear", 1000), []
    table = (1 / schedule.alphas_cumprod - 1).sqrt()

    def network(x, t):
        told.append((x, t))
        return 0 * x

    between = (table[6] * table[7]).sqrt()
    sigma = torch.stack([table[0] / 9, table[0], table[6], between, table[500], table[-1], 9 * table[-1]])
    model = as_ve(network, schedule, "eps")
    model(torch.ones(7, 1, 2).double(), sigma)
    (x, t) = told[0]
    torch.testing.assert_close(t, torch.tensor([0, 0, 6, 6.5, 500, 999, 999]).double(), rtol=0, atol=1e-9)
    assert t[0] == 0
    assert t[-1] == 999
    signal = 1 / (1 + sigma**2).sqrt()
    torch.testing.assert_close(x, signal[:, None, None].expand(7, 1, 2), rtol=1e-12, atol=0)


@pytest.mark.parametrize("sampler", [DDPM, DDIM])
def test_as_ve_takes_the_steps_of_the_vp_process(sampler):
    """Divided by its signal, a VP state is a VE state of the same sigma, and all steps agree."""
    vp = ddpm_schedule("linear", 1000)
    network = make_model({"kind": "sine", "a": 0.3, "b": 0.1, "c": 5.0, "d": 0.01, "e": 0.5}, vp)
    ve = VESchedule((1 / vp.alphas_cumprod - 1).sqrt())
    generator = torch.Generator().manual_seed(0)
    guide, *draws = torch.randn(11, 2, 3, generator=generator).double()
    edits = [
        edit(sampler(schedule, range(9, 1000, 99)), model, guide, 10, iter(draws).__next__)
        for schedule, model in ((vp, network), (ve, as_ve(network, vp, "eps")))
    ]
    assert edits[0].abs().max() == 1
    torch.testing.assert_close(edits[1], edits[0], rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", [DDPM, DDIM, PredictorCorrector])
def test_from_unit_range_is_the_same_edit_in_other_units(method):
    """In [0, 1] as published, and in [-1, 1] with sigmas twice as large: 2 x - 1 of the same picture."""
    options = {"corrector_steps": 1, "snr": 0.16} if method is PredictorCorrector else {}
    unit = make_ve_schedule(0.01, 20.0, 15)
    score = ve_score(MIXTURE)
    guide, *draws = torch.randn(31, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    results = [
        edit(method(schedule, range(15), "score", clip_denoised=False, **options), model, x, 15, noise)
        for schedule, model, x, noise in (
            (unit, score, guide, iter(draws).__next__),
            (VESchedule(2 * unit.sigmas), from_unit_range(score), 2 * guide - 1, iter(draws).__next__),
        )
    ]
    torch.testing.assert_close(results[1], 2 * results[0] - 1, rtol=0, atol=1e-11)
