"""SDEdit with masks, strengths and repeats: what is kept, what is drawn, and the moments of the result."""

import pytest
import torch
from golden_samplers import Replay, affine_parts, ddpm_schedule, gaussian, make_model, ve_score

from diffusions import (
    DDIM,
    DDPM,
    DPMSolver,
    PredictorCorrector,
    edit,
    make_schedule,
    make_ve_schedule,
    respace,
)

VP, VE = ddpm_schedule("linear", 1000), make_ve_schedule(0.02, 20.0, 6)
SINE = make_model({"kind": "sine", "a": 0.3, "b": 0.1, "c": 5.0, "d": 0.01, "e": 0.5}, VP)
SCORE = ve_score({"w": [0.3, 0.7], "m": [-0.6, 0.5], "s": [0.2, 0.35]})
STEPS = respace("uniform-trailing", 1000, 6)
CASES = {
    "ddpm": (DDPM(VP, STEPS), SINE),
    "ddim": (DDIM(VP, STEPS), SINE),
    "stochastic ddim": (DDIM(VP, STEPS, eta=0.7), SINE),
    "dpm": (DPMSolver(VP, STEPS), SINE),
    "stochastic dpm": (DPMSolver(VP, STEPS, stochastic=True), SINE),
    "ve": (DDPM(VE, range(6), "score", "fixed_large", clip_denoised=False), SCORE),
    "predictor-corrector": (PredictorCorrector(VE, range(6), "score", corrector_steps=1, snr=0.16), SCORE),
}
SHAPE = 2, 3, 4, 5


def normal(seed, *shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def draws(seed=1):
    """An endless supply of noise, that counts."""
    return Replay(normal(seed, 60, *SHAPE), torch.float64)


GUIDE = 0.8 * normal(0, *SHAPE).double().tanh()
SOFT = torch.tensor([0.0, 1.0, 0.0, 0.3, 0.9]).expand(2, 1, 4, 5)  # one channel for all


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("fixed_noise", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_what_is_kept_is_the_guide_bit_by_bit(name, fixed_noise, repeats):
    process, model = CASES[name]
    edited = edit(process, model, GUIDE, 4, draws(), mask=SOFT, fixed_noise=fixed_noise, repeats=repeats)
    assert edited.dtype == torch.float64
    kept = (SOFT == 0).expand(SHAPE)
    assert torch.equal(edited[kept], GUIDE[kept])
    assert (edited != GUIDE)[~kept].all()


@pytest.mark.parametrize("repeats", [1, 3])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("free", [{"mask": torch.ones(2, 1, 4, 5)}, {"strength": torch.ones(2, 3, 4, 5)}])
def test_all_free_is_no_mask_bit_by_bit(name, free, repeats):
    """With fixed noise nothing more is drawn either."""
    process, model = CASES[name]
    plain, masked = draws(), draws()
    expected = edit(process, model, GUIDE, 4, plain, repeats=repeats)
    actual = edit(process, model, GUIDE, 4, masked, fixed_noise=True, repeats=repeats, **free)
    assert torch.equal(actual, expected)
    assert masked.used == plain.used


@pytest.mark.parametrize("fixed_noise", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_composites_after_every_step(name, fixed_noise):
    """Step from k to k - 1, then x = mask x + (1 - mask) diffuse(guide, k - 1), and the next guide is x."""
    process, model = CASES[name]
    noise, guide, mask = draws(), GUIDE, SOFT.double()
    for _ in range(2):
        first = noise()
        x = process.diffuse(guide, 4, first)
        step = process.start(model, noise)
        for k in (3, 2, 1, 0):
            x = step(x, k + 1, k)
            z = first if fixed_noise or k == 0 else noise()
            x = mask * x + (1 - mask) * process.diffuse(guide, k, z)
        guide = x
    used = noise.used
    noise = draws()
    edited = edit(process, model, GUIDE, 4, noise, mask=SOFT, fixed_noise=fixed_noise, repeats=2)
    torch.testing.assert_close(edited, guide, rtol=0, atol=1e-12)
    assert noise.used == used


@pytest.mark.parametrize("repeats", [1, 2])
@pytest.mark.parametrize(
    ("name", "plain"),
    [("ddpm", 4), ("ddim", 1), ("dpm", 1), ("stochastic dpm", 4), ("predictor-corrector", 8)],
)
def test_draws(name, plain, repeats):
    """Fresh noise for what is kept costs a draw a step, but for the step to level 0; fixed costs none."""
    process, model = CASES[name]
    for options in ({"mask": SOFT}, {"strength": SOFT}, {"mask": SOFT, "strength": SOFT}):
        for fixed_noise, more in ((False, 3), (True, 0)):
            noise = draws()
            edit(process, model, GUIDE, 4, noise, fixed_noise=fixed_noise, repeats=repeats, **options)
            assert noise.used == repeats * (plain + more)
    unmasked = draws()
    edit(process, model, GUIDE, 4, unmasked, fixed_noise=False, repeats=repeats)
    assert unmasked.used == repeats * plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("level", [12, 13, 25, 49])
def test_a_pixel_of_less_strength_is_edited_from_its_own_level(level, dtype):
    """With fixed noise, bit by bit: j / level of the strength is an edit at level j with its steps' noise.

    The rounding of j / level, as of 7 / 13, must not make it j + 1.
    """
    process = DDPM(VP, respace("uniform", 1000, 50))
    guide, first, *steps = normal(3, level + 1, 1, 1, level + 1).double()
    strength = (torch.arange(level + 1, dtype=dtype) / level).view(1, 1, level + 1)
    noise = Replay([first, *steps], torch.float64)
    edited = edit(process, SINE, guide, level, noise, strength=strength, fixed_noise=True)
    assert edited[0, 0, 0] == guide[0, 0, 0]
    for j in range(1, level + 1):
        noise = Replay([first, *steps[level - j :]], torch.float64)
        assert edited[0, 0, j] == edit(process, SINE, guide, j, noise)[0, 0, j], j


def test_strengths_between_levels_start_at_the_next_and_masks_go_on_top():
    process, noise = CASES["ddpm"][0], normal(4, 6, 1, 1, 5)
    strength = torch.tensor([[[0.0, 0.3, 0.5, 0.51, 0.5]]])  # times 4: levels 0, 2, 2, 3, 2
    mask = torch.tensor([[[1.0, 1.0, 1.0, 1.0, 0.0]]])
    guide = GUIDE[:1, :1, 0, :]

    def run(level, used, **options):
        return edit(process, SINE, guide, level, Replay(used, torch.float64), **options)[0, 0]

    edited = run(4, noise, strength=strength, mask=mask, fixed_noise=True)
    second, third = run(2, [noise[0], *noise[3:]]), run(3, [noise[0], *noise[2:]])
    expected = torch.stack([guide[0, 0, 0], second[1], second[2], third[3], guide[0, 0, 4]])
    assert torch.equal(edited, expected)


MEAN, STD, START = 0.3, 0.4, -0.8
COSINE = make_schedule("cosine", 1000)


@pytest.mark.parametrize("method", [DDPM, DPMSolver])
@pytest.mark.parametrize("own", range(1, 11))
def test_moments_of_a_pixel_of_less_strength(method, own):
    """Those of a plain edit at its own level: the mean is m + (g - m) s^2 / (s^2 + sigma_k^2).

    The solver must not remember the x_0 of what was composited: the mean of level 5 would be -0.85 for -0.66.
    """
    options = {"stochastic": True} if method is DPMSolver else {}
    process = method(COSINE, respace("quad", 1000, 10), clip_denoised=False, **options)
    model, strength = gaussian(COSINE, MEAN, STD), torch.tensor([[own / 10]])
    found = affine_parts(process, model, START, 10, num_draws=19, strength=strength)
    share = STD**2 / (STD**2 + process.sigma(own) ** 2)
    assert found[0] == pytest.approx(MEAN + (START - MEAN) * share, abs=1e-12)
    assert found == pytest.approx(affine_parts(process, model, START, own), abs=1e-12)


@pytest.mark.parametrize("masked", [False, True])
def test_moments_after_repeats(masked):
    """Each repeat multiplies the distance from the mean by the same factor, and adds the same variance."""
    process, model = DDPM(COSINE, respace("quad", 1000, 10), clip_denoised=False), gaussian(COSINE, MEAN, STD)
    options = {"mask": torch.ones(1, 1), "fixed_noise": True} if masked else {}
    for level in (1, 4, 7):
        share = STD**2 / (STD**2 + process.sigma(level) ** 2)
        _, once = affine_parts(process, model, START, level)
        for repeats in (1, 2, 3):
            found = affine_parts(process, model, START, level, repeats * level, repeats=repeats, **options)
            mean = MEAN + (START - MEAN) * share**repeats
            variance = once * sum(share ** (2 * i) for i in range(repeats))
            assert found == pytest.approx((mean, variance), abs=1e-12)


def test_the_mean_of_a_gray_pixel_lies_between_guide_and_edit():
    """Of a mask of w: at every level w of the step's mean and 1 - w of the noised guide's."""
    process, model = DDPM(COSINE, respace("quad", 1000, 10), clip_denoised=False), gaussian(COSINE, MEAN, STD)
    w, level, mean = 0.3, 6, START
    v = [(STD * here.signal) ** 2 + here.noise**2 for here in process.levels]
    offset = process.levels[level].signal * (START - MEAN)  # of the state's mean from that of the noised data
    for k in range(level, 0, -1):
        here, below = process.levels[k], process.levels[k - 1]
        stepped = offset * here.signal / below.signal * v[k - 1] / v[k]
        offset = w * stepped + (1 - w) * below.signal * (START - MEAN)
    mean = affine_parts(process, model, START, level, 11, mask=torch.tensor([[w]], dtype=torch.float64))[0]
    assert mean == pytest.approx(MEAN + offset, abs=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_masks_stay_on_the_device_without_reading_a_value(name):
    process, _ = CASES[name]
    x, mask = torch.zeros(SHAPE, device="meta"), torch.zeros(2, 1, 4, 5, device="meta")

    def network(x_t, t):
        return 0.3 * x_t

    assert edit(process, network, x, 4, lambda: x, mask=mask, strength=mask).device.type == "meta"


def test_inputs_are_not_changed():
    guide, mask = GUIDE.clone(), SOFT.clone()
    edit(*CASES["ddpm"], guide, 4, draws(), mask=mask, strength=mask, repeats=2)
    assert torch.equal(guide, GUIDE)
    assert torch.equal(mask, SOFT)


@pytest.mark.parametrize("repeats", [0, -1])
def test_repeats_are_checked(repeats):
    noise = draws()
    with pytest.raises(ValueError, match=f"repeats is {repeats}; give at least 1"):
        edit(*CASES["ddpm"], GUIDE, 4, noise, repeats=repeats)
    assert noise.used == 0
