"""DDIB: recorded runs, the closed form between Gaussians, orders of convergence, and cycles."""

import math

import pytest
import torch
from golden_samplers import (
    Counted,
    assert_golden,
    ddpm_schedule,
    down,
    gaussian,
    make_model,
    openai_schedule,
    orders,
    read_case,
    recorded_gradient,
    walk,
    worst,
)

from diffusions import DDIM, DDPM, decode, encode, make_schedule, respace, translate

A_DATA, B_DATA = (0.4, 0.3), (-0.5, 0.2)  # mean and std
X = torch.linspace(-0.3, 1.1, 15, dtype=torch.float64).view(5, 3)


def ddim(schedule, K, **options):
    timesteps = respace("uniform-linspace", schedule.num_timesteps, K)
    return DDIM(schedule, timesteps, clip_denoised=False, **options)


def recorded(case):
    meta, golden = read_case("ddib", case)
    schedule = openai_schedule("linear", 1000)
    process = DDIM(
        schedule, respace({"all": "none"}.get(meta["spacing"], meta["spacing"]), 1000), clip_denoised=False
    )
    source, target = (make_model(meta["model"], schedule, golden[key]) for key in ("y_source", "y_target"))
    return process, golden, source, target


def encode_as_the_authors(process, model, x):
    """Evaluated at the level one leaves, from level 1 to the A = 0 above level K."""

    def hop(x, j, k):
        x_0, eps, _ = process.predict(model, x, j, clip=False)
        return process.move(x_0, eps, j, k) if k <= process.num_steps else eps

    return walk(hop, x, range(1, process.num_steps + 2))


@pytest.mark.parametrize("case", ["cycle_ddim50_same_label", "cycle_full1000_same_label"])
def test_the_authors_runs_from_the_same_parts(case):
    process, golden, source, target = recorded(case)
    states = encode_as_the_authors(process, source, golden["x_source"].double())
    assert_golden(states[-1], golden["latent.f64"])
    back = down(lambda x, j, k: process.step(target, x, j, k), states[-1], process.num_steps)
    assert_golden(back[-1], golden["target.f64"])
    if "encode_traj.f64" in golden:
        assert_golden(states, golden["encode_traj.f64"])
        assert_golden(back, golden["decode_traj.f64"])


def test_the_authors_translation_guided_by_a_classifier():
    """Only the decoding is guided; it is clipped, where the encoding is not."""
    process, golden, source, target = recorded("translate_ddim25_guided")
    states = encode_as_the_authors(process, source, golden["x_source"].double())
    assert_golden(states, golden["encode_traj.f64"])
    assert_golden(states[-1], golden["latent.f64"])
    gradient = recorded_gradient(read_case("ddib", "translate_ddim25_guided")[0]["cond"], golden["y_target"])
    clipping = DDIM(openai_schedule("linear", 1000), process.timesteps).guided(gradient)
    back = down(clipping.start(target), states[-1], 25)
    assert_golden(back, golden["decode_traj.f64"])
    assert_golden(back[-1], golden["target.f64"])


@pytest.mark.parametrize(
    ("case", "theirs"), [("cycle_ddim50_same_label", 0.105), ("cycle_full1000_same_label", 0.0104)]
)
def test_ours_returns_closer_than_the_authors(case, theirs):
    """They decode from level K what they encoded to A = 0, and count the image as level 1."""
    process, golden, source, target = recorded(case)
    x = golden["x_source"].double()
    assert worst(golden["target.f64"] - x) == pytest.approx(theirs, rel=0.01)
    assert worst(translate(process, source, target, x) - x) < 0.8 * theirs


def exact(schedule, x, data, level_A):
    """Follow the ODE of N(m, s^2) from an image to A: (x - sqrt(A) m) / sqrt(A s^2 + 1 - A) is constant."""
    (m, s), A = data, level_A
    return math.sqrt(A) * m + math.sqrt(A * s**2 + 1 - A) / s * (x - m)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_translation_tends_to_the_closed_form_at_first_order(prediction):
    """y = m_B + (m_A - m_B) s_B / w_B + (s_B / s_A) (x - m_A) w_A / w_B, w^2 = s^2 + sigma_K^2."""
    schedule = ddpm_schedule("linear", 1000)
    (m_A, s_A), (m_B, s_B) = A_DATA, B_DATA
    models = [gaussian(schedule, m, s, prediction) for m, s in (A_DATA, B_DATA)]
    errors = []
    for K in (50, 100, 200):
        process = ddim(schedule, K, prediction=prediction)
        S = process.sigma(K)
        w_A, w_B = math.hypot(s_A, S), math.hypot(s_B, S)
        closed = m_B + (m_A - m_B) * s_B / w_B + s_B / s_A * (X - m_A) * w_A / w_B
        errors.append(worst(translate(process, *models, X) - closed))
    assert errors[-1] < 0.025
    assert orders(errors) == pytest.approx([1, 1], abs=0.15)


def test_each_way_is_of_first_order():
    schedule = ddpm_schedule("linear", 1000)
    model = gaussian(schedule, *A_DATA)
    up, way_down = [], []
    for K in (50, 100, 200):
        process = ddim(schedule, K)
        latent = exact(schedule, X, A_DATA, process.levels[K].signal ** 2)
        up.append(worst(encode(process, model, X) - latent))
        way_down.append(worst(decode(process, model, latent) - X))
    assert orders(up) == pytest.approx([1, 1], abs=0.15)
    assert orders(way_down) == pytest.approx([1, 1], abs=0.15)


@pytest.mark.parametrize("schedule", [ddpm_schedule("linear", 1000), make_schedule("cosine", 1000)])
@pytest.mark.parametrize("other", ["x0", "v"])
def test_all_forms_of_one_network_encode_alike(schedule, other):
    """The output is read with A of the level that the network was told, x_0 with A of the state's."""
    latent, latent_of_other = (
        encode(ddim(schedule, 25, prediction=form), as_form(schedule, form), X) for form in ("eps", other)
    )
    torch.testing.assert_close(latent_of_other, latent, rtol=0, atol=1e-10)


def as_form(schedule, form):
    """One eps network, told in another form of its own (x_t, t)."""
    model = gaussian(schedule, *A_DATA)

    def told(x, t):
        A = schedule.alphas_cumprod[t].view(-1, 1)
        eps = model(x, t)
        x_0 = (x - (1 - A).sqrt() * eps) / A.sqrt()
        return {"eps": eps, "x0": x_0, "v": A.sqrt() * eps - (1 - A).sqrt() * x_0}[form]

    return told


def test_round_trips_and_cycles_close_with_more_steps():
    schedule = make_schedule("cosine", 1000)
    source, target = gaussian(schedule, *A_DATA), gaussian(schedule, *B_DATA)
    same, cycle = [], []
    for K in (25, 50, 100, 200):
        process = ddim(schedule, K)
        same.append(worst(translate(process, source, source, X) - X))
        there = translate(process, source, target, X)
        cycle.append(worst(translate(process, target, source, there) - X))
    for errors in (same, cycle):
        assert errors == sorted(errors, reverse=True)
        assert errors[-1] < errors[0] / 4
    assert same[-1] < 0.02


def test_translate_is_encode_then_decode_with_2k_calls():
    process = DDIM(ddpm_schedule("linear", 100), [4, 30, 60, 99])
    source, target = Counted(lambda x, t: 0.2 * x), Counted(lambda x, t: 0.1 * x)
    y = translate(process, source, target, X)
    assert source.timesteps == [4, 30, 60, 99]
    assert target.timesteps == [99, 60, 30, 4]
    latent = encode(process, source, X)
    assert torch.equal(decode(process, target, latent), y)


def test_encoding_is_never_clipped_and_decoding_where_asked():
    timesteps, schedule = range(4, 100, 5), ddpm_schedule("linear", 100)
    clipping, free = DDIM(schedule, timesteps), DDIM(schedule, timesteps, clip_denoised=False)
    model, x = gaussian(schedule, 0.0, 0.8), 2 * X
    latent = encode(clipping, model, x)
    assert torch.equal(latent, encode(free, model, x))
    assert decode(clipping, model, latent).abs().max() == 1
    assert decode(free, model, latent).abs().max() > 1.5


def test_a_process_that_does_not_run_upwards_is_refused():
    schedule, x = ddpm_schedule("linear", 10), torch.zeros(1, 1)
    with pytest.raises(ValueError, match="one level down, found a step from 0 to 1; use DDIM"):
        encode(DDPM(schedule, range(10)), lambda x, t: x, x)
    with pytest.raises(ValueError, match=r"eta is 0\.5: the way up is deterministic; encode with eta=0"):
        translate(DDIM(schedule, range(10), eta=0.5), lambda x, t: x, lambda x, t: x, x)
