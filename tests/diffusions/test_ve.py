"""VE processes: recorded runs, exact moments on Gaussian data, and networks adapted to them.

Of the recorded predictors, Euler-Maruyama is another method: it steps by g(t)^2 / N with
g = sigma(t) sqrt(2 log(sigma_max / sigma_min)) instead of by what the levels differ in.
"""

import math
from functools import partial

import pytest
import torch
from golden_samplers import (
    Replay,
    affine_parts,
    assert_golden,
    down,
    read_case,
    read_ve_schedules,
    ve_gaussian,
    ve_score,
    worst,
)

from diffusions import DDIM, DDPM, PredictorCorrector, edit
from diffusions.ve import VESchedule, make_ve_schedule

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 2e-5)]


class Asked:
    """The recorded network as the published program asks it: at sigma(t), t from 1 to 1e-5 in N steps.

    Its steps are on the grid of N sigmas, sigma(i / (N - 1)); our processes tell the network that one.
    """

    def __init__(self, meta):
        self._score = ve_score(meta["denoiser"])
        self._low, self._log_ratio = meta["sigma_min"], math.log(meta["sigma_max"] / meta["sigma_min"])
        self.inputs, self.sigmas = [], []

    def __call__(self, x, sigma):
        u = (sigma.double() / self._low).log() / self._log_ratio
        sigma = (self._low * ((u + 1e-5 * (1 - u)) * self._log_ratio).exp()).to(x.dtype)
        self.inputs.append(x)
        self.sigmas.append(sigma[0])
        return self._score(x, sigma)


class Averaging(PredictorCorrector):
    """The published Langevin step: its norms are averaged over the batch."""

    def correct(self, model, x_t, level, noise):
        score, z = self.score(model, x_t, level), noise().to(x_t.dtype)
        norms = [part.flatten(1).norm(dim=1).mean() for part in (z, score)]
        h = 2 * (self.snr * norms[0] / norms[1]) ** 2
        return x_t + h * score + (2 * h).sqrt() * z

    def score(self, model, x_t, level):
        return -self.predict(model, x_t, level, clip=False).eps / self.levels[level].noise


def recorded(case, method, corrector_steps):
    meta, golden = read_case("ve_pc", case)
    schedule = make_ve_schedule(meta["sigma_min"], meta["sigma_max"], meta["N"])
    var_type = "fixed_small" if meta["predictor"] == "ancestral_sampling" else "fixed_large"
    options = {"corrector_steps": corrector_steps, "snr": meta["snr"]}
    process = method(schedule, range(meta["N"]), "score", var_type, clip_denoised=False, **options)
    return process, Asked(meta), golden


def assert_asked(model, golden, tolerance):
    assert_golden(torch.stack(model.inputs).double(), golden["model_inputs.f64"], tolerance)
    assert_golden(torch.stack(model.sigmas).double(), golden["model_sigmas.f64"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_published_predictor_is_ddpm_with_fixed_large(dtype, tolerance):
    meta, golden = read_case("ve_sde", "reverse_diffusion_N30")
    schedule = make_ve_schedule(meta["sigma_min"], meta["sigma_max"], 30)
    process = DDPM(schedule, range(30), "score", "fixed_large", clip_denoised=False)
    model, noise = Asked(meta), Replay(golden["noise"], dtype)
    states = down(lambda x, j, k: process.step(model, x, j, k, noise), golden["x_init"].to(dtype), 30)
    assert noise.used == 29
    assert_golden(states[:-1].double(), golden["traj.f64"][:-1], tolerance)
    assert_golden(states[-1].double(), golden["last_mean.f64"], tolerance)
    left = process.levels[1].noise * golden["noise"][-1].double()  # their last state; they return the mean
    assert_golden(states[-1].double() + left, golden["traj.f64"][-1], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(
    ("case", "method", "corrector_steps"),
    [
        ("rd_langevin_N20", Averaging, 1),
        ("rd_none_N20", PredictorCorrector, 0),
        ("ancestral_none_N20", PredictorCorrector, 0),
    ],
)
def test_published_runs(case, method, corrector_steps, dtype, tolerance):
    process, model, golden = recorded(case, method, corrector_steps)
    noise = Replay(golden["noise"], dtype)
    start = process.diffuse(torch.zeros_like(golden["noise"][0]).to(dtype), 20, noise())
    states = down(lambda x, j, k: process.step(model, x, j, k, noise), start, 20)
    assert_asked(model, golden, tolerance)
    assert_golden(states[-1].double(), golden["final.f64"], tolerance)
    assert noise.used == len(golden["noise"]) - 1  # the program draws in its last step, for nothing


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_the_published_corrector_alone(dtype, tolerance):
    process, model, golden = recorded("none_langevin_N15_steps2", Averaging, 2)
    noise = Replay(golden["noise"], dtype)
    x = process.levels[15].noise * noise()
    for level in range(15, 0, -1):
        for _ in range(2):
            x = process.correct(model, x, level, noise)
    assert_asked(model, golden, tolerance)
    assert_golden(x.double(), golden["final.f64"], tolerance)


def test_norms_are_those_of_each_image():
    """Alone, an image meets the published step; in a batch it keeps to it, where the program's moves."""
    ours, model, golden = recorded("rd_langevin_N20", PredictorCorrector, 1)
    theirs, _, _ = recorded("rd_langevin_N20", Averaging, 1)
    moved = []
    for call in range(0, 40, 2):  # correctors and predictors take turns
        x, z, level = golden["model_inputs.f64"][call], golden["noise"][1 + call], 20 - call // 2
        together = ours.correct(model, x, level, lambda z=z: z)
        for row in (slice(0, 1), slice(1, 2)):
            alone = theirs.correct(model, x[row], level, lambda z=z, row=row: z[row])
            torch.testing.assert_close(together[row], alone, rtol=1e-14, atol=1e-14)
        moved.append(worst(theirs.correct(model, x, level, lambda z=z: z) - together) / worst(together - x))
    assert 0.05 < max(moved) < 0.5


def test_rows_of_a_batch_do_not_meet():
    process, model, golden = recorded("rd_langevin_N20", PredictorCorrector, 2)
    draws = torch.randn(60, 2, 2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    guide = golden["final.f64"]
    together = edit(process, model, guide, 20, iter(draws).__next__)
    for row in range(2):
        alone = edit(process, model, guide[row, None], 20, iter(draws[:, row, None]).__next__)
        assert torch.equal(alone[0], together[row])


def test_calls_and_draws_of_a_corrected_walk():
    process, model, _ = recorded("rd_langevin_N20", PredictorCorrector, 2)
    noise = Replay(torch.randn(30, 1, 1, generator=torch.Generator().manual_seed(0)), torch.float64)
    edit(process, model, torch.zeros(1, 1).double(), 5, noise)
    assert len(model.sigmas) == 3 * 5
    assert noise.used == 1 + 2 * 5 + 4


def test_corrections_bring_the_right_noise():
    """Where a level is corrected many times, its state follows the noised data, v = 0.4^2 + sigma^2.

    But for the size of the steps: in a large image h = 2 (snr v)^2 / variance, and the variance rests
    where (1 - h / v)^2 variance + 2 h is itself, at v (1 + snr^2).
    """
    schedule, model = VESchedule(torch.tensor([0.5]).double()), ve_gaussian(0.3, 0.4)
    process = PredictorCorrector(schedule, [0], corrector_steps=1, snr=0.2, clip_denoised=False)
    generator = torch.Generator().manual_seed(0)
    x = torch.full((1, 40_000), 2.0)
    noise = partial(torch.randn, x.shape, generator=generator)
    for _ in range(200):
        x = process.correct(model, x, 1, noise)
    assert x.mean().item() == pytest.approx(0.3, abs=0.01)
    assert x.var().item() == pytest.approx(0.41 * 1.04, rel=0.02)


@pytest.mark.parametrize("prediction", ["eps", "x0", "score"])
@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large"])
def test_moments_of_sdedit_for_gaussian_data_at_every_level(var_type, prediction):
    """With v_k = s^2 + sigma_k^2, a step multiplies the distance from the mean by v_{k-1} / v_k."""
    m, s, guide = 0.3, 0.4, -0.8
    process = DDPM(make_ve_schedule(0.01, 20.0, 12), range(12), prediction, var_type, clip_denoised=False)
    square = [process.sigma(level) ** 2 for level in range(13)]
    v = [s**2 + x for x in square]
    for level in range(1, 13):
        variance = square[level]
        for k in range(level, 0, -1):
            added = square[k] - square[k - 1] if k > 1 else 0  # algorithm 2 of SDEdit, but for its last noise
            share = 1 if var_type == "fixed_large" else square[k - 1] / square[k]
            variance = variance * (v[k - 1] / v[k]) ** 2 + added * share
        expected = m + (guide - m) * s**2 / v[level], variance
        actual = affine_parts(process, ve_gaussian(m, s, prediction), guide, level)
        assert actual == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("end", "steps"), [(50, 1000), (348, 2000)])
def test_published_tables(end, steps):
    """Our DDPM's fixed_large variance is the square of the program's G, but where it adds no noise."""
    golden, schedule = read_ve_schedules(), make_ve_schedule(0.01, end, steps)
    sigmas, G = (golden[f"{end}.N{steps}.{name}.f64"] for name in ("discrete_sigmas", "grid_G"))
    torch.testing.assert_close(schedule.sigmas, sigmas, rtol=1e-12, atol=0)
    process = DDPM(schedule, range(steps), "score", "fixed_large")
    variances = torch.tensor([process.variance(k) for k in range(steps, 1, -1)], dtype=torch.float64)
    torch.testing.assert_close(variances.sqrt(), G[:-1], rtol=1e-9, atol=0)


def test_the_levels_are_signal_1_and_the_network_is_told_sigma():
    process, told = DDIM(make_ve_schedule(0.1, 10.0, 3), [0, 2], "score"), []
    assert [level.signal for level in process.levels] == [1, 1, 1]
    assert [level.noise for level in process.levels] == pytest.approx([0, 0.1, 10])
    assert [process.sigma(level) for level in range(3)] == [level.noise for level in process.levels]

    def model(x, sigma):
        told.append(sigma)
        return 0 * x

    for dtype in (torch.float32, torch.float64):
        process.step(model, torch.zeros(2, 1, dtype=dtype), 2, 1)
    assert [sigma.dtype for sigma in told] == [torch.float32, torch.float64]
    assert told[1].tolist() == [process.levels[2].noise] * 2


@pytest.mark.parametrize(
    ("sigmas", "message"),
    [
        (torch.ones(2), "must be a float64 table, got torch.float32"),
        (torch.ones(1, 2).double(), r"must be a float64 table, got torch.float64 .*\[1, 2\]"),
        (torch.ones(0).double(), r"got torch.float64 .*\[0\]"),
        (torch.tensor([0.0, 1.0]).double(), "must increase from above 0"),
        (torch.tensor([1.0, 1.0]).double(), "must increase from above 0"),
        (torch.tensor([2.0, 1.0]).double(), "must increase from above 0"),
        (torch.tensor([float("nan"), 1.0]).double(), "must increase from above 0"),
        (torch.tensor([1.0, float("inf")]).double(), "must increase from above 0"),
    ],
)
def test_sigmas_are_checked(sigmas, message):
    with pytest.raises(ValueError, match=message):
        VESchedule(sigmas)


@pytest.mark.parametrize(
    "arguments", [(0.0, 1.0, 5), (-1.0, 1.0, 5), (2.0, 1.0, 5), (1.0, 1.0, 5), (0.1, 1.0, 1)]
)
def test_make_ve_schedule_refuses(arguments):
    low, high, count = arguments
    message = f"needs 0 < sigma_min < sigma_max and at least 2 timesteps, got {low}, {high} and {count}"
    with pytest.raises(ValueError, match=message):
        make_ve_schedule(*arguments)


def test_v_needs_a_schedule_that_preserves_the_variance():
    with pytest.raises(
        ValueError, match="prediction v needs a schedule that preserves the variance, not a VE"
    ):
        DDPM(make_ve_schedule(0.1, 1.0, 3), range(3), "v")
