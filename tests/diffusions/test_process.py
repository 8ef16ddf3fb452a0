"""What all processes share: levels, the way up, dtypes, devices and what is refused."""

import math

import pytest
import torch
from golden_samplers import assert_golden, ddpm_schedule, openai_schedule, read_case

from diffusions import DDIM, DDPM, decode, edit, encode, make_schedule, respace, translate

METHODS = [DDPM, DDIM]


def small_process(method=DDPM, **options):
    return method(ddpm_schedule("linear", 100), respace("uniform-linspace", 100, 5), **options)


def test_levels():
    process = small_process()
    assert process.num_steps == 5
    assert process.timesteps == (0, 25, 50, 74, 99)
    table = ddpm_schedule("linear", 100).alphas_cumprod
    A = table[[0, 25, 50, 74, 99]]
    assert [level.signal for level in process.levels] == [1, *A.sqrt().tolist()]
    assert [level.noise for level in process.levels] == [0, *(1 - A).sqrt().tolist()]
    assert [level.condition for level in process.levels[1:]] == [0, 25, 50, 74, 99]
    assert process.sigma(0) == 0
    assert process.sigma(5) == pytest.approx(math.sqrt(1 / float(table[99]) - 1), rel=1e-14)


@pytest.mark.parametrize(("t0", "sigma"), [(0.3, 1.23), (0.4, 2.03), (0.5, 3.42), (0.6, 6.14)])
def test_noise_at_the_fractions_of_the_sdedit_paper(t0, sigma):
    process = DDPM(ddpm_schedule("linear", 1000), range(1000))
    assert process.level_at(t0) == round(1000 * t0)
    assert process.sigma(process.level_at(t0)) == pytest.approx(sigma, abs=0.005)


def test_level_at_is_the_nearest_level_whatever_the_respacing():
    process = DDPM(ddpm_schedule("linear", 1000), [0, 99, 499, 999])
    levels = [process.level_at(t0) for t0 in (1e-9, 0.05, 0.051, 0.3, 0.301, 0.74, 0.75, 0.751, 1)]
    assert levels == [1, 1, 2, 2, 3, 3, 3, 4, 4]


@pytest.mark.parametrize("case", ["linear1000", "spaced_ddim25"])
def test_diffuse_golden(case):
    meta, golden = read_case("guided_diffusion_steps", case)
    process = DDPM(
        openai_schedule("linear", 1000), respace({"all": "none"}.get(meta["spacing"], "ddim25"), 1000)
    )
    for row, index in enumerate(golden["t_index"].tolist()):
        x, noise = golden["x"][row].double(), golden["noise"][row].double()
        assert_golden(process.diffuse(x, index + 1, noise), golden["q_sample.f64"][row])


def test_diffuse_to_level_0_is_the_image():
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(small_process().diffuse(x, 0, torch.ones_like(x)), x)


def half(x, t):
    """A network that runs in bfloat16."""
    return (0.3 * x).bfloat16()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("given", "state"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_the_state_keeps_its_precision(method, given, state):
    process, x = small_process(method), torch.full((2, 3, 2, 2), 0.25, dtype=given)

    def model(x_t, t):
        assert x_t.dtype == state
        return half(x_t, t)

    def other_precision():
        return torch.zeros(2, 3, 2, 2, dtype=torch.float64 if state == torch.float32 else torch.float32)

    assert process.diffuse(x, 3, other_precision()).dtype == state
    assert edit(process, model, x, 3, other_precision).dtype == state
    assert process.step(model, x, 2, 1, other_precision).dtype == state
    if method is DDIM:
        assert translate(process, model, model, x).dtype == state
        stochastic = small_process(DDIM, eta=1.0)
        assert stochastic.step(model, x, 2, 1, other_precision).dtype == state


def test_coefficients_are_not_rounded_to_float32():
    """In float64 the error against exact numbers must be that of float64."""
    process = small_process(DDIM, clip_denoised=False)
    A = [1.0, *(1 - torch.linspace(1e-4, 0.02, 100).double()).cumprod(0)[[0, 25, 50, 74, 99]].tolist()]
    x = torch.ones(1, 1, dtype=torch.float64)
    moved = process.step(lambda x, t: torch.zeros_like(x), x, 4, 3).item()
    assert moved == pytest.approx(process.levels[3].signal / process.levels[4].signal, rel=1e-15)
    assert moved != pytest.approx(math.sqrt(A[3] / A[4]), rel=1e-12)  # the same from float32 betas


@pytest.mark.parametrize("method", METHODS)
def test_everything_stays_on_the_device_without_reading_a_value(method):
    """The meta device holds no values, so that any transfer to the host raises."""
    process, x = small_process(method), torch.zeros(2, 3, 4, 4, device="meta")

    def model(x_t, t):
        assert t.device.type == "meta"
        return torch.cat([0.3 * x_t, x_t], dim=1)

    assert edit(process, model, x, 5, lambda: torch.zeros_like(x)).device.type == "meta"
    if method is DDIM:
        assert translate(process, model, model, x).device.type == "meta"


@pytest.mark.parametrize("method", METHODS)
def test_inputs_are_not_changed(method):
    process, seen = small_process(method), []

    def model(x_t, t):
        seen.append((x_t, x_t.clone()))
        return 0.3 * x_t

    generator = torch.Generator().manual_seed(0)
    guide, z = torch.randn(2, 2, 3, 4, 4, generator=generator)
    copies = guide.clone(), z.clone()
    edit(process, model, guide, 5, lambda: z)
    if method is DDIM:
        decode(process, model, encode(process, model, guide))
    assert torch.equal(guide, copies[0])
    assert torch.equal(z, copies[1])
    assert all(torch.equal(state, copy) for state, copy in seen)


@pytest.mark.parametrize("options", [{"method": DDPM}, {"method": DDIM, "eta": 1.0}, {"method": DDIM}])
def test_rows_of_a_batch_do_not_meet(options):
    process = small_process(**options)
    generator = torch.Generator().manual_seed(0)
    guide = torch.randn(3, 3, 4, 4, generator=generator)
    noises = torch.randn(5, 3, 3, 4, 4, generator=generator)
    together = edit(process, lambda x, t: 0.3 * x, guide, 5, iter(noises).__next__)
    for row in range(3):
        alone = edit(process, lambda x, t: 0.3 * x, guide[row, None], 5, iter(noises[:, row, None]).__next__)
        assert torch.equal(alone[0], together[row])


@pytest.mark.parametrize("shape", [(2, 2), (1, 3, 5), (2, 1, 3, 7)])
def test_any_shape_with_batch_and_channels(shape):
    x = torch.zeros(shape)
    assert edit(small_process(), lambda x, t: 0.1 * x, x, 2, lambda: torch.ones(shape)).shape == shape


@pytest.mark.parametrize(
    ("timesteps", "message"),
    [
        ([], "timesteps: found none, allowed are 0 to 9"),
        ([3, 10], "found 3 to 10, allowed are 0 to 9"),
        ([-1, 4], "found -1 to 4, allowed are 0 to 9"),
        ([0, 4, 4], "found 4 after 4; give them once each, increasing"),
        ([9, 4, 0], "found 4 after 9"),
    ],
)
def test_timesteps_are_checked(timesteps, message):
    for method in METHODS:
        with pytest.raises(ValueError, match=message):
            method(make_schedule("cosine", 10), timesteps)


@pytest.mark.parametrize("level", [-1, 6])
def test_levels_are_checked(level):
    process, x = small_process(DDIM), torch.zeros(1, 1)
    message = f"level {level}: this process has levels 0 to 5; choose one of them, or respace to more steps"
    with pytest.raises(ValueError, match=message):
        process.sigma(level)
    with pytest.raises(ValueError, match=message):
        process.diffuse(x, level, x)
    with pytest.raises(ValueError, match=message):
        process.step(half, x, 2, level)
    with pytest.raises(ValueError, match="this process has levels 1 to 5"):
        process.predict(half, x, level, clip=False)


@pytest.mark.parametrize("t0", [0, -0.1, 1.001, float("nan")])
def test_t0_is_checked(t0):
    with pytest.raises(ValueError, match="give a fraction of the process, above 0 and up to 1"):
        small_process().level_at(t0)
