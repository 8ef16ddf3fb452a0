"""Guidance: recorded runs with a classifier and without, and closed forms of both."""

from itertools import pairwise

import pytest
import torch
from golden_samplers import (
    Counted,
    Replay,
    assert_golden,
    column,
    down,
    gaussian,
    make_model,
    openai_case,
    recorded_gradient,
    worst,
    xyf_case,
)

from diffusions import (
    DDIM,
    DDPM,
    EVERYWHERE,
    DPMSolver,
    Within,
    classifier_free,
    classifier_gradient,
    decode,
    encode,
    make_schedule,
)

PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).double()


X = normal(0, 4, 1)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", ["guided_p_large_1000to20", "guided_p_learned_1000to20"])
def test_ddpm_with_openai_s_classifier(case, dtype, tolerance):
    meta, golden, schedule, timesteps = openai_case(case)
    process = DDPM(schedule, timesteps, var_type=meta["var_type"], clip_denoised=meta["clip_denoised"])
    model, noise = make_model(meta["model"], schedule, golden["y"]), Replay(golden["noise"], dtype)
    guided = process.guided(recorded_gradient(meta["cond"], golden["y"]))
    assert process.gradient is None  # it stays as it was
    states = down(guided.start(model, noise), golden["x_init"].to(dtype), 20)
    assert states.dtype == dtype
    assert_golden(states.double(), golden["traj.f64"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", ["guided_ddim_eta0", "guided_ddim_eta05_noclip"])
def test_ddim_with_openai_s_classifier(case, dtype, tolerance):
    meta, golden, schedule, timesteps = openai_case(case)
    process = DDIM(schedule, timesteps, eta=meta["eta"], clip_denoised=meta["clip_denoised"])
    model, noise = make_model(meta["model"], schedule, golden["y"]), Replay(golden.get("noise", []), dtype)
    guided = process.guided(recorded_gradient(meta["cond"], golden["y"]))
    states = down(guided.start(model, noise), golden["x_init"].to(dtype), 25)
    assert_golden(states.double(), golden["traj.f64"], tolerance)


@pytest.mark.parametrize("case", ["cfg_ddim_scale3", "cfg_ddpm_scale2_small"])
@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
def test_classifier_free_as_xyf(case, dtype, tolerance):
    """The raw predictions are combined, then x_0 is clipped once."""
    meta, golden, schedule, timesteps = xyf_case(case)
    model = classifier_free(*two_networks(meta, schedule), meta["guidance_scale"])
    process = DDIM(schedule, timesteps) if "eta" in meta else DDPM(schedule, timesteps)
    noise = Replay(golden.get("noise", []), dtype)
    states = down(process.start(model, noise), golden["x_init"].to(dtype), 20)
    assert_golden(states.double(), golden["traj.f64"], tolerance)


def two_networks(meta, schedule):
    return make_model(meta["model"], schedule, torch.tensor(meta["y"])), make_model(meta["model"], schedule)


def test_classifier_free_where_xyf_s_later_version_clips_each_network_first():
    """It extrapolates from one clipped x_0 to another, which are nearer to each other than the raw ones."""
    meta, golden, schedule, timesteps = xyf_case("head_ddimcfg_scale3")
    process, networks = DDIM(schedule, timesteps), two_networks(meta, schedule)

    def clipped(network):
        level = {t: k for k, t in enumerate(timesteps, start=1)}
        return lambda x, t: process.predict(network, x, level[int(t[0])], clip=True).eps

    theirs = classifier_free(*map(clipped, networks), 3.0)
    states = down(process.start(theirs), golden["x_init"].double(), 20)
    assert_golden(states, golden["traj.f64"])
    ours = down(process.start(classifier_free(*networks, 3.0)), golden["x_init"].double(), 20)
    assert 0.01 < worst(ours[-1] - states[-1]) < 1


SCHEDULE = make_schedule("cosine", 100)


@pytest.mark.parametrize("prediction", ["eps", "x0", "v"])
def test_classifier_free_in_every_form_of_prediction(prediction):
    """All are affine in one another, so that guided networks of all forms say the same."""
    networks = [[gaussian(SCHEDULE, m, 0.4, form) for m in (0.5, -0.1)] for form in ("eps", prediction)]
    found = [
        DDIM(SCHEDULE, range(9, 100, 10), form).predict(classifier_free(*pair, 2.5), X, 6, clip=False)
        for form, pair in zip(("eps", prediction), networks, strict=True)
    ]
    torch.testing.assert_close(found[1][:2], found[0][:2], rtol=0, atol=1e-12)


def test_classifier_free_at_scales_0_and_1_is_one_of_the_networks():
    conditional, unconditional = Counted(gaussian(SCHEDULE, 0.5, 0.3)), Counted(gaussian(SCHEDULE, -0.1, 0.3))
    t = torch.full((4,), 60)
    assert torch.equal(classifier_free(conditional, unconditional, 1)(X, t), conditional(X, t))
    assert torch.equal(classifier_free(conditional, unconditional, 0)(X, t), unconditional(X, t))
    assert (len(conditional.timesteps), len(unconditional.timesteps)) == (3, 3)


def test_a_model_leans_within_an_interval_of_noise_alone():
    """Above its first end, up to its second; what does not lean is not asked elsewhere."""
    process = DDIM(SCHEDULE, range(9, 100, 10))
    plain, away = Counted(gaussian(SCHEDULE, 0.5, 0.3)), Counted(gaussian(SCHEDULE, -0.1, 0.3))
    leaning = classifier_free(plain, away, 3.0)
    low, high = process.sigma(3), process.sigma(7)
    states = down(process.start(Within(leaning, plain, (low, high))), X, 10)
    assert away.timesteps == [69, 59, 49, 39]
    assert plain.timesteps == [*range(99, 0, -10)]
    for k, (state, reached) in enumerate(pairwise(states)):
        model = leaning if 3 < 10 - k <= 7 else plain
        assert torch.equal(process.step(model, state, 10 - k, 9 - k), reached)
    everywhere = down(process.start(Within(leaning, plain, EVERYWHERE)), X, 10)
    assert torch.equal(everywhere[-1], down(process.start(leaning), X, 10)[-1])


@pytest.mark.parametrize("with_variance", [False, True])
def test_classifier_free_leaves_the_variance_of_the_conditional_network(with_variance):
    def conditional(x, t):
        return torch.cat([0.5 * x, x + 7], dim=1)

    def unconditional(x, t):
        return torch.cat([0.1 * x, x - 7], dim=1) if with_variance else 0.1 * x

    output = classifier_free(conditional, unconditional, 3)(X, torch.zeros(4))
    assert output.shape == (4, 2)
    torch.testing.assert_close(output, torch.cat([1.3 * X, X + 7], dim=1))
    assert classifier_free(lambda x, t: 0.5 * x, conditional, 3)(X, torch.zeros(4)).shape == (4, 1)


WEIGHTS, MEANS, STD = (0.2, 0.5, 0.3), (-0.7, 0.1, 0.6), 0.25


def mixture(x, t):
    """The exact eps of data of three classes, N(m_k, STD^2)."""
    spec = {"kind": "gmm", "w": WEIGHTS, "m": MEANS, "s": [STD] * 3}
    return make_model(spec, SCHEDULE)(x, t)


def bayes(x, t):
    """The exact classifier of its noised data, with logits that are off by what softmax ignores."""
    A = column(SCHEDULE.alphas_cumprod[t], x)
    means, weights = torch.tensor([MEANS, WEIGHTS], dtype=torch.float64)
    return weights.log() - (x - A.sqrt() * means) ** 2 / (2 * (A * STD**2 + 1 - A)) + 5 * x


@pytest.mark.parametrize("label", [0, 1, 2])
@pytest.mark.parametrize("method", ["ddim", "stochastic ddim", "dpm", "stochastic dpm"])
def test_a_mixture_guided_by_its_exact_classifier_is_one_component(method, label):
    """Bayes: score of the mixture + grad log p(y | x_t) = score of N(m_y, STD^2)."""
    timesteps, noise = range(9, 100, 10), normal(1, 10, 4, 1)
    process = {
        "ddim": DDIM(SCHEDULE, timesteps, clip_denoised=False),
        "stochastic ddim": DDIM(SCHEDULE, timesteps, eta=1.0, clip_denoised=False),
        "dpm": DPMSolver(SCHEDULE, timesteps, clip_denoised=False),
        "stochastic dpm": DPMSolver(SCHEDULE, timesteps, stochastic=True, clip_denoised=False),
    }[method]
    guided = process.guided(classifier_gradient(bayes, label, 1.0))
    component = gaussian(SCHEDULE, MEANS[label], STD)
    actual = down(guided.start(mixture, iter(noise).__next__), X, 10)
    expected = down(process.start(component, iter(noise).__next__), X, 10)
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large", "learned_range"])
def test_ddpm_s_mean_moves_by_the_variance_times_the_gradient(var_type):
    """Its variance, learned or not, stays; clipping comes before."""
    process = DDPM(SCHEDULE, range(9, 100, 10), var_type=var_type)
    gradient = classifier_gradient(bayes, 2, 3.0)

    def model(x, t):
        return torch.cat([mixture(x, t), 0.4 * x.tanh()], dim=1)

    learned = process.predict(model, X, 5, clip=True).variance
    variance = process.variance(5, learned)
    z = normal(1, 4, 1)
    moved = process.guided(gradient).step(model, X, 5, 4, lambda: z) - process.step(model, X, 5, 4, lambda: z)
    expected = variance * gradient(X, torch.full((4,), 49))
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-13)
    guided = process.guided(gradient).predict_guided(model, X, 5)
    assert torch.equal(guided.variance, learned)


def test_encoding_is_never_guided_and_decoding_is():
    process = DDIM(SCHEDULE, range(9, 100, 10))
    guided = process.guided(classifier_gradient(bayes, 0, 2.0))
    latent = encode(guided, mixture, X)
    assert torch.equal(latent, encode(process, mixture, X))
    assert worst(decode(guided, mixture, latent) - decode(process, mixture, latent)) > 0.1
    assert torch.equal(decode(guided.guided(None), mixture, latent), decode(process, mixture, latent))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_the_gradient_of_a_linear_classifier(mode):
    """d/dx log softmax(W x)_y = W_y - sum_k p_k W_k; its weights gather no gradient."""
    linear = torch.nn.Linear(6, 3, dtype=torch.float64)
    told = []

    def classifier(x, t):
        told.append(t.tolist())
        return linear(x.flatten(1))

    gradient = classifier_gradient(classifier, labels=1, scale=2.5)
    with mode():
        x = normal(1, 5, 2, 3)
        found = gradient(x, torch.arange(5))
        assert (x + found).isfinite().all()
    W = linear.weight.detach()
    p = (x.flatten(1) @ W.T + linear.bias.detach()).softmax(dim=1)
    torch.testing.assert_close(found, 2.5 * (W[1] - p @ W).view(5, 2, 3), rtol=0, atol=1e-13)
    assert told == [[0, 1, 2, 3, 4]]
    assert linear.weight.grad is None
    assert not found.requires_grad
    assert not x.requires_grad
