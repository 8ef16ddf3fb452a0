"""The networks, by the name that a config's model.name takes."""

from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from models.adm import ADM, ADMClassifier, ADMClassifierConfig, ADMConfig
from models.autoencoder import Autoencoder, AutoencoderConfig
from models.ddib_mlp import DDIBMLP, DDIBMLPConfig
from models.ddpm_unet import DDPMUNet, DDPMUNetConfig
from models.diffusers_unet import DiffusersUNet, DiffusersUNetConfig
from models.edm2_unet import EDM2UNet, EDM2UNetConfig
from models.glide import GLIDE, GLIDEConfig
from models.lucidrains_unet import LucidrainsUNet, LucidrainsUNetConfig
from models.mixer import Mixer, MixerConfig
from models.ncsnpp import NCSNPP, NCSNPPConfig
from models.point_mlp import PointMLP, PointMLPConfig
from models.song_unet import SongUNet, SongUNetConfig
from models.text_unet import TextUNet, TextUNetConfig
from models.xyf_unet import XyfAdaGNUNet, XyfAdaGNUNetConfig, XyfUNet, XyfUNetConfig

__all__ = ["CONFIG_CLASSES", "MODELS", "PARTS", "build_empty", "build_model"]

MODELS: dict[str, tuple[type, type[nn.Module]]] = {
    "adm": (ADMConfig, ADM),
    "adm_classifier": (ADMClassifierConfig, ADMClassifier),
    "ddib_mlp": (DDIBMLPConfig, DDIBMLP),
    "ddpm_unet": (DDPMUNetConfig, DDPMUNet),
    "diffusers_unet": (DiffusersUNetConfig, DiffusersUNet),
    "edm2_unet": (EDM2UNetConfig, EDM2UNet),
    "glide": (GLIDEConfig, GLIDE),
    "lucidrains_unet": (LucidrainsUNetConfig, LucidrainsUNet),
    "mixer": (MixerConfig, Mixer),
    "ncsnpp": (NCSNPPConfig, NCSNPP),
    "point_mlp": (PointMLPConfig, PointMLP),
    "song_unet": (SongUNetConfig, SongUNet),
    "text_unet": (TextUNetConfig, TextUNet),
    "xyf_unet": (XyfUNetConfig, XyfUNet),
    "xyf_adagn": (XyfAdaGNUNetConfig, XyfAdaGNUNet),
}

CONFIG_CLASSES = {
    name: config_class
    for name, (config_class, _) in MODELS.items()
    if "image_size" in config_class.__dataclass_fields__ and name != "text_unet"
}
"""What utils.config needs to read a config's model section: networks for images that a file holds whole."""
PARTS = {"text_unet": TextUNetConfig, "autoencoder": AutoencoderConfig}
"""What utils.pipelines needs to read a folder of diffusers that makes pictures from text."""


def build_model(config: Any) -> nn.Module:
    """Build the network that a config describes, with random weights.

    Args:
        config: An instance of one of the config dataclasses in MODELS.

    Raises:
        ValueError: The config is of no known network.
    """
    for config_class, network_class in (*MODELS.values(), (AutoencoderConfig, Autoencoder)):
        if type(config) is config_class:
            return network_class(config)
    known = ", ".join(config_class.__name__ for config_class, _ in MODELS.values())
    raise ValueError(f"no network for a config of type {type(config).__name__}; known are {known}")


def build_empty(config: Any) -> nn.Module:
    """Build the network that a config describes on the meta device: shapes and types, no memory.

    Args:
        config: As for `build_model`.

    Raises:
        ValueError: The config is of no known network.
    """
    with torch.device("meta"), _NoInitialization():
        return build_model(config)


class _NoInitialization(TorchFunctionMode):
    """Leaves out what torch.nn.init does: on the meta device it would import torch's compiler, a second."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return function(*args, **(kwargs or {}))
