"""DDIB on points and colours: the domains, the training, and small runs of the tools."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Generator, Tensor

from diffusions import decode, encode
from models.point_mlp import PointMLP, PointMLPConfig
from models.precision import cast_network
from tools.studies import plot_2d, train_2d, transfer_colors
from tools.studies.domains_2d import BLUR, DOMAINS, WIDTH
from tools.studies.points import points_process, points_schedule, train_network, v_loss

COUNT = 20000
TINY = PointMLPConfig(model_channels=16, num_res_blocks=1)


def generator(seed: int = 0) -> Generator:
    return Generator().manual_seed(seed)


def unscaled(name: str) -> tuple[Tensor, Tensor]:
    """Draw points of a domain and undo its scaling: x and y, each [N]."""
    domain = DOMAINS[name]
    points = domain.sample(COUNT, generator()).double() * domain.scale + torch.tensor(domain.centre)
    return points[:, 0], points[:, 1]


@pytest.mark.parametrize("name", DOMAINS)
def test_domains_have_mean_0_variance_1_and_a_seed(name):
    points = DOMAINS[name].sample(COUNT, generator())
    assert (points.shape, points.dtype) == ((COUNT, 2), torch.float32)
    assert points.mean(dim=0).abs().max() < 5 * 1.4 / math.sqrt(COUNT)
    assert abs(points.var(dim=0).mean() - 1) < 0.03
    assert torch.equal(points, DOMAINS[name].sample(COUNT, generator()))
    assert not torch.equal(points, DOMAINS[name].sample(COUNT, generator(1)))


def distance_to_arc(x: Tensor, y: Tensor) -> Tensor:
    """Return the distance of points to the upper half of the circle of radius 1 about the origin."""
    to_ends = torch.minimum(torch.hypot(x - 1, y), torch.hypot(x + 1, y))
    return torch.where(y > 0, (torch.hypot(x, y) - 1).abs(), to_ends)


def test_moons_are_two_half_circles():
    x, y = unscaled("moons")
    off = torch.stack([distance_to_arc(x, y), distance_to_arc(x - 1, 0.5 - y)])
    nearest, which = off.min(dim=0)
    assert nearest.max() < 6 * BLUR
    assert abs(nearest.square().mean().sqrt() - BLUR) < 0.1 * BLUR
    assert abs(which.double().mean() - 0.5) < 0.02


def test_checkerboards_fill_every_second_square_evenly():
    x, y = unscaled("checkerboards")
    assert max(x.abs().max(), y.abs().max()) <= 2
    # float32 may carry a point at an edge over it
    inner = ((x % 1 - 0.5).abs() < 0.499) & ((y % 1 - 0.5).abs() < 0.499)
    column, row = (x[inner].floor() + 2).long(), (y[inner].floor() + 2).long()
    assert ((column + row) % 2 == 0).all()
    shares = torch.bincount(4 * column + row, minlength=16).double() / len(column)
    assert (shares > 0).sum() == 8
    assert (shares[shares > 0] - 1 / 8).abs().max() < 0.015


OUTLINES = {
    "concentric_rings": ((1, 2, 3), (0, 0, 0), torch.hypot),
    "parallel_rings": ((1, 1, 1), (-2.8, 0, 2.8), torch.hypot),
    "concentric_squares": ((1, 2, 3), (0, 0, 0), lambda x, y: torch.maximum(x.abs(), y.abs())),
    "parallel_squares": ((1, 1, 1), (-3, 0, 3), lambda x, y: torch.maximum(x.abs(), y.abs())),
}


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_are_as_thick_as_stated_and_alike_in_share(name):
    radii, centres, radius = OUTLINES[name]
    x, y = unscaled(name)
    off = torch.stack([radius(x - c, y) - r for r, c in zip(radii, centres, strict=True)])
    nearest, which = off.abs().min(dim=0)
    assert nearest.max() < WIDTH / 2 + 1e-5
    shares = torch.bincount(which, minlength=3) / COUNT
    assert (shares - 1 / 3).abs().max() < 0.02
    # even over the thickness, and in all four quarters around each centre
    place = off.gather(0, which[None])[0] / WIDTH + 0.5
    assert (torch.histc(place, 10, 0, 1) / COUNT - 0.1).abs().max() < 0.015
    quarters = 2 * (x - torch.tensor(centres)[which] > 0).long() + (y > 0).long()
    assert (torch.bincount(quarters) / COUNT - 0.25).abs().max() < 0.02


def held_out_loss(network) -> float:
    points = DOMAINS["checkerboards"].sample(COUNT, generator(8))
    with torch.no_grad():
        return v_loss(network, points_schedule(), points, generator(9)).item()


def test_training_reduces_the_loss_and_follows_its_seed():
    draw = DOMAINS["checkerboards"].sample
    network, losses = train_network(draw, TINY, num_steps=200, batch=128)
    assert len(losses) == 200
    untrained, _ = train_network(draw, TINY, num_steps=1, batch=128)
    assert abs(losses[0] - 1) < 0.2  # the mean square of v is 1
    assert held_out_loss(network) < held_out_loss(untrained) - 0.02
    again, _ = train_network(draw, TINY, num_steps=200, batch=128)
    other, _ = train_network(draw, TINY, num_steps=200, batch=128, seed=1)
    state = network.state_dict()
    assert all(torch.equal(tensor, state[key]) for key, tensor in again.state_dict().items())
    assert not torch.equal(other.out.weight, state["out.weight"])
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_training_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    train_network(DOMAINS["moons"].sample, TINY, num_steps=2, batch=8)
    assert torch.equal(before, torch.get_rng_state())


def test_points_come_back_through_the_latents_of_the_shipped_networks():
    networks = train_2d.load_networks(train_2d.WEIGHTS)
    assert list(networks) == list(DOMAINS)
    process = points_process(25)
    for name, network in networks.items():
        points = DOMAINS[name].sample(200, generator(3))
        with torch.no_grad():
            latents = encode(process, network, points)
            returned = decode(process, network, latents)
        assert (returned - points).norm(dim=1).mean() < 0.02
        assert (latents.std(dim=0) - 1).abs().max() < 0.2
        assert latents.mean(dim=0).abs().max() < 0.3


def test_shipped_networks_translate_into_the_target_domain():
    networks = train_2d.load_networks(train_2d.WEIGHTS)
    names = ("moons", "concentric_squares")
    points = {name: DOMAINS[name].sample(150, generator(4)) for name in names}
    kept = {name: networks[name] for name in names}
    translations = plot_2d.Translations(points_process(25), kept, points)
    for source in names:
        for target in names:
            fresh = DOMAINS[target].sample(COUNT, generator(5))
            near = plot_2d.nearest_distance(translations.results[source][target], fresh) < plot_2d.NEAR
            assert near.float().mean() > 0.9
            assert translations.cycle_distances(source, target).mean() < 0.05


def test_the_2d_tools_run_from_training_to_figure(tmp_path, monkeypatch, capsys):
    weights, figure = tmp_path / "w.safetensors", tmp_path / "f.png"
    monkeypatch.setattr(train_2d, "CONFIG", TINY)
    monkeypatch.setattr(train_2d, "ProcessPoolExecutor", InThisProcess)
    train_2d.main(["--weights", str(weights), "--steps", "3"])
    plot_2d.main(
        ["--weights", str(weights), "--figure", str(figure), "--points", "20", "--respace_steps", "3"]
    )
    printed = capsys.readouterr().out
    assert printed.count("| parallel squares |") == 4  # a head and a row in each of two tables
    with Image.open(figure) as image:
        assert image.width > image.height > 500


class InThisProcess:
    def __init__(self, *_):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def map(self, function, items):
        return map(function, items)


def test_weights_of_something_else_are_refused():
    with pytest.raises(
        ValueError, match=r"fruits64\.safetensors: not what tools\.studies\.train_2d writes: moons"
    ):
        train_2d.load_networks(train_2d.WEIGHTS.with_name("fruits64.safetensors"))


def test_the_network_is_the_same_in_float64_and_close_in_bfloat16():
    network = train_2d.load_networks(train_2d.WEIGHTS)["moons"]
    x, t = DOMAINS["moons"].sample(50, generator()), torch.arange(0, 1000, 20)
    exact = PointMLP(PointMLPConfig()).double().requires_grad_(False)
    exact.load_state_dict(network.state_dict())
    torch.testing.assert_close(network(x, t).double(), exact(x.double(), t), rtol=0, atol=1e-4)
    rough = cast_network(network, torch.bfloat16)(x, t)
    assert rough.dtype == torch.float32
    assert (rough - exact(x.double(), t)).norm() / exact(x.double(), t).norm() < 0.05


def cloud(path, mean: tuple[int, int, int], spread: float, size: tuple[int, int]) -> np.ndarray:
    """Save a picture of one normally distributed colour."""
    pixels = np.random.default_rng(sum(mean)).normal(mean, spread, (*size, 3)).round().clip(0, 255)
    Image.fromarray(pixels.astype(np.uint8)).save(path)
    return pixels


def test_colours_move_to_those_of_the_reference(tmp_path):
    source = cloud(tmp_path / "s.png", (60, 90, 180), 15, (24, 40))
    reference = cloud(tmp_path / "r.png", (200, 140, 60), 15, (32, 32))
    paths = [str(tmp_path / name) for name in ("s.png", "r.png", "out/t.png")]
    transfer_colors.main([*paths, "--train_steps", "400", "--respace_steps", "12"])
    with Image.open(paths[2]) as image:
        assert image.size == (40, 24)
        assert "compositeWithTrainedAlgorithmicMedia<" in image.text["XML:com.adobe.xmp"]
        result = np.asarray(image).astype(float)
    moved = np.abs(result.mean((0, 1)) - reference.mean((0, 1)))
    assert moved.max() < 15
    assert np.abs(source.mean((0, 1)) - reference.mean((0, 1))).min() > 45
    # what was bright in the source is bright in the result
    assert np.corrcoef(source.sum(2).ravel(), result.sum(2).ravel())[0, 1] > 0.7


def test_pictures_that_cannot_be_read_are_named(tmp_path, capsys):
    (tmp_path / "s.png").write_bytes(b"no picture")
    with pytest.raises(SystemExit, match="2"):
        transfer_colors.main([str(tmp_path / "s.png"), "missing.png", str(tmp_path / "t.png")])
    assert "s.png: not an image" in capsys.readouterr().err
