"""Respacing: published lists where they are right, exact counts where they are not."""

from itertools import pairwise

import pytest
from golden_samplers import read_timesteps

from diffusions import respace

SPACINGS = ["uniform", "uniform-leading", "uniform-linspace", "uniform-trailing", "quad", "quad90"]


def entries(program, **fixed):
    chosen = [
        e for e in read_timesteps()[program] if all(e.get(key) == value for key, value in fixed.items())
    ]
    assert chosen
    return chosen


@pytest.mark.parametrize("name", SPACINGS)
@pytest.mark.parametrize("T", [1, 2, 3, 10, 97, 1000])
def test_exactly_as_many_as_asked_for(name, T):
    for K in {1, 2, 3, 7, 30, 64, 300, T // 2, T - 1, T} & set(range(1, T + 1)):
        timesteps = respace(name, T, K)
        assert len(timesteps) == K
        assert timesteps[0] >= 0
        assert timesteps[-1] < T
        assert all(a < b for a, b in pairwise(timesteps))
    assert respace(name, T) == respace(name, T, T) == list(range(T))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("uniform", [0, 142, 285, 428, 571, 714, 857]),
        ("uniform-leading", [0, 142, 285, 428, 571, 714, 857]),
        ("uniform-linspace", [0, 166, 333, 500, 666, 832, 999]),
        ("uniform-trailing", [142, 285, 428, 570, 713, 856, 999]),
        ("quad", [0, 22, 88, 200, 355, 555, 800]),
        ("quad90", [0, 25, 100, 225, 400, 625, 900]),
    ],
)
def test_seven_of_a_thousand(name, expected):
    assert respace(name, 1000, 7) == expected


def test_one_step():
    assert [respace(name, 1000, 1) for name in SPACINGS] == [[0], [0], [0], [999], [0], [0]]


def test_openai_strings():
    for entry in read_timesteps()["guided_diffusion"]:
        spec = entry["spec"]
        if isinstance(spec, list):
            spec = ",".join(map(str, spec))
        spec = spec.strip("[]").replace(" ", "")
        if "error" in entry:
            with pytest.raises(ValueError, match="cannot keep"):
                respace(spec, entry["T"])
        else:
            assert respace(spec, entry["T"]) == entry["timesteps"], entry["spec"]
            assert respace(spec, entry["T"], len(entry["timesteps"])) == entry["timesteps"]


@pytest.mark.parametrize(("ours", "theirs"), [("uniform", "leading"), ("uniform-linspace", "linspace")])
def test_diffusers(ours, theirs):
    for entry in entries("diffusers", spacing=theirs):
        offset = entry["steps_offset"] if theirs == "leading" else 0
        if 1000 % entry["steps"] == 0 or theirs != "leading":
            expected = [t - offset for t in reversed(entry["DDIMScheduler"])]
            assert respace(ours, entry["T"], entry["steps"]) == expected


def test_diffusers_trailing():
    for entry in entries("diffusers", spacing="trailing"):
        assert respace("uniform-trailing", entry["T"], entry["steps"]) == entry["DDIMInverseScheduler"]


def test_xyf_where_the_count_divides():
    for kind in ("uniform", "uniform-leading", "uniform-trailing"):
        for entry in entries("xyf_HEAD", type=kind):
            if entry["T"] % entry["steps"] == 0:
                assert respace(kind, entry["T"], entry["steps"]) == entry["timesteps"]


@pytest.mark.parametrize(("T", "steps", "got"), [(1000, 30, 31), (100, 7, 8)])
def test_xyf_uniform_keeps_too_many_elsewhere(T, steps, got):
    for kind in ("uniform", "uniform-leading", "uniform-trailing"):
        (entry,) = entries("xyf_HEAD", type=kind, T=T, steps=steps)
        assert entry["count"] == got
        assert len(respace(kind, T, steps)) == steps


def test_xyf_linspace_truncates_where_openai_rounds():
    (entry,) = entries("xyf_HEAD", type="uniform-linspace", T=1000, steps=50)
    assert entry["timesteps"][:6] == [0, 20, 40, 61, 81, 101]
    assert respace("uniform-linspace", 1000, 50)[:6] == [0, 20, 41, 61, 82, 102]
    assert respace("uniform-linspace", 1000, 50) == respace("50", 1000)


def test_quad_without_duplicates():
    for entry in entries("xyf_HEAD", type="quad"):
        ours = respace("quad", entry["T"], entry["steps"])
        assert ours[-1] == entry["timesteps"][-1] == round(0.8 * entry["T"])
        if entry["duplicates"] == 0:
            assert ours == entry["timesteps"]
    (entry,) = entries("xyf_HEAD", type="quad", T=1000, steps=100)
    assert entry["duplicates"] == 4
    assert entry["timesteps"][:8] == [0, 0, 0, 0, 1, 2, 2, 3]
    assert respace("quad", 1000, 100)[:8] == [0, 1, 2, 3, 4, 5, 6, 7]


def test_none_keeps_all():
    assert respace("none", 4) == respace("none", 4, 4) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("uniform", 1000, 0), "uniform respacing cannot keep 0 of 1000 timesteps; choose from 1 to 1000"),
        (("quad", 10, 11), "quad respacing cannot keep 11 of 10 timesteps; choose from 1 to 10"),
        (("uniform-trailing", 10, -1), "choose from 1 to 10"),
        (("none", 10, 5), "'none' keeps 10 of 10 timesteps, not 5; ask for 10 steps, or choose a respacing"),
        (("ddim25", 1000, 100), "'ddim25' keeps 25 of 1000 timesteps, not 100; ask for 25 steps"),
        (("ddim300", 1000), "no whole stride keeps 300 .* nearest that work are ddim250 and ddim334"),
        (("ddim0", 10), "no whole stride keeps 0 of 10 timesteps"),
        (("10,40", 60), "section 2 of 2 holds 30 of 60 timesteps and cannot keep 40; choose from 0 to 30"),
        (("0,0", 10), "'0,0' keeps no timestep; ask for at least 1"),
        (("Uniform", 10, 5), "unknown respacing 'Uniform', choose one of uniform, uniform-leading"),
        (("10,", 100), "unknown respacing '10,'"),
        (("uniform", 0, 1), "num_timesteps must be at least 1, got 0"),
    ],
)
def test_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        respace(*arguments)
