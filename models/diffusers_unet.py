"""diffusers' own UNet2DModel, for the networks of it that none of ours computes."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from models.layers import check_labels, check_size


@dataclass(frozen=True, kw_only=True)
class DiffusersUNetConfig:
    """The fields of a UNet2DModel, as its config.json has them."""

    image_size: int
    """Height and width of the images, in pixels."""
    in_channels: int = 3
    out_channels: int = 3
    """Those of the images; twice as many where the network learned its variance."""
    num_classes: int | None = None
    fields: tuple[str, ...]
    """What diffusers is told, each 'name: value' with the value in JSON."""

    def __post_init__(self):
        self.facts()

    def facts(self) -> dict[str, Any]:
        """Return the arguments of UNet2DModel.

        Raises:
            ValueError: A field is none.
        """
        facts = {}
        for field in self.fields:
            name, _, value = field.partition(": ")
            try:
                facts[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(
                    f"fields: {field[:80]!r}: expected 'name: value', the value in JSON"
                ) from None
        return facts

    @property
    def size_multiple(self) -> int | None:
        """What height and width must be multiples of; None where the network knows no size but its own."""
        blocks = self.facts().get("down_block_types")
        return 2 ** ((len(blocks) if isinstance(blocks, list) else 4) - 1)  # it has four by default


class DiffusersUNet(nn.Module):
    """A UNet2DModel, called as our networks are, under its own keys.

    Weights may have other dtypes than what flows between them, as `cast_network` makes it: each layer gets
    its input in the dtype of its weight.
    """

    float32_modules = ("time_embedding", "class_embedding", "conv_out")

    def __init__(self, config: DiffusersUNetConfig):
        super().__init__()
        self.config = config
        unet = _make_unet(config.facts())
        for name, module in unet.named_children():
            self.add_module(name, module)
        self._call = [unet]  # in a list, for its keys to be those of its children alone
        for module in self.modules():
            if isinstance(module, _ConvNd | nn.Linear | nn.GroupNorm | nn.LayerNorm):
                module.register_forward_pre_hook(_cast_input)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: Training timesteps, or sigma of a score network, shape [B].
            y: Class indices, shape [B]; needed when the network has classes.

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple, or y is given or missing wrongly.
        """
        check_size(x, self.config.size_multiple)
        check_labels(y, self.config.num_classes)
        if y is None and self.config.num_classes is not None:
            raise ValueError(f"this network needs a class in 0..{self.config.num_classes - 1}, got y = None")
        return self._call[0](x, t, class_labels=y).sample.to(x.dtype)


def _cast_input(layer: nn.Module, inputs: tuple) -> tuple:
    x, *rest = inputs
    return (x if layer.weight is None else x.to(layer.weight.dtype), *rest)


def _make_unet(facts: dict[str, Any]) -> nn.Module:
    """Build diffusers' network.

    Raises:
        ValueError: diffusers is not installed, or makes no network of such fields.
    """
    with torch.device("cpu"):  # what it makes at its import is no network's
        try:
            from diffusers import UNet2DModel
        except ImportError:
            raise ValueError(
                "this network needs diffusers, which is not installed: pip install diffusers"
            ) from None

    class Float32UNet(UNet2DModel):
        """Forms the embedding of the time in float32, whatever its layers are in."""

        dtype = torch.float32

    try:
        unet = Float32UNet(**facts)
    except Exception as error:  # of whatever kind the field makes them
        raise ValueError(f"diffusers makes no UNet2DModel of these fields: {str(error)[:200]}") from None
    if any(True for _ in unet.buffers()):
        raise ValueError(
            "fields: blocks of K-diffusion, which hold filters that no file has, are not supported"
        )
    return unet
