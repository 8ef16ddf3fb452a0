"""CycleDiffusion: what it gives back, its closed form between Gaussians, and the noise that it finds."""

import pytest
import torch
from golden_samplers import Replay, ddpm_schedule, gaussian, make_model, ve_gaussian, worst
from solver_cases import Calls, X

from diffusions import (
    DDPM,
    cycle_translate,
    make_schedule,
    make_ve_schedule,
    record_noise,
    replay_noise,
    respace,
)

SINE = {"kind": "sine", "a": 0.3, "b": 0.1, "c": 5.0, "d": 0.01, "e": 0.5}
SCHEDULES = {
    "linear": ddpm_schedule("linear", 1000),
    "cosine": make_schedule("cosine", 1000),
    "ve": make_ve_schedule(0.02, 50.0, 1000),
}


def exact(kind, mean, std):
    return ve_gaussian(mean, std) if kind == "ve" else gaussian(SCHEDULES[kind], mean, std)


def draws(shape, count, seed=0):
    """Noise that is the same for every process that draws it."""
    generator = torch.Generator().manual_seed(seed)
    return Replay(torch.randn(count, *shape, generator=generator, dtype=torch.float64), torch.float64)


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("clip", [True, False])
@pytest.mark.parametrize("kind", SCHEDULES)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)])
def test_the_same_model_gives_the_image_back(kind, clip, var_type, dtype, tolerance):
    """At any number of steps and with any network, even where it clips, as both ways clip alike.

    Rounded as the largest numbers are that were met: a wrong network's x_0 at sigma 20291 are large.
    """
    network = make_model(SINE | {"var_p": 1.0, "var_q": 0.1}, SCHEDULES["linear"])
    x = X.to(dtype)
    for K in (1, 10, 50):
        timesteps = respace("uniform-linspace", 1000, K)
        process = DDPM(SCHEDULES[kind], timesteps, var_type=var_type, clip_denoised=clip)
        recording = record_noise(process, network, x, draws(x.shape, K))
        back = replay_noise(process, network, recording)
        assert back.dtype == dtype
        assert worst(back - x) < tolerance * (1 + worst(recording.noises) + worst(recording.x_t))


@pytest.mark.parametrize("independent", [False, True])
@pytest.mark.parametrize("respacing", ["uniform-linspace", "quad"])
@pytest.mark.parametrize("kind", SCHEDULES)
def test_between_gaussians_of_one_width_it_is_a_shift_whatever_the_noise(kind, respacing, independent):
    """y = x + (m_B - m_A) (1 - s^2 / (s^2 + sigma_K^2)): the means shift all states, the noises are equal."""
    s, m_A, m_B = 0.3, 0.4, -0.5
    for K, seed in [(1, 0), (5, 1), (5, 2), (40, 3)]:
        timesteps = respace(respacing, 1000, K)
        process = DDPM(SCHEDULES[kind], timesteps, clip_denoised=False)
        models = [exact(kind, m, s) for m in (m_A, m_B)]
        y = cycle_translate(process, *models, X, draws(X.shape, K, seed), independent)
        expected = X + (m_B - m_A) * (1 - s**2 / (s**2 + process.sigma(K) ** 2))
        torch.testing.assert_close(y, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("kind", ["linear", "ve"])
def test_images_become_images_of_the_other_domain(kind):
    """Where the widths differ the result depends on the noise; its mean and width tend to those of B."""
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.3 * torch.randn(4, 20_000, generator=generator, dtype=torch.float64)
    process = DDPM(SCHEDULES[kind], range(0, 1000, 5), clip_denoised=False)
    y = cycle_translate(process, exact(kind, 0.4, 0.3), exact(kind, -0.5, 0.2), x, draws(x.shape, 200))
    assert y.mean().item() == pytest.approx(-0.5, abs=0.005)
    assert y.std().item() == pytest.approx(0.2, rel=0.03)
    together = torch.stack([x.flatten(), y.flatten()])
    assert 0.9 < torch.corrcoef(together)[0, 1] < 0.99  # DDIB's is 1, two unrelated samples' 0


def test_the_states_follow_the_forward_process():
    """Sampled down from x_K, the states have the forward marginals: x_k = signal x_0 + noise z."""
    process, x = DDPM(SCHEDULES["linear"], range(99, 1000, 100)), torch.full((1, 100_000), 0.6)
    told = []

    def model(x_t, t):
        told.append(x_t)
        return 0 * x_t

    generator = torch.Generator().manual_seed(0)
    record_noise(process, model, x, lambda: torch.randn(x.shape, generator=generator))
    for level, state in zip(range(10, 0, -1), told, strict=True):
        here = process.levels[level]
        assert state.mean().item() == pytest.approx(0.6 * here.signal, abs=0.015)
        assert state.std().item() == pytest.approx(here.noise, rel=0.015)
    correlations = torch.corrcoef(torch.cat(told))
    expected = [  # that of x_k and x_j, j > k: (signal_j / signal_k) noise_k / noise_j, x_0 being fixed
        process.levels[j].signal
        * process.levels[k].noise
        / process.levels[k].signal
        / process.levels[j].noise
        for k, j in [(1, 2), (4, 7), (1, 10)]
    ]
    found = [correlations[10 - k, 10 - j].item() for k, j in [(1, 2), (4, 7), (1, 10)]]
    assert found == pytest.approx(expected, abs=0.015)


def test_the_noise_of_images_that_the_model_would_make_is_standard_normal():
    """With all steps kept, mean 0, unit variance in units of DDPM's, and no trace of the step before."""
    generator = torch.Generator().manual_seed(0)
    x = 0.4 + 0.3 * torch.randn(1, 20_000, generator=generator, dtype=torch.float64)
    process = DDPM(SCHEDULES["linear"], range(1000), clip_denoised=False)
    recording = record_noise(
        process, exact("linear", 0.4, 0.3), x, lambda: torch.randn(x.shape, generator=generator).double()
    )
    assert recording.x_t.std().item() == pytest.approx(1, abs=0.02)
    units = [process.variance(level) ** 0.5 for level in range(1000, 1, -1)]
    z = recording.noises[:-1, 0] / torch.tensor(units, dtype=torch.float64)[:, None]
    assert z.mean(1).abs().max() < 0.04
    assert (z.std(1) - 1).abs()[:950].max() < 0.03
    neighbours = (z[1:950] * z[:949]).mean(1)
    assert neighbours.abs().max() < 0.04


def test_the_recording_by_hand():
    """noise_k = x_{k-1} - mean_k(x_k), x_{k-1} from the posterior; the last is what is left to the image."""
    schedule = SCHEDULES["linear"]
    process, model = DDPM(schedule, [100, 400, 900], clip_denoised=False), make_model(SINE, schedule)
    z = torch.randn(3, 2, 3, generator=torch.Generator().manual_seed(0)).double()
    x = torch.randn(2, 3, generator=torch.Generator().manual_seed(1)).double()
    recording = record_noise(process, model, x, iter(z).__next__)
    A = [1.0, *schedule.alphas_cumprod[[100, 400, 900]].tolist()]
    state = A[3] ** 0.5 * x + (1 - A[3]) ** 0.5 * z[0]
    torch.testing.assert_close(recording.x_t, state, rtol=0, atol=1e-13)
    for k in (3, 2, 1):
        b = 1 - A[k] / A[k - 1]

        def mean(x_0, x_k, k=k, b=b):
            return (A[k - 1] ** 0.5 * b * x_0 + (1 - b) ** 0.5 * (1 - A[k - 1]) * x_k) / (1 - A[k])

        below = mean(x, state)
        if k > 1:
            below = below + (b * (1 - A[k - 1]) / (1 - A[k])) ** 0.5 * z[4 - k]
        eps = model(state, torch.full((2,), process.timesteps[k - 1]))
        expected = below - mean((state - (1 - A[k]) ** 0.5 * eps) / A[k] ** 0.5, state)
        torch.testing.assert_close(recording.noises[3 - k], expected, rtol=0, atol=1e-12)
        state = below
    torch.testing.assert_close(state, x, rtol=0, atol=1e-12)


def test_only_the_replay_is_guided():
    schedule = SCHEDULES["linear"]
    process, model = DDPM(schedule, range(99, 1000, 100), clip_denoised=False), make_model(SINE, schedule)
    guided = process.guided(lambda x, t: 0.5 + 0 * x)
    free, leaning = (record_noise(p, model, X, draws(X.shape, 10)) for p in (process, guided))
    assert torch.equal(free.noises, leaning.noises)
    assert (replay_noise(guided, model, free) - X).min() > 0.05


def test_calls_and_draws():
    process = DDPM(ddpm_schedule("linear", 100), [4, 30, 60, 99])
    source, target = Calls(lambda x, t: 0.2 * x), Calls(lambda x, t: 0.1 * x)
    noise = draws(X.shape, 4)
    cycle_translate(process, source, target, X, noise)
    assert source.told == target.told == [99, 60, 30, 4]
    assert noise.used == 4


def test_rows_of_a_batch_do_not_meet():
    process, model = DDPM(SCHEDULES["linear"], range(99, 1000, 100)), make_model(SINE, SCHEDULES["linear"])
    z = torch.randn(10, 3, 2, 4, generator=torch.Generator().manual_seed(0))
    x = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)
    together = record_noise(process, model, x, iter(z).__next__)
    for row in range(3):
        alone = record_noise(process, model, x[row, None], iter(z[:, row, None]).__next__)
        assert torch.equal(alone.noises[:, 0], together.noises[:, row])
        assert torch.equal(
            replay_noise(process, model, alone)[0], replay_noise(process, model, together)[row]
        )


def test_the_state_keeps_its_precision_and_inputs_are_not_changed():
    process = DDPM(ddpm_schedule("linear", 100), range(4, 100, 5))
    x = torch.full((2, 3, 2, 2), 0.25).half()
    copy = x.clone()

    def model(x_t, t):
        return (0.3 * x_t).bfloat16()

    recording = record_noise(process, model, x, draws(x.shape, 20))
    kept = recording.noises.clone()
    assert recording.noises.shape == (20, 2, 3, 2, 2)
    assert recording.x_t.dtype == recording.noises.dtype == torch.float32
    assert replay_noise(process, model, recording).dtype == torch.float32
    assert torch.equal(x, copy)
    assert torch.equal(recording.noises, kept)


def test_a_recording_belongs_to_its_number_of_steps():
    schedule = ddpm_schedule("linear", 100)
    recording = record_noise(DDPM(schedule, range(10)), lambda x, t: x, X, draws(X.shape, 10))
    with pytest.raises(ValueError, match="the recording has 10 steps, this process 20; replay it with the"):
        replay_noise(DDPM(schedule, range(20)), lambda x, t: x, recording)
