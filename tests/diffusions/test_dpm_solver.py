"""DPM-Solver++ against k-diffusion's recorded runs, its order of convergence, and its moments."""

import math
from functools import partial

import pytest
import torch
from golden_samplers import (
    Counted,
    Replay,
    affine_parts,
    assert_golden,
    ddpm_schedule,
    down,
    gaussian,
    make_model,
    orders,
    read_case,
    ve_denoiser,
    ve_gaussian,
    worst,
)

from diffusions import DDIM, DDPM, DPMSolver, edit, make_schedule, make_ve_schedule, respace
from diffusions.ve import VESchedule

SINE = {"kind": "sine", "a": 0.3, "b": 0.1, "c": 5.0, "d": 0.01, "e": 0.5}
MEAN, STD = 0.3, 0.4
X = torch.linspace(-5, 7.5, 9, dtype=torch.float64)[:, None]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(("case", "method"), [("dpmpp2m12", DPMSolver), ("euler12", DDIM)])
def test_k_diffusion(case, method, dtype, tolerance):
    """Their sigmas end at 0, our level 0; Euler's method in sigma is DDIM."""
    meta, golden = read_case("k_diffusion", case)
    schedule = VESchedule(golden["sigmas.f32"][:-1].flip(0).double())
    process, denoised = method(schedule, range(12), "x0", clip_denoised=False), []
    network = ve_denoiser(meta["denoiser"])

    def model(x, sigma):
        denoised.append(network(x, sigma))
        return denoised[-1]

    states = down(process.start(model), golden["x_init"].to(dtype), 12)
    assert states.dtype == dtype
    assert_golden(states.double(), golden["traj.f64"], tolerance)
    assert_golden(torch.stack(denoised).double(), golden["denoised.f64"], tolerance)


def solve(method, schedule, timesteps, model, x, **options):
    """Follow the ODE from the last of the timesteps down to the first of them."""
    process = method(schedule, timesteps, clip_denoised=False, **options)
    return process, down(process.start(model), x, process.num_steps, 1)[-1]


def along_the_ode(process, x):
    """Where the ODE of N(MEAN, STD^2) leads from level K to level 1."""
    width = [math.hypot(level.signal * STD, level.noise) for level in process.levels]
    low, high = process.levels[1], process.levels[-1]
    return low.signal * MEAN + (x - high.signal * MEAN) * width[1] / width[-1]


@pytest.mark.parametrize(("method", "order"), [(DDIM, 1), (DPMSolver, 2)])
@pytest.mark.parametrize("kind", ["ve", "vp"])
def test_order_on_gaussian_data(kind, method, order):
    errors = []
    for K in (80, 160, 320):
        if kind == "ve":  # a geometric schedule, from 5 to 0.05
            schedule, timesteps, model = (
                make_ve_schedule(0.05, 5.0, K + 1),
                range(K + 1),
                ve_gaussian(MEAN, STD),
            )
        else:
            schedule, timesteps = make_schedule("cosine", 4000), range(400, 3601, 3200 // K)
            model = gaussian(schedule, MEAN, STD)
        process, found = solve(method, schedule, timesteps, model, X)
        errors.append(worst(found - along_the_ode(process, X)))
    assert orders(errors) == pytest.approx([order, order], abs=0.1)
    assert errors[-1] < (0.012, 0.0004)[order - 1]


@pytest.mark.parametrize(("method", "order"), [(DDIM, 1), (DPMSolver, 2)])
def test_order_on_a_mixture(method, order):
    model = ve_denoiser({"w": [0.3, 0.7], "m": [-0.6, 0.5], "s": [0.2, 0.35]})
    counts = (16, 32, 64, 1024)
    found = [
        solve(method, make_ve_schedule(0.05, 5.0, K + 1), range(K + 1), model, X, prediction="x0")[1]
        for K in counts
    ]
    exact = solve(DPMSolver, make_ve_schedule(0.05, 5.0, 4097), range(4097), model, X, prediction="x0")[1]
    errors = [worst(states - exact) for states in found]
    assert orders(errors[:3]) == pytest.approx([order, order], abs=0.1)
    assert errors[2] < (0.02, 0.0003)[order - 1]


@pytest.mark.parametrize("respacing", ["uniform", "uniform-linspace", "uniform-trailing", "quad"])
@pytest.mark.parametrize("kind", ["linear", "cosine"])
@pytest.mark.parametrize("K", [10, 20, 50])
def test_more_accurate_than_ddim_at_few_steps(kind, respacing, K):
    """Down to the image, at every respacing: the long last steps of even ones are not extrapolated over."""
    schedule = make_schedule("cosine", 1000) if kind == "cosine" else ddpm_schedule("linear", 1000)
    x, model = X / 5, gaussian(schedule, MEAN, STD)
    errors = []
    for method in (DDIM, DPMSolver):
        process = method(schedule, respace(respacing, 1000, K), clip_denoised=False)
        last = process.levels[-1]
        exact = MEAN + STD * (x - last.signal * MEAN) / math.hypot(last.signal * STD, last.noise)
        errors.append(worst(down(process.start(model), x, K)[-1] - exact))
    assert errors[1] < 0.9 * errors[0]


def test_steps_by_hand():
    """Steps by 1, 1.5, 3.2 and 0.5 in log sigma: the third, more than twice the second, takes x_0 alone."""
    way = torch.tensor([0, 1, 2.5, 5.7, 6.2], dtype=torch.float64)
    process = DPMSolver(VESchedule((2 - way).exp().flip(0)), range(5), "x0", clip_denoised=False)
    outputs = iter([1.0, 2.0, 4.0, 8.0, 16.0])
    states = down(
        process.start(lambda x, sigma: torch.full_like(x, next(outputs))), torch.zeros(1, 1).double(), 5
    )
    x, expected = 0.0, []
    for h, D in [(1, 1), (1.5, 2 + 1.5 / 2 * 1), (3.2, 4), (0.5, 8 + 0.5 / 6.4 * 4)]:
        x = math.exp(-h) * x + (1 - math.exp(-h)) * D
        expected.append(x)
    assert states.flatten().tolist() == pytest.approx([0, *expected, 16], rel=1e-12)


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_one_step_is_that_of_ddim(kind):
    """Without a step before: of the ODE with eta = 0, of the SDE with eta = 1, between any two levels."""
    schedule = make_schedule("cosine", 1000) if kind == "cosine" else ddpm_schedule("linear", 1000)
    model, timesteps = make_model(SINE, schedule), range(9, 1000, 99)
    x, z = torch.randn(2, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    for stochastic in (False, True):
        process = DPMSolver(schedule, timesteps, stochastic=stochastic)
        ddim = DDIM(schedule, timesteps, eta=float(stochastic))
        for source, target in [(10, 9), (10, 2), (2, 1), (1, 0), (10, 0)]:
            actual = process.start(model, lambda: z)(x, source, target)
            expected = ddim.step(model, x, source, target, lambda: z)
            torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_each_walk_remembers_its_own():
    schedule = ddpm_schedule("linear", 1000)
    process, model = DPMSolver(schedule, range(9, 1000, 99)), make_model(SINE, schedule)
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    alone = down(process.start(model), x, 10)
    one, other = process.start(model), process.start(model)
    together, y = [x], 2 * x
    for k in range(10, 0, -1):
        together.append(one(together[-1], k, k - 1))
        y = other(y, k, k - 1)
    assert torch.equal(torch.stack(together), alone)


@pytest.mark.parametrize(("K", "tolerance"), [(16, 0.011), (32, 0.0032), (64, 0.0008)])
def test_moments_of_the_stochastic_solver_on_gaussian_data(K, tolerance):
    """The mean is DDPM's at every number of steps: the expected x_0 never changes, so nothing is corrected.

    The variance tends to that of the data, 0.16, ever faster than DDPM's, which is off by more than 0.018.
    """
    schedule, model = make_ve_schedule(0.01, 20.0, K), ve_gaussian(MEAN, STD)
    process = DPMSolver(schedule, range(K), stochastic=True, clip_denoised=False)
    mean, variance = affine_parts(process, model, -0.8, K)
    assert mean == pytest.approx(MEAN - 1.1 * STD**2 / (STD**2 + 20**2), abs=1e-12)
    assert abs(variance - STD**2) < tolerance
    ancestral = DDPM(schedule, range(K), clip_denoised=False)
    assert affine_parts(ancestral, model, -0.8, K)[1] < STD**2 - 0.017


@pytest.mark.parametrize(("stochastic", "draws"), [(False, 1), (True, 4)])
def test_calls_and_draws(stochastic, draws):
    process = DPMSolver(ddpm_schedule("linear", 40), [4, 10, 20, 39], stochastic=stochastic)
    model, noise = Counted(lambda x, t: 0.1 * x), Replay(torch.zeros(4, 1, 1), torch.float32)
    edit(process, model, torch.zeros(1, 1), 4, noise)
    assert model.timesteps == [39, 20, 10, 4]
    assert noise.used == draws


@pytest.mark.parametrize("stochastic", [False, True])
def test_clipping(stochastic):
    """x_0 is clipped at every step and is the image; between them D may lie beyond."""
    process = DPMSolver(ddpm_schedule("linear", 40), [10, 20, 39], stochastic=stochastic)
    generator = torch.Generator().manual_seed(0)
    guide = torch.full((2, 3, 4, 4), 0.9)
    for clip in (True, False):
        process.clip_denoised = clip
        noise = partial(torch.randn, guide.shape, generator=generator)
        largest = edit(process, lambda x, t: 0.1 * x, guide, 3, noise).abs().max()
        assert largest == 1 if clip else largest > 1


@pytest.mark.parametrize(("source", "target"), [(1, 2), (2, 2), (2, -1)])
def test_only_down(source, target):
    step = DPMSolver(ddpm_schedule("linear", 10), [0, 5, 9]).start(lambda x, t: x)
    message = f"DPM-Solver\\+\\+ steps down, found a step from level {source} to {target}"
    with pytest.raises(ValueError, match=message):
        step(torch.zeros(1, 1), source, target)


def test_refusals():
    process, x = DPMSolver(ddpm_schedule("linear", 10), [0, 5, 9], stochastic=True), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="draws noise and was given none; pass a callable"):
        process.start(lambda x, t: x)(x, 3, 2)
    with pytest.raises(ValueError, match="level 4: this process has levels 1 to 3"):
        process.start(lambda x, t: x)(x, 4, 3)
    with pytest.raises(NotImplementedError, match="DPMSolver has no step of its own; use start"):
        process.step(lambda x, t: x, x, 3, 2)
