"""What surrounds networks of sigma, against the recorded programs."""

import pytest
import torch
from golden_samplers import read_sigmas

from diffusions import karras_sigmas, precondition
from diffusions.preconditioning import PRECONDITIONINGS


def found(name: str, sigmas: torch.Tensor) -> dict[str, torch.Tensor]:
    """Each scale at each sigma, found by asking with networks that answer one thing."""
    seen = {}

    def network(x, told):
        seen.update(x=x, told=told)
        return seen["answer"]

    model, one, zero = precondition(network, name, 0.002), torch.ones(len(sigmas), 1).double(), 0.0
    seen["answer"] = one * zero
    seen["c_skip"] = model(one, sigmas).flatten()
    seen["answer"] = one
    seen["c_out"] = model(one * zero, sigmas).flatten()
    model(one, sigmas)
    seen["c_in"] = seen["x"].flatten()
    return seen


@pytest.mark.parametrize(("name", "theirs"), [("edm_250", "edm"), ("consistency", "boundary")])
def test_openais_scales(name, theirs):
    golden = read_sigmas()
    above = golden["consistency.scalings.sigma"] > 0
    ours = found(name, golden["consistency.scalings.sigma"][above].double())
    for scale in ("c_skip", "c_out", "c_in"):
        expected = golden[f"consistency.scalings.{theirs}.{scale}.f64"][above]
        torch.testing.assert_close(ours[scale], expected, rtol=1e-12, atol=1e-12)
    told = golden["consistency.scalings.rescaled_t.f64"][above]
    torch.testing.assert_close(ours["told"], told, rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", ["edm", "vp", "ve"])
def test_what_nvlabs_tell_the_network(name):
    golden = read_sigmas()
    theirs = {"edm": "EDMPrecond", "vp": "VPPrecond", "ve": "VEPrecond"}[name]
    told = found(name, golden["sigma"].double())["told"]
    torch.testing.assert_close(told, golden[f"{theirs}.c_noise.f64"], rtol=1e-12, atol=1e-12)


def test_edm_is_edm():
    """Both tell sigma otherwise, and are the same else."""
    sigmas = read_sigmas()["sigma"].double()
    a, b = found("edm", sigmas), found("edm_250", sigmas)
    for scale in ("c_skip", "c_out", "c_in"):
        assert torch.equal(a[scale], b[scale])
    torch.testing.assert_close(1000 * a["told"], b["told"], rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_a_learned_variance_is_dropped_and_the_precision_kept(name):
    model = precondition(lambda x, told: torch.cat([x, x + 100], dim=1), name, 0.002)
    x = torch.randn(2, 3, 4, 4)
    plain = precondition(lambda x, told: x, name, 0.002)
    assert torch.equal(model(x, torch.tensor([0.5, 2.0])), plain(x, torch.tensor([0.5, 2.0])))
    assert plain(x, torch.tensor([0.5, 2.0])).dtype == torch.float32


def test_karras_grids_are_those_of_both_programs():
    golden = read_sigmas()
    for K in (8, 18, 40, 256):
        grid = torch.tensor(karras_sigmas(0.002, 80.0, K)).double().flip(0)
        torch.testing.assert_close(
            torch.tensor(karras_sigmas(0.002, 80.0, K), dtype=torch.float64).flip(0),
            golden[f"edm.{K}.0.002.80.7"],
            rtol=1e-12,
            atol=0,
        )
        assert len(grid) == K
    for K in (2, 40, 151, 201):
        ours = torch.tensor([0.0, *karras_sigmas(0.002, 80.0, K)], dtype=torch.float64).flip(0)
        theirs = golden[f"consistency.karras.{K}.0.002.80.0.f64"]
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    assert karras_sigmas(0.002, 80.0, 1) == [80.0]
