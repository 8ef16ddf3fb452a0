"""What every network family shares: config, embeddings, norms, activations, attention."""

import math
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import winograd


@dataclass(frozen=True, kw_only=True)
class UNetConfig:
    """What all UNets have in common."""

    image_size: int
    """Height and width of the images, in pixels."""
    in_channels: int = 3
    out_channels: int = 3
    """Those of the images; twice as many where the network learned its variance."""
    model_channels: int
    """Width that channel_mult multiplies; a quarter of the embedding's width."""
    channel_mult: tuple[int, ...]
    """Width of each resolution, in model_channels, from the finest down."""
    num_res_blocks: int
    attention_resolutions: tuple[int, ...]
    """Image sizes, in pixels, at which the blocks attend; the middle always does."""
    dropout: float = 0.0

    def __post_init__(self):
        check_limits(self)

    @property
    def size_multiple(self) -> int | None:
        """What height and width must be multiples of; None where the network knows no size but its own."""
        return 2 ** (len(self.channel_mult) - 1)


LIMITS = {
    "image_size": (1, 8192),
    "in_channels": (1, 1024),
    "out_channels": (1, 100_000),  # logits of a classifier
    "model_channels": (4, 8192),
    "init_channels": (1, 8192),
    "fourier_features": (2, 8192),
    "channel_mult": (1 / 64, 64),
    "num_res_blocks": (1, 32),
    "attention_resolutions": (1, 8192),
    "dropout": (0, 1),
    "num_classes": (1, 1_000_000),
    "num_heads": (1, 1024),
    "num_heads_upsample": (1, 1024),
    "num_head_channels": (1, 8192),
    "num_scales": (1, 1_000_000),
    "channel_mult_noise": (1, 64),
    "channel_mult_emb": (1, 64),
    "augment_dim": (0, 1024),
}
"""Least and greatest value of a config's numbers: beyond, they are mistakes that only show in a crash."""
MAX_RESOLUTIONS = 12


def check_limits(config: Any) -> None:
    """Refuse numbers that no network has.

    Args:
        config: Of a UNet.

    Raises:
        ValueError: A field is out of its limits, the first of which is named, or the sizes cannot be halved.
    """
    if not 1 <= len(config.channel_mult) <= MAX_RESOLUTIONS:
        raise ValueError(
            f"channel_mult: {len(config.channel_mult)} values, allowed are 1 to {MAX_RESOLUTIONS}"
        )
    if len(config.attention_resolutions) > MAX_RESOLUTIONS:
        raise ValueError(f"attention_resolutions: more than {MAX_RESOLUTIONS} values")
    if min(config.channel_mult) * config.model_channels < 1:
        raise ValueError(f"channel_mult {min(config.channel_mult)}: leaves no channel of model_channels")
    for name, (low, high) in LIMITS.items():
        found = getattr(config, name, None)
        for value in found if isinstance(found, tuple | list) else (found,):
            if value is not None and not low <= value <= high:
                raise ValueError(f"{name} {value}: allowed is {low} to {high}")
    reduction = 2 ** (len(config.channel_mult) - 1)
    if config.image_size % reduction:
        raise ValueError(
            f"image_size {config.image_size}: allowed are multiples of {reduction}, for the "
            f"{len(config.channel_mult)} resolutions of channel_mult"
        )


def check_heads(channels: int, num_heads: int) -> None:
    """Refuse heads that do not share the channels evenly.

    Raises:
        ValueError: There is no head, or a rest.
    """
    if num_heads < 1 or channels % num_heads:
        raise ValueError(f"{channels} channels cannot be shared by {num_heads} heads of attention")


def timestep_embedding(t: Tensor, dim: int, *, cos_first: bool, full_range: bool) -> Tensor:
    """Embed timesteps as sinusoids of geometrically spaced frequencies, 1 down to 1e-4.

    Evaluated in float64: in float32 the angle alone is off by up to 2e-4 near t = 1000.

    Args:
        t: Timesteps, may be fractional, shape [B].
        dim: Width of the embedding; an odd width is padded with one zero.
        cos_first: Cosines before sines (ADM) instead of after them (DDPM, xyfJASON).
        full_range: Let the last frequency reach 1e-4 exactly (exponent i / (half - 1), DDPM)
            instead of stopping one short of it (i / half, ADM).

    Returns:
        Embedding in float64, shape [B, dim].
    """
    half = dim // 2
    index = torch.arange(half, dtype=torch.float64, device=t.device)
    frequency = torch.exp(-math.log(10000.0) / (half - full_range) * index)
    angle = t.double()[:, None] * frequency
    parts = (angle.cos(), angle.sin()) if cos_first else (angle.sin(), angle.cos())
    return F.pad(torch.cat(parts, dim=1), (0, dim % 2))


class SiLU(nn.Module):
    """SiLU that overwrites its input where no gradient is wanted; give it fresh tensors only."""

    def forward(self, x: Tensor) -> Tensor:
        return F.silu(x, inplace=not torch.is_grad_enabled())


class GroupNorm(nn.GroupNorm):
    """GroupNorm whose float32 affine parameters accept a lower-precision input on any device."""

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if x.device.type != "cpu":  # the CPU kernel mixes dtypes itself, and more precisely
            weight, bias = weight.to(x.dtype), bias.to(x.dtype)
        return F.group_norm(x, self.num_groups, weight, bias, self.eps)


def add(fresh: Tensor, other: Tensor) -> Tensor:
    """fresh + other, in the memory of the first where no gradient is wanted."""
    return fresh + other if torch.is_grad_enabled() else fresh.add_(other)


def scale_shift(fresh: Tensor, emb: Tensor) -> Tensor:
    """fresh (1 + scale) + shift, in the memory of the first where no gradient is wanted.

    Args:
        fresh: Normalized maps, shape [B, C, H, W].
        emb: Scale, then shift, shape [B, 2C].
    """
    scale, shift = emb[:, :, None, None].chunk(2, dim=1)
    anew = torch.is_grad_enabled() or torch.compiler.is_compiling()  # a compiler fuses it, or refuses `out`
    return torch.addcmul(shift, fresh, 1 + scale, out=None if anew else fresh)


class Conv3x3(nn.Conv2d):
    """3x3 convolution that keeps the size; fused, large ones on a CPU go by `models.winograd`."""

    def __init__(self, in_channels: int, out_channels: int, bias: bool = True):
        super().__init__(in_channels, out_channels, 3, padding=1, bias=bias)
        self.fused = False
        self.kernels: list[Tensor] | None = None

    def fuse(self) -> None:
        """Declare the weights final: what is formed of them at the first call that needs it is kept."""
        self.fused = True

    def forward(self, x: Tensor) -> Tensor:
        if not (self.fused and winograd.pays(x, self.weight)):
            return super().forward(x)
        if self.kernels is None:
            self.kernels = winograd.transform(self.weight)
        return winograd.convolve(x, self.kernels, self.bias)


class UpConv2d(nn.Conv2d):
    """Double the size by nearest neighbour, then apply a 3x3 convolution.

    Each doubled pixel sees only 2x2 distinct ones, so both steps are one transposed convolution of
    kernel 4 and stride 2, whose weights are the sums of those that fall on the same pixel: 4/9 of
    the products.
    """

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 3, padding=1)
        self.register_buffer("sums", None, persistent=False)

    def fuse(self) -> None:
        """Form the sums once, when the weights are final; on a CPU they are used from then on."""
        flipped = self.weight.detach().transpose(0, 1).flip(2, 3)
        sums = F.avg_pool2d(flipped, 2, stride=1, padding=1, divisor_override=1)
        self.sums = sums.contiguous(memory_format=torch.channels_last)

    def forward(self, x: Tensor) -> Tensor:
        if self.sums is None or x.device.type != "cpu":  # transposed on a GPU: perhaps not deterministic
            return super().forward(F.interpolate(x, scale_factor=2, mode="nearest"))
        return F.conv_transpose2d(x, self.sums, self.bias, stride=2, padding=1)


class Upsample(nn.Module):
    """Nearest neighbour, twice the size, then a 3x3 convolution where wanted."""

    def __init__(self, channels: int, use_conv: bool):
        super().__init__()
        if use_conv:
            self.conv = UpConv2d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if hasattr(self, "conv") else F.interpolate(x, scale_factor=2, mode="nearest")


def conv_after(resample: nn.Module | None, in_channels: int, out_channels: int) -> nn.Conv2d:
    """Build the 3x3 convolution after a change of size; an UpConv2d does the upsampling itself."""
    if isinstance(resample, Upsample):
        return UpConv2d(in_channels, out_channels)
    return Conv3x3(in_channels, out_channels)


def to_tokens(x: Tensor) -> Tensor:
    """[B, C, H, W] -> [B, HW, C]; a view when x is channels_last."""
    return x.flatten(2).transpose(1, 2)


def to_map(tokens: Tensor, like: Tensor) -> Tensor:
    """[B, HW, C] -> [B, C, H, W] with the height and width of `like`."""
    return tokens.transpose(1, 2).unflatten(2, like.shape[2:])


def pointwise(conv: nn.Conv1d | nn.Conv2d, tokens: Tensor) -> Tensor:
    """Apply a kernel-size-1 convolution to [B, HW, C] as the matrix product that it is."""
    return F.linear(tokens, conv.weight.flatten(1), conv.bias)


def split_heads(tokens: Tensor, num_heads: int) -> Tensor:
    """[B, L, C] -> [B, num_heads, L, C / num_heads]."""
    return tokens.unflatten(2, (num_heads, -1)).transpose(1, 2)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attend in each head, softmax(q k^T / sqrt(d)) v. q, k, v [B, heads, L, d] -> [B, L, heads * d]."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def check_size(x: Tensor, reduction: int) -> None:
    """Refuse images that the way down cannot halve evenly.

    Args:
        x: Images, shape [B, C, H, W].
        reduction: How many times smaller the coarsest level is.

    Raises:
        ValueError: The height or width is no multiple of `reduction`.
    """
    height, width = x.shape[2:]
    if height % reduction or width % reduction:
        raise ValueError(
            f"images of {height}x{width}: this network takes heights and widths that are multiples of "
            f"{reduction}; resize or pad them"
        )


def check_labels(y: Tensor | None, num_classes: int | None) -> None:
    """Refuse classes that a network has not; where it has, they are optional.

    Args:
        y: Class indices, shape [B], or None.
        num_classes: Of the network, or None.

    Raises:
        ValueError: y is given and there are no classes.
    """
    if y is not None and num_classes is None:
        raise ValueError(f"this network has no classes, got y = {y}")


def zeroed(module: nn.Module) -> nn.Module:
    """Zero the parameters, so that a residual branch starts training as the identity."""
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    return module
