"""DDIM against the recorded programs, in both directions, and its order of convergence.

The recorded runs with a classifier or classifier-free guidance are in test_guidance.py. Those of
xyfJASON's Euler and Heun samplers are other methods.
"""

import math

import pytest
import torch
from golden_samplers import (
    Replay,
    assert_golden,
    ddpm_schedule,
    down,
    make_model,
    openai_case,
    read_case,
    recorded_rows,
    walk,
    xyf_case,
)

from diffusions import DDIM, DDPM, make_schedule, respace

OPENAI = [
    "ddim_eta0.0_ddim25",
    "ddim_eta0.5_ddim25",
    "ddim_eta1.0_ddim25",
    "ddim_eta0_noclip_ddim25",
    "ddim_full1000",
]
OPENAI_REVERSE = ["reverse_full_T100", "reverse_ddim50", "reverse_full1000", "reverse_clip_ddim25"]
XYF = [
    "ddim_eta0_uniform50",
    "ddim_eta1_uniform2_20",
    "head_ddim_trailing20_eta0",
    "head_ddim_linspace20_eta05",
]
XYF_INVERSION = ["ddim_inversion_T1000", "ddim_inversion_uniform50", "ddim_inversion_uniform20_clip"]


def run_down(meta, golden, schedule, timesteps, dtype):
    process = DDIM(schedule, timesteps, eta=meta["eta"], clip_denoised=meta["clip_denoised"])
    model, noise = make_model(meta["model"], schedule), Replay(golden.get("noise", []), dtype)
    K = process.num_steps
    states = down(lambda x, j, k: process.step(model, x, j, k, noise), golden["x_init"].to(dtype), K)
    assert states.dtype == dtype
    assert noise.used == (K - 1 if meta["eta"] else 0)
    return recorded_rows(meta, states).double()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", OPENAI)
def test_openai(case, dtype, tolerance):
    meta, golden, schedule, timesteps = openai_case(case)
    assert_golden(run_down(meta, golden, schedule, timesteps, dtype), golden["traj.f64"], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", XYF)
def test_xyf(case, dtype, tolerance):
    meta, golden, schedule, timesteps = xyf_case(case)
    assert_golden(run_down(meta, golden, schedule, timesteps, dtype), golden["traj.f64"], tolerance)


def leave(process, model, clip=False):
    """One hop up of the programs that evaluate at the level they leave."""

    def hop(x, j, k):
        x_0, eps, _ = process.predict(model, x, j, clip)
        return process.move(x_0, eps, j, k) if k <= process.num_steps else eps  # A = 0 above level K

    return hop


@pytest.mark.parametrize("case", OPENAI_REVERSE)
def test_the_source_convention_of_openai_from_the_same_parts(case):
    """The image counts as level 1, and the last hop reaches A = 0."""
    meta, golden, schedule, timesteps = openai_case(case)
    process = DDIM(schedule, timesteps)
    hop = leave(process, make_model(meta["model"], schedule), meta["clip_denoised"])
    states = walk(hop, golden["x_init"].double(), range(1, process.num_steps + 2))
    assert_golden(recorded_rows(meta, states), golden["traj.f64"])


@pytest.mark.parametrize("case", XYF_INVERSION)
def test_the_ancestor_convention_of_xyf_from_the_same_parts(case):
    """The image counts as level 1, and K - 1 hops reach level K."""
    meta, golden, schedule, timesteps = xyf_case(case)
    process = DDIM(schedule, timesteps)
    hop = leave(process, make_model(meta["model"], schedule), meta["clip_denoised"])
    states = walk(hop, golden["x_init"].double(), range(1, process.num_steps + 1))
    assert_golden(recorded_rows(meta, states), golden["traj.f64"])


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize("case", ["leading20", "trailing10"])
def test_up_and_down_as_diffusers(case, dtype, tolerance):
    """Our own convention: up, the network is evaluated at the level that a step reaches."""
    meta, golden = read_case("diffusers", case)
    schedule = ddpm_schedule("linear", 1000)
    process, model = (
        DDIM(schedule, meta["inverse_timesteps"], clip_denoised=False),
        make_model(meta["model"], schedule),
    )

    def step(x, j, k):
        return process.step(model, x, j, k)

    K = process.num_steps
    up = walk(step, golden["x_source"].to(dtype), range(K + 1))
    assert_golden(up.double(), golden["inverse_traj.f64"], tolerance)
    assert_golden(down(step, up[-1], K).double(), golden["sample_traj.f64"], tolerance)


def test_eta_1_has_the_moments_of_ddpm():
    """With eta = 1 a step has DDPM's mean and fixed_small variance (Song et al. 2021, section 4.1)."""
    schedule, timesteps = make_schedule("cosine", 100), respace("uniform", 100, 10)
    ddim, ddpm = DDIM(schedule, timesteps, eta=1.0), DDPM(schedule, timesteps)
    x = torch.linspace(-2, 2, 6, dtype=torch.float64).view(2, 3)
    z = torch.linspace(1, -1, 6, dtype=torch.float64).view(2, 3)
    for k in range(1, 11):
        expected = ddpm.step(lambda x, t: 0.4 * x, x, k, k - 1, lambda: z)
        actual = ddim.step(lambda x, t: 0.4 * x, x, k, k - 1, lambda: z)
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-12)


def test_levels_may_be_skipped():
    """With one eps for all levels, one long move equals many short ones."""
    process = DDIM(ddpm_schedule("linear", 100), range(0, 100, 10), clip_denoised=False)
    x, eps = torch.tensor([[1.5, -0.2]], dtype=torch.float64), torch.tensor([[0.7, 0.1]], dtype=torch.float64)

    def step(x, j, k):
        return process.step(lambda x_t, t: eps, x, j, k)

    torch.testing.assert_close(step(x, 10, 0), down(step, x, 10)[-1], rtol=0, atol=1e-13)
    torch.testing.assert_close(step(x, 0, 10), walk(step, x, range(11))[-1], rtol=0, atol=1e-13)
    torch.testing.assert_close(step(step(x, 3, 8), 8, 3), x, rtol=0, atol=1e-13)


def test_the_network_is_told_the_higher_level():
    process, told = DDIM(ddpm_schedule("linear", 100), [7, 31, 99]), []

    def model(x, t):
        told.append(t.tolist())
        return 0.1 * x

    for source, target in [(0, 1), (1, 3), (3, 1), (1, 0)]:
        process.step(model, torch.zeros(1, 1), source, target)
    assert told == [[7], [99], [99], [7]]


def test_only_the_way_down_is_clipped():
    process = DDIM(ddpm_schedule("linear", 100), [9, 49, 99])
    x = torch.full((1, 1), 40.0, dtype=torch.float64)
    assert process.step(lambda x, t: 0 * x, x, 1, 0).item() == 1
    A = [level.signal**2 for level in process.levels]
    up = process.step(lambda x, t: 0 * x, x, 1, 2).item()
    assert up == pytest.approx(40 * math.sqrt(A[2] / A[1]), rel=1e-14)


def test_every_step_works_where_almost_no_signal_is_left():
    """eta = 1 and a large jump: rounding must not take the root of a negative number."""
    process = DDIM(make_schedule("linear", 2000, 1e-6, 0.03), [0, 1, 1999], eta=1.0)
    assert process.levels[3].signal ** 2 < 1e-13
    for source, target in [(3, 2), (3, 1), (3, 0), (2, 1)]:
        assert process.step(
            lambda x, t: x, torch.ones(1, 1), source, target, lambda: torch.ones(1, 1)
        ).isfinite()


@pytest.mark.parametrize(
    ("eta", "source", "target", "message"),
    [
        (0.0, 2, 2, "a step from level 2 to itself; give two different levels"),
        (0.5, 1, 2, "eta is 0.5: the way up is deterministic; encode with eta=0"),
        (0.5, 2, 1, "draws noise and was given none; pass a callable"),
        (0.0, 4, 1, "level 4: this process has levels 0 to 3"),
        (0.0, 1, -1, "level -1: this process has levels 0 to 3"),
    ],
)
def test_steps_are_checked(eta, source, target, message):
    process = DDIM(ddpm_schedule("linear", 10), [0, 5, 9], eta=eta)
    with pytest.raises(ValueError, match=message):
        process.step(lambda x, t: x, torch.zeros(1, 1), source, target)


@pytest.mark.parametrize("eta", [-0.1, 1.1, float("nan")])
def test_eta_is_checked(eta):
    with pytest.raises(ValueError, match=r"give 0 \(deterministic\) to 1"):
        DDIM(ddpm_schedule("linear", 10), range(10), eta=eta)
