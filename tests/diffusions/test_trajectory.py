"""The way of a walk: which states are kept, how they are shown, and that looking changes nothing."""

import math
from itertools import pairwise

import pytest
import torch
from golden_samplers import Replay, ddpm_schedule
from solver_cases import A_DATA, B_DATA, Problem, X, as_latent
from test_sdedit_masks import CASES, GUIDE, SOFT, draws

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    DPMSolver,
    FixedPointInversion,
    Heun,
    SourceInversion,
    decode,
    edit,
    encode,
    make_ve_schedule,
    record_noise,
    replay_noise,
)
from diffusions.trajectory import Trajectory, frames

SMALL = DDIM(ddpm_schedule("linear", 100), [0, 30, 60, 99])
SOLVERS = [DDIM, SourceInversion, FixedPointInversion, Heun, BDIA]


def kept(num_states, num_steps):
    """Which of the states of a walk are kept, by their number."""
    way = Trajectory(SMALL, num_states, num_steps)
    for number in range(num_steps):
        way(torch.full((1, 3, 2, 2), float(number)), 0)
    return [int(state.max()) for state in way.states]


class Seen(list):
    """Keeps all that is shown."""

    def __call__(self, x_t, level):
        self.append((level, x_t.clone()))

    @property
    def levels(self):
        return [level for level, _ in self]


@pytest.mark.parametrize(
    ("num_states", "num_steps", "numbers"),
    [
        (0, 5, []),
        (1, 5, [0]),
        (2, 5, [0, 2]),
        (3, 6, [0, 2, 4]),
        (4, 10, [0, 2, 5, 7]),
        (5, 5, [0, 1, 2, 3, 4]),
        (9, 5, [0, 1, 2, 3, 4]),
        (9, 1, [0]),
    ],
)
def test_which_states_are_kept(num_states, num_steps, numbers):
    assert kept(num_states, num_steps) == numbers


def test_the_states_and_the_end_are_evenly_spaced():
    for num_steps in range(1, 30):
        for num_states in range(1, 35):
            marks = [*kept(num_states, num_steps), num_steps]
            gaps = [high - low for low, high in pairwise(marks)]
            assert marks[0] == 0
            assert len(gaps) == min(num_states, num_steps)
            assert max(gaps) - min(gaps) <= 1
            assert min(gaps) >= 1


@pytest.mark.parametrize("schedule", [ddpm_schedule("linear", 100), make_ve_schedule(0.02, 50.0, 100)])
def test_states_are_shown_in_the_range_of_images(schedule):
    """Divided by sqrt(signal^2 + noise^2): for VP the state, for VE near the noise at the top."""
    process = DDPM(schedule, range(9, 100, 10))
    x = torch.full((1, 1, 100, 100), 0.5)
    z = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    for level in range(11):
        here, state = process.levels[level], process.diffuse(x, level, z)
        image = process.shown(state, level)
        torch.testing.assert_close(image, state / math.hypot(here.signal, here.noise))
        assert image.std().item() == pytest.approx(here.noise / math.hypot(here.signal, here.noise), abs=0.02)
    assert torch.equal(process.shown(x, 0), x)


def test_of_a_pair_of_states_the_first_is_shown():
    process = Problem("ve", 4).process(BDIA)
    pair = torch.arange(8.0).view(1, 8)
    scale = math.hypot(1, process.levels[2].noise)
    torch.testing.assert_close(process.shown(pair, 2), pair[:, :4] / scale)
    assert torch.equal(process.shown(pair, 0), pair)


@pytest.mark.parametrize("options", [{}, {"mask": SOFT}, {"strength": SOFT}])
@pytest.mark.parametrize("name", CASES)
def test_an_edit_is_the_same_when_it_is_watched(name, options):
    process, model = CASES[name]
    plain, watched, seen = draws(), draws(), Seen()
    expected = edit(process, model, GUIDE, 4, plain, repeats=2, **options)
    actual = edit(process.watched(seen), model, GUIDE, 4, watched, repeats=2, **options)
    assert torch.equal(actual, expected)
    assert watched.used == plain.used
    assert seen.levels == [4, 3, 2, 1, 4, 3, 2, 1]


def test_what_is_seen_of_a_masked_edit_is_composited():
    process, model = CASES["ddpm"]
    seen, noise = Seen(), draws()
    edit(process.watched(seen), model, GUIDE, 4, noise, mask=SOFT, fixed_noise=True)
    first, kept = draws()(), (SOFT == 0).expand(GUIDE.shape)
    for level, state in seen:
        assert torch.equal(state[kept], process.diffuse(GUIDE, level, first)[kept])


@pytest.mark.parametrize("kind", ["vp", "ve"])
@pytest.mark.parametrize("method", SOLVERS)
def test_both_ways_are_the_same_when_they_are_watched(method, kind):
    problem, up, down = Problem(kind, 7), Seen(), Seen()
    process, model = problem.process(method), problem.model(A_DATA)
    latent = encode(process, model, X)
    assert torch.equal(encode(process.watched(up), model, X), latent)
    assert torch.equal(decode(process.watched(down), model, latent), decode(process, model, latent))
    assert up.levels == [0, 1, 2, 3, 4, 5, 6]
    assert down.levels == [7, 6, 5, 4, 3, 2, 1]
    assert torch.equal(up[0][1], X)
    assert torch.equal(down[0][1], latent)


def test_the_multistep_solver_is_the_same_when_it_is_watched():
    problem, seen = Problem("vp", 7), Seen()
    process, model = problem.process(DPMSolver), problem.model(A_DATA)
    latent = as_latent(process, problem.latent(A_DATA, X))
    assert torch.equal(decode(process.watched(seen), model, latent), decode(process, model, latent))
    assert seen.levels == [7, 6, 5, 4, 3, 2, 1]


@pytest.mark.parametrize("kind", ["vp", "ve"])
def test_cycle_diffusion_is_the_same_when_it_is_watched(kind):
    problem, up, down = Problem(kind, 7), Seen(), Seen()
    process = problem.process(DDPM)
    source, target = (problem.model(data) for data in (A_DATA, B_DATA))
    noise = torch.randn(7, *X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
    recording = record_noise(process, source, X, Replay(noise, X.dtype))
    again = record_noise(process.watched(up), source, X, Replay(noise, X.dtype))
    assert torch.equal(again.x_t, recording.x_t)
    assert torch.equal(again.noises, recording.noises)
    expected = recording.x_t
    for level, added in zip(range(7, 0, -1), recording.noises, strict=True):
        expected = process.step(target, expected, level, level - 1, lambda: torch.zeros_like(X)) + added
    assert torch.equal(replay_noise(process.watched(down), target, recording), expected)
    assert up.levels == down.levels == [7, 6, 5, 4, 3, 2, 1]


def test_a_way_that_is_recorded_from_noise_down_is_turned_round():
    """Of levels 9 to 1 those of 9, 6 and 3 are kept: with the image, and without 9, it is the way up."""
    problem, seen = Problem("vp", 9), Seen()
    process, model = problem.process(DDPM), problem.model(A_DATA)
    way = Trajectory(process, 3, 9)
    for look in (seen, way):
        noise = torch.randn(9, *X.shape, generator=torch.Generator().manual_seed(0), dtype=X.dtype)
        record_noise(process.watched(look), model, X, Replay(noise, X.dtype))
    way.turn_round(X)
    states = dict(seen)
    assert len(way.states) == 3
    assert way.levels == [0, 3, 6]
    for state, expected in zip(way.states, [X, states[3], states[6]], strict=True):
        torch.testing.assert_close(state, expected, rtol=0, atol=1e-15)
    nothing = Trajectory(process, 0, 9)
    nothing.turn_round(X)
    assert nothing.states == []


def test_only_the_copy_is_watched():
    seen = Seen()
    SMALL.watched(seen)
    encode(SMALL, lambda x, t: 0 * x, torch.zeros(1, 3, 2, 2))
    encode(SMALL.watched(seen).watched(None), lambda x, t: 0 * x, torch.zeros(1, 3, 2, 2))
    assert seen == []
    encode(SMALL.watched(seen).guided(None), lambda x, t: 0 * x, torch.zeros(1, 3, 2, 2))
    assert seen.levels == [0, 1, 2, 3]


def test_frames_are_the_states_of_all_walks_and_the_result():
    up, down = Trajectory(SMALL, 2, 4), Trajectory(SMALL, 9, 4)
    x = torch.linspace(-1, 1, 24).view(2, 3, 2, 2)

    def model(x, t):
        return 0.1 * x

    latent = encode(SMALL.watched(up), model, x)
    result = decode(SMALL.watched(down), model, latent)
    joined = frames(result, up, down)
    assert joined.shape == (2, 2 + 4 + 1, 3, 2, 2)
    assert (up.levels, down.levels) == ([0, 2], [4, 3, 2, 1])
    assert torch.equal(joined[:, 0], x)
    assert torch.equal(joined[:, 2], SMALL.shown(latent, 4))
    assert torch.equal(joined[:, -1], result)


@pytest.mark.parametrize("method", [DDIM, BDIA])
def test_what_is_kept_stays_on_the_device_without_reading_a_value(method):
    process = method(ddpm_schedule("linear", 100), [0, 30, 60, 99])
    x, way = torch.zeros(2, 3, 4, 4, device="meta"), Trajectory(process, 3, 4)
    latent = encode(process.watched(way), lambda x, t: 0.3 * x, x)
    assert frames(x, way).device.type == "meta"
    assert frames(x, way).shape == (2, 4, 3, 4, 4)
    assert latent.device.type == "meta"
