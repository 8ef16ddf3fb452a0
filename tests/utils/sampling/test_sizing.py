"""What --size and --tiles amount to with a network, and short memory while tiles are run."""

import pytest
import torch

from diffusions.tiles import Tiles
from models.adm import ADMConfig
from models.mixer import MixerConfig
from utils.config import Config
from utils.diffusion_config import DiffusionConfig
from utils.sampling.sizing import Retrying, find_sizing
from utils.settings import Edit, Translate

DIFFUSION = DiffusionConfig(num_timesteps=10, schedule="cosine")
MIXER = Config(model=MixerConfig(image_size=16, in_channels=3, out_channels=3), diffusion=DIFFUSION)
UNET = Config(
    diffusion=DIFFUSION,
    model=ADMConfig(
        **{"image_size": 16, "out_channels": 3, "model_channels": 32, "channel_mult": (1, 1, 2)},
        **{"num_res_blocks": 1, "attention_resolutions": (8,), "num_heads": 1},
    ),
)


def find(config, **options):
    return find_sizing(Edit(t0=(0.5,), **options), {"weights": config})


def test_without_options_all_is_of_the_model_s_size():
    for config, least in ((MIXER, 16), (UNET, 4)):
        sizing = find(config)
        assert (sizing.size, sizing.tiles(4), sizing.least) == ((16, 16), None, least)
        assert sizing.describe({}) == ["at 16x16"]


def test_a_network_of_one_size_takes_others_by_tiles_alone():
    for size in ("24x16", "input"):
        message = f"--size {size}: the network of --weights takes images of 16x16 alone; add --tiles"
        with pytest.raises(ValueError, match=message):
            find(MIXER, size=size)
        assert find(MIXER, size=size, tiles=True).tiles(4).most == 4
    assert find(MIXER, size="16x16").size == (16, 16)
    with pytest.raises(ValueError, match="the network of --weights_B takes images of 16x16 alone"):
        find_sizing(Translate(class_B=("dog",), size="24x16"), {"weights": UNET, "weights_B": MIXER})


def test_the_evaluations_of_a_picture_are_those_of_its_tiles():
    sizing = find(UNET, tiles=True)
    assert (sizing.size, sizing.shape, sizing.least) == (None, (None, None), 16)
    assert sizing.calls([(16, 16), (24, 40), (9, 99)]) == (1 + 2 * 4) / 2
    assert find(UNET, size="24x40").calls([(24, 40)]) == 1
    assert find(UNET, size="24x40").shape == (40, 24)


def test_short_memory_halves_the_tiles_of_a_call_and_begins_again():
    tiles, seen = Tiles(8, 10), []

    def sampler(items, tensors):
        seen.append(tiles.most)
        if tiles.most > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [[item] for item in items]

    assert Retrying(sampler, tiles)(["a"], {}) == [["a"]]
    assert seen == [10, 5, 3]


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("shapes do not match")])
def test_what_no_smaller_call_mends_goes_on(error):
    def sampler(items, tensors):
        raise error

    with pytest.raises(type(error)):
        Retrying(sampler, Tiles(8, 1))(["a"], {})
