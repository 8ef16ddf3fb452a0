"""BDIA: what it gives back exactly and what not, its formula, and its order of convergence."""

import math

import pytest
import torch
from golden_samplers import ddpm_schedule, down, gaussian, make_model, orders, walk, worst
from solver_cases import A_DATA, B_DATA, Calls, Problem, X, errors

from diffusions import BDIA, DDIM, Heun, decode, encode, make_schedule, make_ve_schedule, respace, translate
from diffusions.process import as_state
from tools.studies.compare_inversions import A, B, Network

SINE = {"kind": "sine", "a": 0.3, "b": 0.1, "c": 5.0, "d": 0.01, "e": 0.5}
SCHEDULES = {
    "linear": ddpm_schedule("linear", 1000),
    "cosine": make_schedule("cosine", 1000),
    "ve": make_ve_schedule(0.02, 100.0, 1000),
}


class Points:
    """The exact network of some points, on any schedule."""

    def __init__(self, domain, process, std=0.15):
        self._domain, self.calls = type(domain)(domain.means, std), 0
        self._levels = {level.condition: level for level in process.levels[1:]}

    def __call__(self, x, t):
        self.calls += 1
        here = min(self._levels.values(), key=lambda level: abs(level.condition - t[0].item()))
        return self._domain.eps(x / here.signal, here.noise / here.signal)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-4)])
@pytest.mark.parametrize("respacing", ["uniform", "uniform-linspace", "uniform-trailing", "quad", "quad90"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_an_image_comes_back_exactly(kind, respacing, dtype, tolerance):
    """At any number of steps, on data far sharper than they are.

    The cosine's sigma of 20291 costs float32 more: there its points are asked about x / signal.
    """
    for K, std in [(1, 0.15), (2, 0.15), (10, 0.02), (100, 0.02), (100, 0.15)]:
        process = BDIA(SCHEDULES[kind], respace(respacing, 1000, K), clip_denoised=False)
        network = Points(A, process, std)
        x = A.sample(32).to(dtype)
        back = translate(process, network, network, x)
        assert back.dtype == dtype
        assert worst(back - x) < tolerance * (3 if kind == "cosine" and std < 0.1 else 1)


@pytest.mark.parametrize("kind", SCHEDULES)
def test_every_step_is_undone_by_its_mirror(kind):
    """Over any number of levels, from any pair of states, with any network."""
    process = BDIA(SCHEDULES[kind], respace("uniform", 1000, 10), clip_denoised=False)
    model = make_model(SINE, SCHEDULES["linear"])
    generator = torch.Generator().manual_seed(0)
    pair, image = (torch.randn(2, channels, 3, generator=generator).double() for channels in (4, 2))
    for source, target in [(3, 4), (4, 3), (1, 10), (10, 1), (7, 5)]:
        there = process.start(model)(pair, source, target)
        assert there.shape == pair.shape
        assert worst(process.start(model)(there, target, source) - pair) < 1e-9
    for level in (1, 10):
        assert worst(process.start(model)(process.start(model)(image, 0, level), level, 0) - image) < 1e-12


@pytest.mark.parametrize("kind", SCHEDULES)
def test_the_papers_formula(kind):
    """z_{i-1} = z_{i+1} - ((1 - g) (z_{i+1} - z_i) + g D(i -> i+1 | z_i)) + D(i -> i-1 | z_i), and back up.

    On a VE schedule in x / sqrt(1 + sigma^2).
    """
    schedule = SCHEDULES[kind]
    process = BDIA(schedule, respace("uniform", 1000, 10), clip_denoised=False)
    ddim, model = (
        DDIM(schedule, process.timesteps, clip_denoised=False),
        make_model(SINE, SCHEDULES["linear"]),
    )
    scale = [math.hypot(level.signal, level.noise) for level in process.levels]

    def increment(z, j, k):
        x = scale[j] * z
        _, eps, _ = ddim.predict(model, x, j, clip=False)
        x_0 = (x - ddim.levels[j].noise * eps) / ddim.levels[j].signal
        return ddim.move(x_0, eps, j, k) / scale[k] - z

    gamma = process.gamma
    assert 0.5 < gamma < 1
    start = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0)).double()
    states = down(process.start(model), start, 10, 1).chunk(2, dim=2)[0]
    z = {10 - i: state / scale[10 - i] for i, state in enumerate(states)}
    for i in range(9, 1, -1):
        expected = (
            z[i + 1]
            - ((1 - gamma) * (z[i + 1] - z[i]) + gamma * increment(z[i], i, i + 1))
            + increment(z[i], i, i - 1)
        )
        torch.testing.assert_close(z[i - 1], expected, rtol=0, atol=1e-11)
    up = walk(process.start(model), down(process.start(model), start, 10, 1)[-1], range(1, 11))
    for i, state in enumerate(up.chunk(2, dim=2)[0], start=1):
        torch.testing.assert_close(state / scale[i], z[i], rtol=0, atol=1e-9)


def test_one_step_is_ddims():
    """From two equal states it is DDIM's, and so is the one up from the image."""
    schedule = SCHEDULES["linear"]
    timesteps, model = range(9, 1000, 99), make_model(SINE, schedule)
    process, ddim = (method(schedule, timesteps, clip_denoised=False) for method in (BDIA, DDIM))
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(0)).double()
    for source, target in [(10, 9), (10, 2), (2, 1)]:
        state = process.start(model)(torch.cat([x, x], dim=1), source, target)
        expected = ddim.step(model, x, source, target)
        torch.testing.assert_close(state[:, :3], expected, rtol=0, atol=1e-12)
    up = process.start(model)(x, 0, 1)
    torch.testing.assert_close(up[:, :3], ddim.step(model, x, 0, 1), rtol=0, atol=1e-12)


def test_gamma():
    """The root of how much the noise falls in all, in units of the state, shared among the steps."""
    for kind, K in [("linear", 50), ("cosine", 20), ("ve", 100), ("linear", 1)]:
        process = BDIA(SCHEDULES[kind], respace("uniform-linspace", 1000, K))
        sine = [math.sin(math.atan(process.sigma(level))) for level in (1, K)]
        assert process.gamma**K == pytest.approx((sine[0] / sine[1]) ** 0.5, rel=1e-12)


class Leapfrog(BDIA):
    """BDIA with gamma = 1."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.gamma = 1.0


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("method", [Leapfrog, BDIA])
def test_orders_on_gaussian_data(kind, method):
    """Second; with the gamma of the class each way errs less at first, and tends to its order more slowly."""
    found = [errors(method, kind, K) for K in (40, 80, 160)]
    assert max(run["same"] for run in found) < 1e-12
    assert orders([run["translate"] for run in found]) == pytest.approx(
        [2, 2], abs=0.05 if method is Leapfrog else 0.25
    )
    assert orders([run["cycle"] for run in found]) == pytest.approx([4, 4], abs=0.3)
    if method is Leapfrog:
        for way in ("encode", "decode"):
            assert orders([run[way] for run in found]) == pytest.approx([2, 2], abs=0.05), way
    assert max(found[-1]["encode"], found[-1]["decode"], found[-1]["translate"]) < 2e-4


def test_far_closer_than_ddim_with_as_many_calls():
    bdia, ddim = errors(BDIA, "vp", 80), errors(DDIM, "vp", 80)
    for way in bdia:
        assert bdia[way] < ddim[way] / 100, way


def test_translation_of_points_is_as_good_as_heuns_and_its_cycle_better_than_ddims():
    """With about 200 calls; for a cycle, Heun is the better one."""
    schedule = SCHEDULES["linear"]
    x, found = A.sample(64), {}
    for method, K in [(BDIA, 100), (Heun, 50), (DDIM, 100)]:
        process = method(schedule, respace("quad90", 1000, K), clip_denoised=False)
        source, target = Network(A, schedule), Network(B, schedule)
        there = translate(process, source, target, x)
        S = process.sigma(K)
        truth = B.follow(A.follow(x, 0.0, S), S, 0.0)
        back = translate(process, target, source, there)
        found[method] = [(a - b).norm(dim=1).mean().item() for a, b in ((there, truth), (back, x))]
    assert found[BDIA][0] < 1.2 * found[Heun][0]
    assert found[BDIA][0] < found[DDIM][0] / 10
    assert found[BDIA][1] < found[DDIM][1] / 100


def test_a_latent_is_two_states_and_both_count():
    """Decoded with either of them doubled, the image does not come back exactly, but nearly."""
    problem = Problem("vp", 40)
    process, model = problem.process(BDIA), problem.model(A_DATA)
    latent = encode(process, model, X)
    assert latent.shape == (5, 6)
    x, z = latent.chunk(2, dim=1)
    assert worst(decode(process, model, latent) - X) < 1e-12
    for half in (x, z):
        assert 1e-7 < worst(decode(process, model, torch.cat([half, half], dim=1)) - X) < 1e-3
    other = decode(process, problem.model(B_DATA), latent)
    assert other.shape == X.shape
    assert worst(other - problem.translated(X)) < 1e-3


def test_calls():
    """K + 1 each way: a walk asks once about each state."""
    process = BDIA(ddpm_schedule("linear", 100), [4, 30, 60, 99])
    source, target = Calls(lambda x, t: 0.2 * x), Calls(lambda x, t: 0.1 * x)
    translate(process, source, target, X)
    assert source.told == [4, 4, 30, 60, 99]
    assert target.told == [99, 60, 30, 4, 4]


def test_a_walk_asks_again_about_a_state_that_is_not_its_own():
    process = BDIA(ddpm_schedule("linear", 100), [4, 30, 60, 99], clip_denoised=False)
    model = Calls(lambda x, t: 0.2 * x.sin())
    step = process.start(model)
    state = step(X, 0, 1)
    changed = step(state + 0.1, 1, 2)
    assert model.told == [4, 4, 4, 30]
    assert torch.equal(changed, process.start(model)(state + 0.1, 1, 2))
    turned = step(changed, 2, 1)  # the way down clips and leans, so its answer may be another one
    assert model.told[6:] == [30, 4]
    assert worst(turned - state - 0.1) < 1e-12


def test_each_walk_remembers_its_own():
    process, model = BDIA(ddpm_schedule("linear", 100), range(4, 100, 5)), lambda x, t: 0.2 * x.sin()
    alone = encode(process, model, X)
    one, other, x, y = process.start(model), process.start(model), X, 2 * X
    for k in range(process.num_steps):
        x, y = one(x, k, k + 1), other(y, k, k + 1)
    assert torch.equal(x, alone)


def test_encoding_is_never_clipped_or_guided_and_decoding_is():
    schedule = ddpm_schedule("linear", 100)
    options = {"schedule": schedule, "timesteps": range(4, 100, 5)}
    clipping, free = BDIA(**options), BDIA(**options, clip_denoised=False)
    guided = clipping.guided(lambda x, t: 0.3 + 0 * x)
    model, x = gaussian(schedule, 0.0, 0.8), 2 * X
    latent = encode(clipping, model, x)
    assert torch.equal(latent, encode(free, model, x))
    assert torch.equal(latent, encode(guided, model, x))
    assert decode(clipping, model, latent).abs().max() == 1
    assert decode(free, model, latent).abs().max() > 1.5
    assert (decode(guided, model, latent) - decode(clipping, model, latent)).max() > 0.05


def test_where_nothing_is_clipped_clipping_changes_nothing():
    schedule = ddpm_schedule("linear", 100)
    model = gaussian(schedule, 0.0, 0.3)
    process = BDIA(schedule, range(4, 100, 5))
    assert worst(translate(process, model, model, X / 2) - X / 2) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_rows_of_a_batch_do_not_meet(dtype):
    process, model = BDIA(SCHEDULES["linear"], range(9, 1000, 99)), make_model(SINE, SCHEDULES["linear"])
    x = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0)).to(dtype)
    together = encode(process, model, x)
    assert together.shape == (3, 4, 4, 4)
    for row in range(3):
        alone = encode(process, model, x[row, None])
        assert torch.equal(alone[0], together[row])
        assert torch.equal(decode(process, model, alone)[0], decode(process, model, together)[row])


def test_the_state_keeps_its_precision_and_inputs_are_not_changed():
    process = BDIA(ddpm_schedule("linear", 100), range(4, 100, 5))
    for given in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.full((2, 3, 2, 2), 0.25, dtype=given)
        copy = x.clone()
        latent = encode(process, lambda x, t: (0.3 * x).bfloat16(), x)
        assert latent.dtype == as_state(x).dtype
        kept = latent.clone()
        assert decode(process, lambda x, t: (0.3 * x).half(), latent).dtype == as_state(x).dtype
        assert torch.equal(x, copy)
        assert torch.equal(latent, kept)


def test_everything_stays_on_the_device_without_reading_a_value():
    process, x = BDIA(ddpm_schedule("linear", 100), range(4, 100, 5)), torch.zeros(2, 3, 4, 4, device="meta")
    assert translate(process, lambda x, t: 0.3 * x, lambda x, t: 0.2 * x, x).device.type == "meta"


@pytest.mark.parametrize(
    ("shape", "source", "target", "message"),
    [
        ((1, 2), 2, 2, "a step from level 2 to itself; give two different levels"),
        ((1, 2), 4, 1, "level 4: this process has levels 0 to 3"),
        ((1, 2), 1, -1, "level -1: this process has levels 0 to 3"),
        (
            (1, 3),
            3,
            2,
            "two on the channel axis, found 3 channels; encode with BDIA, or double a single",
        ),
    ],
)
def test_steps_are_checked(shape, source, target, message):
    step = BDIA(ddpm_schedule("linear", 10), [0, 5, 9]).start(lambda x, t: x)
    with pytest.raises(ValueError, match=message):
        step(torch.zeros(shape), source, target)


def test_other_refusals():
    schedule, x = ddpm_schedule("linear", 10), torch.zeros(1, 2)
    with pytest.raises(ValueError, match="unknown prediction 'noise', choose one of eps"):
        BDIA(schedule, range(10), "noise")
    with pytest.raises(NotImplementedError, match="BDIA has no step of its own; use start"):
        BDIA(schedule, range(10)).step(lambda x, t: x, x, 2, 1)
