"""The MLP-Mixer of Sampson et al. (2024, arXiv:2401.07313), its layers named as in galaxygrad."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import add, to_map

LIMITS = {
    "image_size": (1, 8192),
    "in_channels": (1, 1024),
    "out_channels": (1, 1024),
    "patch_size": (1, 8192),
    "hidden": (1, 8192),
    "num_blocks": (1, 128),
    "mix_patches": (1, 65536),
    "mix_hidden": (1, 65536),
    "t_end": (1e-6, 1e6),
}
"""Least and greatest value of a config's numbers: beyond, they are mistakes that only show in a crash."""


@dataclass(frozen=True, kw_only=True)
class MixerConfig:
    """The defaults are what the published networks have in common."""

    image_size: int
    """Height and width of the images, in pixels: the network knows no other size."""
    in_channels: int = 1
    """Those of the images; the time is one more."""
    out_channels: int = 1
    patch_size: int = 4
    """Height and width of a patch, in pixels."""
    hidden: int = 64
    """Channels of a patch."""
    num_blocks: int = 4
    mix_patches: int = 512
    """Width of the layer that mixes the patches of a channel."""
    mix_hidden: int = 512
    """Width of the layer that mixes the channels of a patch."""
    t_end: float = 10.0
    """The last time, which the time channel calls 1."""

    def __post_init__(self):
        for name, (low, high) in LIMITS.items():
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} {getattr(self, name)}: allowed is {low} to {high}")
        if self.image_size % self.patch_size:
            raise ValueError(
                f"image_size {self.image_size}: allowed are multiples of patch_size {self.patch_size}"
            )

    @property
    def size_multiple(self) -> int | None:
        """What height and width must be multiples of; None where the network knows no size but its own."""
        return None

    @property
    def num_patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2


class MLP(nn.Module):
    """Two layers with a ReLU between them, over the last dimension."""

    def __init__(self, width: int, inner: int):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, inner), nn.Linear(inner, width)])

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.layers
        return second(F.relu(first(x)))


class LayerNorm(nn.LayerNorm):
    """LayerNorm in the precision of its parameters, which gives what it took in."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(x.dtype)


class MixerBlock(nn.Module):
    """Mixes the patches of each channel, then the channels of each patch."""

    def __init__(self, config: MixerConfig):
        super().__init__()
        num_patches, hidden = config.num_patches, config.hidden
        self.patch_mixer = MLP(num_patches, config.mix_patches)
        self.hidden_mixer = MLP(hidden, config.mix_hidden)
        self.norm1 = LayerNorm((hidden, num_patches))
        self.norm2 = LayerNorm((num_patches, hidden))

    def forward(self, h: Tensor) -> Tensor:
        """h [B, hidden, patches] to the same shape."""
        h = add(self.patch_mixer(self.norm1(h)), h).transpose(1, 2)
        return add(self.hidden_mixer(self.norm2(h)), h).transpose(1, 2)


class Mixer(nn.Module):
    """Scores of a variance-preserving process, told the time itself.

    Patches become tokens, blocks mix them, and a transposed convolution makes them patches again. The norms
    are taken over all channels and patches at once.
    """

    float32_modules = ("conv_in", "conv_out")

    def __init__(self, config: MixerConfig):
        super().__init__()
        self.config = config
        hidden, size = config.hidden, config.patch_size
        # in the order of the published files, whose tensors have no names
        self.conv_in = nn.Conv2d(config.in_channels + 1, hidden, size, stride=size)
        self.conv_out = nn.ConvTranspose2d(hidden, config.out_channels, size, stride=size)
        self.blocks = nn.ModuleList(MixerBlock(config) for _ in range(config.num_blocks))
        self.norm = LayerNorm((hidden, config.num_patches))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the score of noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, image_size, image_size].
            t: Times, 0 to t_end, shape [B].

        Returns:
            Score in the dtype of x, shape [B, out_channels, image_size, image_size].

        Raises:
            ValueError: The images are of another size.
        """
        size = self.config.image_size
        if tuple(x.shape[2:]) != (size, size):
            height, width = x.shape[2:]
            raise ValueError(
                f"images of {height}x{width}: this network takes {size}x{size} alone; resize or pad them"
            )
        time = (t.to(x.dtype) / self.config.t_end)[:, None, None, None].expand(-1, 1, size, size)
        tokens = self.conv_in(torch.cat([x, time], dim=1))
        h = tokens.flatten(2).to(self.blocks[0].patch_mixer.layers[0].weight.dtype)
        for block in self.blocks:
            h = block(h)
        return self.conv_out(to_map(self.norm(h.to(x.dtype)).transpose(1, 2), like=tokens))
