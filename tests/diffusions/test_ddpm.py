"""DDPM against the recorded programs, its variances, and what is refused.

The recorded runs with a classifier (`guided_*`) or classifier-free guidance (`cfg_*`) are in
test_guidance.py.
"""

import math

import pytest
import torch
from golden_samplers import (
    Replay,
    assert_golden,
    column,
    ddpm_schedule,
    down,
    make_model,
    openai_case,
    openai_schedule,
    read_case,
    read_schedules,
    xyf_case,
)

from diffusions import DDPM, make_schedule

OPENAI = [
    "p_small_T40_clip",
    "p_small_T40_noclip",
    "p_large_1000to20",
    "p_large_1000to20_clip",
    "p_learned_ddim25spacing",
    "p_learned_noclip_cos30",
    "p_xstart_small_1000to15",
    "p_rescale_4000to20",
]
XYF = ["ddpm_small_T50", "ddpm_large_uniform20", "ddpm_learned_uniform2_20", "ddpm_small_quad20"]
PRECISIONS = [(torch.float64, 1e-10), (torch.float32, 1e-5)]
RESPACED = [
    ("linear", 1000, "ddim25"),
    ("linear", 1000, "100"),
    ("linear", 1000, "2"),
    ("linear", 300, "10_15_20"),
    ("cosine", 1000, "50"),
]


def run(process, model, golden, source, target=0, dtype=torch.float64):
    noise = Replay(golden["noise"], dtype)
    states = down(
        lambda x, j, k: process.step(model, x, j, k, noise), golden["x_init"].to(dtype), source, target
    )
    assert states.dtype == dtype
    assert noise.used == source - max(target, 1)
    return states.double()


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize("case", OPENAI)
def test_openai(case, dtype, tolerance):
    meta, golden, schedule, timesteps = openai_case(case)
    prediction = {"EPSILON": "eps", "START_X": "x0"}[meta["mean_type"]]
    process = DDPM(schedule, timesteps, prediction, meta["var_type"], meta["clip_denoised"])
    model = make_model(meta["model"], schedule)
    told = (lambda x, t: model(x, t * 1000 / meta["T"])) if meta["rescale_timesteps"] else model
    assert_golden(run(process, told, golden, process.num_steps, dtype=dtype), golden["traj.f64"], tolerance)
    first = process.predict(told, golden["x_init"].double(), process.num_steps, meta["clip_denoised"]).x_0
    assert_golden(first, golden["pred_xstart_first.f64"])


@pytest.mark.parametrize(("dtype", "tolerance"), PRECISIONS)
@pytest.mark.parametrize(("case", "target"), [("small_last30", 0), ("large_700to680", 680)])
def test_pesser(case, target, dtype, tolerance):
    meta, golden = read_case("pesser", case)
    schedule = ddpm_schedule("linear", 1000)
    var_type = {"fixedsmall": "fixed_small", "fixedlarge": "fixed_large"}[meta["var_type"]]
    process = DDPM(schedule, range(1000), var_type=var_type, clip_denoised=meta["clip"])
    states = run(process, make_model(meta["model"], schedule), golden, meta["curr_step"], target, dtype)
    assert_golden(states, golden["traj.f64"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", XYF)
def test_xyf(case, dtype, tolerance):
    meta, golden, schedule, timesteps = xyf_case(case)
    process = DDPM(schedule, timesteps, var_type=meta["var_type"], clip_denoised=meta["clip_denoised"])
    states = run(process, make_model(meta["model"], schedule), golden, process.num_steps, dtype=dtype)
    assert_golden(states, golden["traj.f64"], tolerance)


def test_no_noise_in_the_image_of_a_trailing_respacing():
    """xyfJASON's HEAD tests for t = 0 instead of the last step, and leaves sqrt(b) z in the image."""
    meta, golden, schedule, timesteps = xyf_case("head_ddpm_trailing10_large_BUG")
    process = DDPM(schedule, timesteps, var_type="fixed_large", clip_denoised=meta["clip_denoised"])
    states = run(process, make_model(meta["model"], schedule), golden, 10)
    assert_golden(states[:-1], golden["traj.f64"][:-1])
    left = math.sqrt(1 - float(schedule.alphas_cumprod[99])) * golden["noise"][-1].double()
    assert left.std() * 127.5 > 5  # grey levels
    assert_golden(states[-1] + left, golden["traj.f64"][-1])


@pytest.mark.parametrize("case", ["linear1000", "spaced_ddim25"])
def test_single_steps_of_openai(case):
    """Means, predicted x_0 and log variances row by row; every row is at a level of its own."""
    meta, golden = read_case("guided_diffusion_steps", case)
    schedule = openai_schedule("linear", 1000)
    timesteps = range(1000) if meta["spacing"] == "all" else range(0, 1000, 40)
    model, with_variance = (make_model(meta[key], schedule) for key in ("model", "var_model"))
    process = {
        name: DDPM(schedule, timesteps, var_type=name)
        for name in ("fixed_small", "fixed_large", "learned_range")
    }
    small = process["fixed_small"]
    for row, index in enumerate(golden["t_index"].tolist()):
        level, here = index + 1, slice(row, row + 1)
        x, noise = golden["x"][here].double(), golden["noise"][here].double()
        assert_golden(small.posterior_mean(noise, x, level), golden["q_posterior_mean.f64"][here])
        for clip in (False, True):
            x_0 = small.predict(model, x, level, clip).x_0
            key = f"fixed_small.clip{clip:d}"
            assert_golden(x_0, golden[f"{key}.pred_xstart.f64"][here])
            assert_golden(small.posterior_mean(x_0, x, level), golden[f"{key}.mean.f64"][here])
        learned = process["learned_range"].predict(with_variance, x, level, clip=False).variance
        variance = process["learned_range"].variance(level, learned)
        assert_golden(variance.log(), golden["learned_range.clip0.log_variance.f64"][here])
        for name in ("fixed_small", "fixed_large"):
            if (name, level) != ("fixed_small", 1):  # 0, whose logarithm openai replaces
                logarithm = torch.full_like(x, math.log(process[name].variance(level)))
                assert_golden(logarithm, golden[f"{name}.clip0.log_variance.f64"][here])


@pytest.mark.parametrize(("kind", "T", "spec"), RESPACED)
def test_tables_of_a_respaced_chain(kind, T, spec):
    golden = {
        key.rpartition(".")[2]: value
        for key, value in read_schedules().items()
        if key.startswith(f"gdspaced.{kind}.{T}.{spec}.")
    }
    timesteps = golden["timestep_map"].tolist()
    process = {
        name: DDPM(openai_schedule(kind, T), timesteps, var_type=name)
        for name in ("fixed_small", "fixed_large", "learned_range")
    }
    levels = range(1, len(timesteps) + 1)
    one, zero = torch.ones(1, dtype=torch.float64), torch.zeros(1, dtype=torch.float64)
    small = process["fixed_small"]
    tables = {
        "alphas_cumprod": [level.signal**2 for level in small.levels[1:]],
        "posterior_variance": [small.variance(k) for k in levels],
        "fixed_large_variance": [process["fixed_large"].variance(k) for k in levels],
        "posterior_mean_coef1": [small.posterior_mean(one, zero, k).item() for k in levels],
        "posterior_mean_coef2": [small.posterior_mean(zero, one, k).item() for k in levels],
        "posterior_log_variance_clipped": [
            process["learned_range"].variance(k, -one).log().item() for k in levels
        ],
        "betas": [process["learned_range"].variance(k, one).item() for k in levels],
    }
    for name, table in tables.items():
        torch.testing.assert_close(
            torch.tensor(table).double(), golden[name].float().double(), rtol=1e-6, atol=0
        )
        exact = torch.tensor(table, dtype=torch.float64)
        torch.testing.assert_close(exact, golden[name], rtol=1e-11, atol=1e-15, msg=name)


def test_variances_by_hand():
    """A = 1, 0.8, 0.4: b_2 = 0.5, and fixed_small is 0.5 * 0.2 / 0.6 = 1 / 6 at level 2."""
    schedule = make_schedule("linear", 2, 0.2, 0.5)
    small, large, learned = (
        DDPM(schedule, [0, 1], var_type=name) for name in ("fixed_small", "fixed_large", "learned_range")
    )
    assert small.variance(1) == 0
    assert small.variance(2) == pytest.approx(1 / 6)
    assert large.variance(2) == pytest.approx(0.5)
    assert large.variance(1) == pytest.approx(1 / 6)
    middle = torch.zeros(1, dtype=torch.float64)
    assert learned.variance(2, middle).item() == pytest.approx(math.sqrt(0.5 / 6))
    assert learned.variance(1, middle).item() == pytest.approx(math.sqrt(0.2 / 6))


@pytest.mark.parametrize("var_type", ["fixed_small", "fixed_large", "learned_range"])
def test_one_step_is_the_predicted_image(var_type):
    """openai's program raises an IndexError for one kept timestep."""
    process = DDPM(make_schedule("cosine", 1000), [900], var_type=var_type)
    x = torch.tensor([[0.5, -4.0]], dtype=torch.float64)

    def model(x_t, t):
        return torch.cat([0.9 * x_t, x_t], dim=1)

    x_0 = process.predict(model, x, 1, clip=True).x_0
    assert torch.equal(process.step(model, x, 1, 0), x_0)
    variance = process.variance(1, torch.zeros(1))
    assert variance == (
        0 if var_type == "fixed_small" else pytest.approx(process.sigma(1) ** 2 / (1 + process.sigma(1) ** 2))
    )


def test_the_last_step_is_the_predicted_image():
    schedule = ddpm_schedule("linear", 100)
    process = DDPM(schedule, [30, 60, 99])
    x = torch.linspace(-2, 2, 5, dtype=torch.float64).view(1, 5)
    expected = process.predict(lambda x, t: 0.3 * x, x, 1, clip=True).x_0
    assert torch.equal(process.step(lambda x, t: 0.3 * x, x, 1, 0), expected)


def test_the_network_is_told_training_timesteps():
    process, told = DDPM(ddpm_schedule("linear", 100), [7, 31, 99]), []

    def model(x, t):
        told.append(t)
        return 0.1 * x + 0 * column(t, x)

    process.step(model, torch.zeros(2, 1), 3, 2, lambda: torch.zeros(2, 1))
    process.step(model, torch.zeros(2, 1), 1, 0)
    assert [t.tolist() for t in told] == [[99, 99], [7, 7]]
    assert {t.dtype for t in told} == {torch.int64}


@pytest.mark.parametrize(("source", "target"), [(2, 0), (1, 2), (2, 2)])
def test_only_one_level_down(source, target):
    process = DDPM(ddpm_schedule("linear", 10), [0, 5, 9])
    with pytest.raises(ValueError, match=f"one level down, found a step from {source} to {target}; use DDIM"):
        process.step(lambda x, t: x, torch.zeros(1, 1), source, target)


def test_refusals():
    schedule, x = ddpm_schedule("linear", 10), torch.zeros(1, 1)
    with pytest.raises(
        ValueError, match="unknown var_type 'fixedsmall', choose one of fixed_small, fixed_large"
    ):
        DDPM(schedule, range(10), var_type="fixedsmall")
    with pytest.raises(
        ValueError, match="learned_range, but the network returns no variance; choose fixed_small"
    ):
        DDPM(schedule, range(10), var_type="learned_range").step(lambda x, t: x, x, 5, 4, lambda: x)
    with pytest.raises(ValueError, match="draws noise and was given none; pass a callable"):
        DDPM(schedule, range(10)).step(lambda x, t: x, x, 5, 4)
    with pytest.raises(ValueError, match="level 0: this process has levels 1 to 10"):
        DDPM(schedule, range(10)).step(lambda x, t: x, x, 0, -1)
