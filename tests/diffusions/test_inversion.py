"""The inversions of DDIM: recorded runs, what a fixed point promises, and how far each is from the truth."""

import math

import pytest
import torch
from golden_samplers import (
    assert_golden,
    ddpm_schedule,
    gaussian,
    make_model,
    openai_case,
    openai_schedule,
    orders,
    read_case,
    recorded_gradient,
    recorded_rows,
    walk,
    worst,
)
from solver_cases import A_DATA, Calls, Problem, X, errors

from diffusions import DDIM, FixedPointInversion, SourceInversion, decode, encode, respace, translate
from diffusions.inversion import solve
from diffusions.ve import make_ve_schedule
from tools.studies.compare_inversions import A, B, Network

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 2e-5)]
CYCLES = ["cycle_ddim50_same_label", "cycle_full1000_same_label"]


def recorded(case, dtype):
    meta, golden = read_case("ddib", case)
    schedule = openai_schedule("linear", 1000)
    spacing = {"all": "none"}.get(meta["spacing"], meta["spacing"])
    process = SourceInversion(schedule, respace(spacing, 1000), clip_denoised=meta["clip_decode"])
    models = [make_model(meta["model"], schedule, golden[key]) for key in ("y_source", "y_target")]
    return process, *models, golden["x_source"].to(dtype), golden


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", CYCLES)
def test_the_ddib_authors_runs(case, dtype, tolerance):
    process, source, target, x, golden = recorded(case, dtype)
    latent = encode(process, source, x)
    assert latent.dtype == dtype
    assert_golden(latent.double(), golden["latent.f64"], tolerance)
    assert_golden(decode(process, target, latent).double(), golden["target.f64"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
def test_the_ddib_authors_guided_run(dtype, tolerance):
    process, source, target, x, golden = recorded("translate_ddim25_guided", dtype)
    spec = read_case("ddib", "translate_ddim25_guided")[0]["cond"]
    process = process.guided(recorded_gradient(spec, golden["y_target"]))
    states = walk(process.start(source), x, range(26))
    assert_golden(states.double(), golden["encode_traj.f64"], tolerance)
    y = translate(process, source, target, x)
    assert_golden(y.double(), golden["target.f64"], tolerance)


@pytest.mark.parametrize("case", ["reverse_full_T100", "reverse_ddim50", "reverse_full1000"])
def test_openais_reverse_loop(case):
    meta, golden, schedule, timesteps = openai_case(case)
    process, model = SourceInversion(schedule, timesteps), Calls(make_model(meta["model"], schedule))
    states = walk(process.start(model), golden["x_init"].double(), range(process.num_steps + 1))
    assert_golden(recorded_rows(meta, states), golden["traj.f64"])
    assert model.told == list(timesteps)


def test_the_source_convention_ends_in_pure_noise():
    """At A = 0 the eps alone is left; on a VE schedule, that much noise as level K has in all."""
    for schedule, total in ((ddpm_schedule("linear", 10), 1.0), (make_ve_schedule(0.1, 3.0, 10), 10**0.5)):
        process = SourceInversion(schedule, range(10))
        latent = process.step(lambda x, t: 0.3 * x, torch.ones(1, 1).double(), 9, 10)
        assert latent.item() == pytest.approx(0.3 * total, rel=1e-14)


@pytest.mark.parametrize("case", CYCLES)
def test_the_recorded_cycles_close_by_fixed_points(case):
    """With the authors' network, steps and images: their round trips are off by 0.105 and 0.0104."""
    process, source, _, x, _ = recorded(case, torch.float64)
    ours = FixedPointInversion(openai_schedule("linear", 1000), process.timesteps, clip_denoised=False)
    error = worst(translate(ours, source, source, x) - x)
    assert error < 5e-4


STEEP = [("uniform-linspace", 5), ("uniform-linspace", 20), ("quad90", 5), ("quad90", 10)]


def steep(name, K, **options):
    """Points that are much sharper than the steps: std 0.02, exact networks."""
    schedule = ddpm_schedule("linear", 1000)
    timesteps = respace(name, 1000, K)
    networks = [Network(type(domain)(domain.means, 0.02), schedule) for domain in (A, B)]
    points = networks[0].mixture.sample(64, seed=1)
    return FixedPointInversion(schedule, timesteps, clip_denoised=False, **options), *networks, points


def residual(process, network, x, k, reached):
    """What DDIM's move of x from k to k + 1, with the eps of the state reached, misses it by."""
    here, eps = process.levels[k], process.predict(network, reached, k + 1, clip=False).eps
    return process.move((x - here.noise * eps) / here.signal, eps, k, k + 1) - reached


@pytest.mark.parametrize(("name", "K"), [*STEEP, ("uniform-linspace", 30)])
@pytest.mark.parametrize("domain", [0, 1])
def test_every_step_up_is_undone_by_the_step_down(name, K, domain):
    process, *networks, _ = steep(name, K, tolerance=1e-8, max_iterations=40)
    network = networks[domain]
    x = network.mixture.sample(64, seed=1)
    states = walk(process.start(network), x, range(K + 1))
    for k in range(K):
        back = process.step(network, states[k + 1], k + 1, k)
        assert worst(back - states[k]) < 1e-6
    assert worst(decode(process, network, states[-1]) - x) < 1e-6


def test_the_plain_iteration_diverges_there():
    """After 40 iterations it jumps to and fro between states that lead to far from where it came from."""
    process, network, _, x = steep("quad90", 15)
    states, far = walk(process.start(network), x, range(16)), []
    for k in range(15):
        guess = states[k]
        for _ in range(40):
            guess = guess + residual(process, network, states[k], k, guess)
        far.append(residual(process, network, states[k], k, guess).norm(dim=1).max().item())
    assert max(far) > 0.1


@pytest.mark.parametrize(("name", "K"), STEEP)
@pytest.mark.parametrize("max_iterations", [1, 2, 3, 5])
def test_no_residual_is_worse_than_that_of_target(name, K, max_iterations):
    """However few iterations there are, for each image."""
    process, network, _, x = steep(name, K, max_iterations=max_iterations)
    states = walk(process.start(network), x, range(K + 1))
    for k in range(K):
        first = DDIM.step(process, network, states[k], k, k + 1)
        found, other = (
            residual(process, network, states[k], k, reached).norm(dim=1)
            for reached in (states[k + 1], first)
        )
        assert (found <= other + 1e-12).all()
        if max_iterations == 1:
            torch.testing.assert_close(states[k + 1], first, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 3e-3), (torch.float32, 3e-3)])
def test_a_cycle_through_another_domain_closes(dtype, tolerance):
    """At the defaults, 20 steps; both ways of both networks."""
    process, source, target, x = steep("quad90", 20)
    x = x.to(dtype)
    there = translate(process, source, target, x)
    assert there.dtype == dtype
    back = translate(process, target, source, there)
    assert ((back - x).norm(dim=1) < tolerance).double().mean() > 0.9
    assert worst(translate(process, source, source, x) - x) < 1e-3


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_orders_on_gaussian_data(kind):
    """Still of first order, as DDIM is; but what goes up comes down."""
    found = [errors(FixedPointInversion, kind, K, tolerance=1e-8) for K in (40, 80, 160)]
    for way in ("encode", "decode", "translate"):
        assert orders([run[way] for run in found]) == pytest.approx([1, 1], abs=0.1), way
    assert max(run[way] for run in found for way in ("same", "cycle")) < 1e-7


def test_translation_of_gaussians_is_closer_than_with_target():
    for K in (40, 160):
        assert errors(FixedPointInversion, "vp", K)["translate"] < errors(DDIM, "vp", K)["translate"] / 6


def test_the_source_convention_does_not_converge():
    """Its latent is that of A = 0 however many steps there are, and level K is where decoding starts."""
    found = [errors(SourceInversion, "vp", K)["encode"] for K in (160, 320)]
    assert found[1] > found[0] > 0.03


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_an_image_does_not_depend_on_its_neighbours(dtype):
    """Though the batch iterates until its slowest image is done."""
    process, network, _, x = steep("uniform-linspace", 10)
    x = x.to(dtype)
    alone = torch.cat([encode(process, network, x[row, None]) for row in range(8)])
    calls = []
    for neighbours in (x[:0], x[8:20], 3 * x[8:]):
        network.calls = 0
        together = encode(process, network, torch.cat([neighbours, x[:8].flip(0)]))
        assert torch.equal(together[len(neighbours) :].flip(0), alone)
        calls.append(network.calls)
    assert calls[0] < calls[2]


def test_calls_stop_with_the_residual():
    """Looser tolerances cost less; a step up of one image costs 1 + 1 to max_iterations."""
    found = []
    for tolerance in (1e-1, 1e-3, 1e-5):
        process, network, _, x = steep("quad90", 20, tolerance=tolerance)
        encode(process, network, x[:1])
        found.append(network.calls)
    assert 40 <= found[0] < found[1] < found[2] < 150
    process, network, _, x = steep("quad90", 20, tolerance=1e-30, max_iterations=3)
    encode(process, network, x)
    assert network.calls == 20 * 4
    decode(process, network, x)
    assert network.calls == 20 * 5


@pytest.mark.parametrize("K", [10, 100, 1000])
def test_the_tolerance_is_that_of_the_whole_way(K):
    """Whatever the number of steps, points return as well; and more so, the smaller it is."""
    schedule = ddpm_schedule("linear", 1000)
    network = Network(A, schedule)
    x = A.sample(8)
    for tolerance in (1e-2, 1e-4) if K < 1000 else (1e-3,):
        timesteps = respace("uniform-linspace", 1000, K)
        process = FixedPointInversion(schedule, timesteps, clip_denoised=False, tolerance=tolerance)
        assert worst(translate(process, network, network, x) - x) < tolerance


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("num_steps", [1, 4])
def test_the_tolerance_is_in_units_of_the_states_scale(kind, num_steps):
    """A VE state at sigma 5 may be as far off, of its size, as a VP state."""
    problem = Problem(kind, num_steps)
    k, model = num_steps - 1, Calls(problem.model(A_DATA))
    process = problem.process(FixedPointInversion)
    first = DDIM.step(process, model, X, k, k + 1)
    missed = residual(process, model, X, k, first).square().mean(1).sqrt().max().item()
    missed *= num_steps / math.hypot(*process.levels[k + 1][:2])
    for tolerance, enough in [(1.01 * missed, True), (0.99 * missed, False)]:
        process, model.told = problem.process(FixedPointInversion, tolerance=tolerance), []
        reached = process.step(model, X, k, k + 1)
        assert (len(model.told) == 2) == enough
        assert (worst(reached - first) < 1e-12) == enough


def test_solve_finds_steep_flat_and_bent_zeros():
    """Slopes from 0.02 to 50 side by side, and one that is not a gradient."""
    slopes = torch.tensor([[0.02, 0.05], [0.5, 1.0], [2.0, 9.0], [30.0, 50.0]], dtype=torch.float64)
    found = solve(lambda x: slopes * (1 - x) + 0.01 * (1 - x) ** 3, torch.zeros(4, 2).double(), 1e-8, 40)
    torch.testing.assert_close(found, torch.ones(4, 2).double(), rtol=0, atol=1e-6)
    turn = torch.tensor([[1.0, 0.9], [-0.9, 1.0]], dtype=torch.float64)
    found = solve(lambda x: (1 - x) @ turn, torch.zeros(1, 2).double(), 1e-8, 40)
    torch.testing.assert_close(found, torch.ones(1, 2).double(), rtol=0, atol=1e-6)


def test_solve_survives_what_has_no_zero():
    """It keeps the best that it saw, also where the network fails."""
    first = torch.full((2, 1), 2.0)
    assert torch.equal(solve(lambda x: 1 + x**2, first, 1e-3, 1), first)
    found = solve(lambda x: 1 + x**2, first, 1e-3, 30)
    assert found.abs().max() <= 2
    broken = solve(lambda x: torch.where(x > 1.9, 0.1 - x, torch.nan), first, 1e-3, 30)
    assert broken.isfinite().all()
    assert (broken <= first).all()


def test_only_the_way_up_differs_from_ddim():
    schedule, timesteps = ddpm_schedule("linear", 100), range(4, 100, 5)
    model, x = gaussian(schedule, 0.0, 0.8), 3 * X
    expected = decode(DDIM(schedule, timesteps), model, x)
    for method in (SourceInversion, FixedPointInversion):
        process = method(schedule, timesteps)
        assert torch.equal(decode(process, model, x), expected)
        free, guided = method(schedule, timesteps, clip_denoised=False), process.guided(lambda x, t: x)
        latent = encode(process, model, 2 * X)
        assert torch.equal(latent, encode(free, model, 2 * X))
        assert torch.equal(latent, encode(guided, model, 2 * X))


def test_levels_may_be_skipped_by_a_fixed_point():
    problem = Problem("vp", 30)
    process, model = problem.process(FixedPointInversion, tolerance=1e-9), problem.model(A_DATA)
    for source, target in [(0, 7), (3, 30), (0, 30)]:
        reached = process.step(model, X, source, target)
        assert worst(process.step(model, reached, target, source) - X) < 1e-7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tolerance": 0.0}, r"tolerance is 0\.0 and max_iterations 20; give numbers above 0"),
        ({"tolerance": -1.0}, r"tolerance is -1\.0"),
        ({"tolerance": float("nan")}, "tolerance is nan"),
        ({"max_iterations": 0}, "max_iterations 0; give numbers above 0"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        FixedPointInversion(ddpm_schedule("linear", 10), range(10), **options)


def test_steps_are_checked():
    schedule, x = ddpm_schedule("linear", 10), torch.zeros(1, 1)
    for method in (SourceInversion, FixedPointInversion):
        with pytest.raises(ValueError, match="a step from level 2 to itself"):
            method(schedule, range(10)).step(lambda x, t: x, x, 2, 2)
        with pytest.raises(ValueError, match="level 11: this process has levels 0 to 10"):
            method(schedule, range(10)).step(lambda x, t: x, x, 2, 11)
    with pytest.raises(ValueError, match="one level at a time, found a step from 2 to 5; use DDIM"):
        SourceInversion(schedule, range(10)).step(lambda x, t: x, x, 2, 5)
    with pytest.raises(ValueError, match=r"eta is 0\.5: the way up is deterministic; encode with eta=0"):
        SourceInversion(schedule, range(10), eta=0.5).step(lambda x, t: x, x, 2, 3)
