"""Schedules: published tables, and what is refused."""

import dataclasses

import pytest
import torch
from golden_samplers import ddpm_schedule, openai_schedule, read_lucidrains_schedules, read_schedules

from diffusions import DDIM, NoiseSchedule, make_schedule


def close(actual, expected, rtol=1e-12):
    assert actual.dtype == expected.dtype == torch.float64
    torch.testing.assert_close(actual, expected, rtol=rtol, atol=0)


@pytest.mark.parametrize(("name", "T"), [("linear", 100), ("linear", 1000), ("cosine", 50), ("cosine", 1000)])
def test_openai_tables(name, T):
    schedule, golden = openai_schedule(name, T), read_schedules()
    close(schedule.betas, golden[f"gd.{name}.{T}.betas"])
    close(schedule.alphas_cumprod, golden[f"gd.{name}.{T}.alphas_cumprod"])


def test_openai_linear_is_scaled_for_other_lengths():
    schedule, golden = make_schedule("linear", 4000, 2.5e-5, 0.005), read_schedules()
    close(schedule.alphas_cumprod, golden["gd.linear.4000.alphas_cumprod"])
    close(torch.cat([schedule.betas[:8], schedule.betas[-8:]]), golden["gd.linear.4000.betas_first8_last8"])
    assert not torch.allclose(
        make_schedule("linear", 4000, 1e-4, 0.02).alphas_cumprod, golden["gd.linear.4000.alphas_cumprod"]
    )


@pytest.mark.parametrize(("name", "T"), [("linear", 1000), ("quad", 1000), ("const", 200)])
def test_ddpm_tables(name, T):
    close(ddpm_schedule(name, T).betas, read_schedules()[f"pesser.{name}.0.0001.0.02.{T}.betas"])


@pytest.mark.parametrize(("name", "T"), [("linear", 200), ("quad", 1000), ("const", 200)])
def test_xyf_tables(name, T):
    schedule, golden = ddpm_schedule(name, T), read_schedules()
    close(schedule.betas, golden[f"xyf.{name}.0.0001.0.02.{T}.betas"])
    close(schedule.alphas_cumprod, golden[f"xyf.{name}.0.0001.0.02.{T}.alphas_cumprod_f64"])


@pytest.mark.parametrize("T", [1000, 250])
@pytest.mark.parametrize("name", ["sigmoid", "cosine", "linear"])
def test_tables_of_lucidrains(name, T):
    """Its linear ends are 1000 / T times the usual; its cosine is ours. Measured: 2e-12 at most."""
    ends = (1e-4 * 1000 / T, 0.02 * 1000 / T) if name == "linear" else ()
    golden = read_lucidrains_schedules()[f"lucidrains.{name}.{T}.betas"]
    close(make_schedule(name, T, *ends).betas, golden, rtol=5e-12)


def test_betas_are_not_derived_from_a_float32_table():
    """xyfJASON derives beta_t from alphas_cumprod in float32, which leaves few digits near t = 0."""
    alphas_cumprod = read_schedules()["xyf.linear.0.0001.0.02.200.alphas_cumprod_f32"]
    derived = 1 - alphas_cumprod[1:] / alphas_cumprod[:-1]
    betas = ddpm_schedule("linear", 200).betas[1:]
    error = (derived.double() / betas - 1).abs().max()
    assert 1e-5 < error < 1e-3
    ours = ddpm_schedule("linear", 200).alphas_cumprod
    close(1 - ours[1:] / ours[:-1], betas, rtol=1e-11)


def test_cosine_in_float64():
    """xyfJASON's cosine betas are float32; the float64 product of them is right to that precision only."""
    golden = read_schedules()["xyf.cosine.0.0001.0.02.200.alphas_cumprod_f64"]
    schedule = make_schedule("cosine", 200)
    torch.testing.assert_close(schedule.alphas_cumprod, golden, rtol=2e-5, atol=0)
    assert schedule.betas[-1] == 0.999


def test_quad_is_linear_in_the_root():
    roots = make_schedule("quad", 5, 0.01, 0.09).betas.sqrt()
    torch.testing.assert_close(roots, torch.linspace(0.1, 0.3, 5, dtype=torch.float64))


def test_one_timestep():
    for schedule in (
        make_schedule("linear", 1, 0.1, 0.2),
        make_schedule("cosine", 1),
        make_schedule("sigmoid", 1),
    ):
        assert schedule.num_timesteps == 1
        torch.testing.assert_close(schedule.alphas_cumprod, 1 - schedule.betas)


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make_schedule("cosine", 4).betas = torch.zeros(4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("scaled_linear", 10, 0.1, 0.2), "unknown schedule 'scaled_linear', choose one of linear, quad"),
        (("linear", 0, 0.1, 0.2), "num_timesteps must be at least 1, got 0"),
        (("linear", 10, 0.1), "linear schedule needs beta_start and beta_end, got 0.1 and None"),
        (("const", 10, None, 0.1), "const schedule needs beta_start and beta_end"),
        (("quad", 10, -0.1, 0.2), r"must lie in \(0, 1\), got -0.1 and 0.2"),
        (("linear", 10, 0.1, 1.0), r"must lie in \(0, 1\), got 0.1 and 1.0"),
        (("linear", 10, float("nan"), 0.2), r"must lie in \(0, 1\), got nan"),
        (("sigmoid", 10, 0.1, 0.2), "sigmoid schedule takes no beta_start and beta_end; remove them"),
        (("cosine", 10, 0.1, 0.2), "cosine schedule takes no beta_start and beta_end; remove them"),
    ],
)
def test_make_schedule_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        make_schedule(*arguments)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (torch.tensor([0.1]), "must be a float64 table .*, got torch.float32"),
        (torch.zeros(2, 2).double(), r"of shape \[2, 2\]"),
        (torch.zeros(0).double(), r"of shape \[0\]"),
        (torch.tensor([0.1, 0.0]).double(), "strictly between 0 and 1, got 0 at timestep 1"),
        (torch.tensor([0.1, 1.0, 0.2]).double(), "got 1 at timestep 1"),
        (torch.tensor([0.1, 0.2, 1.1]).double(), r"got 1\.1 at timestep 2"),
        (torch.tensor([float("nan")]).double(), "got nan at timestep 0"),
    ],
)
def test_betas_are_checked(betas, message):
    with pytest.raises(ValueError, match=message):
        NoiseSchedule(betas)


def test_a_schedule_that_ends_at_beta_1_has_no_signal_there():
    """As pesser's 'jsd': of x_0 its eps says nothing."""
    schedule = NoiseSchedule(read_schedules()["pesser.jsd.0.0001.0.02.200.betas"])
    assert schedule.levels([199])[0][:2] == (0, 1)
    with pytest.raises(ValueError, match="prediction eps says nothing of the image at timestep 199"):
        DDIM(schedule, [199])
