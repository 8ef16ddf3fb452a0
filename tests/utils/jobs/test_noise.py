"""Noise belongs to an image: batch, order and neighbours do not change it."""

import torch

from utils.jobs.job import Item
from utils.jobs.noise import ImageNoise, noise_key
from utils.settings import Edit

CPU = torch.device("cpu")
SHAPE = (3, 4, 4)


def draws(seed, names, count=3, sample=0):
    noise = ImageNoise(seed, [(name, sample) for name in names], SHAPE, CPU)
    return torch.stack([noise() for _ in range(count)], dim=1)  # [B, count, C, H, W]


def test_an_image_meets_the_same_noise_in_every_batch():
    whole = draws(7, ["a.png", "b/c.png", "d.png"])
    assert torch.equal(draws(7, ["d.png", "a.png"]), whole[[2, 0]])
    assert torch.equal(draws(7, ["b/c.png"]), whole[[1]])


def test_seed_name_sample_and_draw_each_change_it():
    base = draws(0, ["a.png"], count=2)
    others = [draws(1, ["a.png"]), draws(0, ["b.png"]), draws(0, ["a.png"], sample=1)]
    assert all(not torch.equal(base[:, 0], other[:, 0]) for other in others)
    assert not torch.equal(base[:, 0], base[:, 1])


def test_it_is_standard_normal():
    x = torch.cat([draws(s, ["a", "b", "c", "d"], count=20) for s in range(5)]).flatten()
    assert len(x) == 19200
    assert abs(x.mean()) < 4 / len(x) ** 0.5
    assert abs(x.var() - 1) < 4 * (2 / len(x)) ** 0.5


def test_the_numbers_do_not_change_between_releases():
    torch.testing.assert_close(
        draws(0, ["strokes/apple.png"], count=1)[0, 0, 0, 0],
        torch.tensor([-1.1052135, -0.6035817, -0.9994478, -0.1049286]),
        atol=1e-6,
        rtol=0,
    )


def test_large_seeds_and_odd_names_are_fine():
    assert draws(2**80, ["caf\udce9.png"]).isfinite().all()


def test_another_device_is_given_the_same_noise_drawn_ahead():
    keys, shape = [("a.png", 0), ("b.png", 1)], (3, 4, 4)
    here = ImageNoise(5, keys, shape, torch.device("cpu"))
    there = ImageNoise(5, keys, shape, torch.device("meta"))
    there._device = torch.device("cpu")  # only its values can be looked at
    for _ in range(4):
        assert torch.equal(here(), there())


def test_the_frames_of_a_folder_share_their_noise_where_that_is_wanted_and_regions_never_do():
    frames = [Item(f"clip/{i}.png", 0, "") for i in range(2)]
    parts = [Item("a.png", 1, "", part) for part in range(2)]
    by_name, by_folder, by_region = (
        Edit(t0=(0.5,), **options) for options in ({}, {"noise_by": "folder"}, {"region": "mask"})
    )
    assert [noise_key(item, by_name) for item in frames] == [("clip/0.png", 0), ("clip/1.png", 0)]
    assert [noise_key(item, by_folder) for item in frames] == [("clip/", 0)] * 2
    assert [noise_key(item, by_name) for item in parts] == [("a.png", 1)] * 2  # frames of an animation
    assert [noise_key(item, by_region) for item in parts] == [("a.png", 1), ("a.png", 1, 1)]
