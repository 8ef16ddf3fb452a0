"""At which sizes each network family runs directly: it does at a picture that is no square, or refuses."""

from dataclasses import replace

import pytest
import torch

from models import CONFIG_CLASSES, MODELS, build_model
from models.adm import ADMClassifierConfig, ADMConfig
from models.ddpm_unet import DDPMUNetConfig
from models.diffusers_unet import DiffusersUNetConfig
from models.edm2_unet import EDM2UNetConfig
from models.lucidrains_unet import LucidrainsUNetConfig
from models.mixer import MixerConfig
from models.ncsnpp import NCSNPPConfig
from models.song_unet import SongUNetConfig
from models.xyf_unet import XyfAdaGNUNetConfig, XyfUNetConfig

SMALL = {"image_size": 16, "model_channels": 32, "channel_mult": (1, 1, 1), "num_res_blocks": 1}
SMALL |= {"attention_resolutions": (8,)}
NCSNPP = NCSNPPConfig(**SMALL, num_scales=10)
SONG = SongUNetConfig(**SMALL)
CLASSIFIER = {**SMALL, "out_channels": 5, "num_head_channels": 8}
FIELDS = (
    "block_out_channels: [32, 32, 32]",
    'down_block_types: ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D"]',
    'up_block_types: ["UpBlock2D", "AttnUpBlock2D", "UpBlock2D"]',
    "layers_per_block: 1",
    "sample_size: 16",
)
CONVOLUTIONS = {
    "adm": ADMConfig(**SMALL, out_channels=6, num_heads=2, num_classes=3),
    "adm_updown": ADMConfig(**SMALL, out_channels=3, num_heads=2, resblock_updown=True),
    "adm_classifier": ADMClassifierConfig(**CLASSIFIER, pool="adaptive"),
    "ddpm_unet": DDPMUNetConfig(**SMALL),
    "diffusers_unet": DiffusersUNetConfig(image_size=16, fields=FIELDS),
    "edm2_unet": EDM2UNetConfig(**SMALL, num_head_channels=16),
    "lucidrains_unet": LucidrainsUNetConfig(
        image_size=16, model_channels=32, channel_mult=(1, 1, 1), attention_resolutions=(4,)
    ),
    "ncsnpp": NCSNPP,
    "ncsnpp_residual": replace(NCSNPP, progressive="none", progressive_input="residual"),
    "ncsnpp_no_fir": replace(NCSNPP, fir=False),
    "song_unet": SONG,
    "song_unet_ncsnpp": replace(
        SONG, embedding="fourier", channel_mult_noise=2, resample_filter=(1, 3, 3, 1), encoder_type="residual"
    ),
    "song_unet_skip": replace(SONG, encoder_type="skip", decoder_type="skip"),
    "xyf_unet": XyfUNetConfig(**SMALL),
    "xyf_adagn": XyfAdaGNUNetConfig(**SMALL, num_classes=3, num_head_channels=16),
}
FIXED = {
    "adm_classifier_attention": ADMClassifierConfig(**CLASSIFIER),
    "mixer": MixerConfig(image_size=16, in_channels=3, out_channels=3),
}


def run(config, height, width):
    torch.manual_seed(0)
    network = build_model(config).eval()
    told = [torch.tensor([3.0, 7.0])] + ([torch.tensor([0, 2])] if getattr(config, "num_classes", 0) else [])
    x = torch.randn(2, 3, height, width)
    with torch.no_grad():
        for parameter in network.parameters():  # last layers begin at zero
            parameter.add_(0.02 * torch.randn(parameter.shape))
        return network, x, told, network(x, *told)


def test_every_family_is_here():
    found = {type(config) for config in [*CONVOLUTIONS.values(), *FIXED.values()]}
    others = {"glide"}  # an ADM that is told a text: tests/commands/test_glide_command.py
    assert found == {MODELS[name][0] for name in CONFIG_CLASSES.keys() - others}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_networks_of_convolutions_take_every_multiple(name):
    config = CONVOLUTIONS[name]
    if name == "diffusers_unet":
        pytest.importorskip("diffusers")
    assert config.size_multiple == 4
    network, x, told, out = run(config, 12, 28)
    if out.ndim == 2:
        assert out.shape == (2, 5)
    else:
        assert out.shape == (2, config.out_channels, 12, 28)
        assert out.isfinite().all()
        assert out.std() > 1e-4
    with pytest.raises(ValueError, match="multiples of 4"):
        network(x[:, :, :10], *told)


@pytest.mark.parametrize("name", FIXED)
def test_networks_of_one_size_say_so(name):
    config = FIXED[name]
    assert config.size_multiple is None
    run(config, 16, 16)
    with pytest.raises((ValueError, RuntimeError)):
        run(config, 16, 24)
