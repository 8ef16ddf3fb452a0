"""The Unet of lucidrains/denoising-diffusion-pytorch 2.x, with its state-dict keys."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import (
    Conv3x3,
    SiLU,
    UpConv2d,
    add,
    attend,
    check_limits,
    check_size,
    pointwise,
    scale_shift,
    split_heads,
    timestep_embedding,
    to_map,
    to_tokens,
)

NUM_MEMORIES = 4
"""Keys and values that every attention learns, beside those of the positions."""


@dataclass(frozen=True, kw_only=True)
class LucidrainsUNetConfig:
    """The defaults are the package's own, two residual blocks a resolution."""

    image_size: int
    """Height and width of the images, in pixels."""
    in_channels: int = 3
    out_channels: int = 3
    """Those of the images; twice as many where the network learned its variance."""
    model_channels: int
    """Width that channel_mult multiplies; a quarter of the embedding's width."""
    init_channels: int | None = None
    """Width after the first convolution and of the last block, by default model_channels."""
    channel_mult: tuple[int, ...] = (1, 2, 4, 8)
    """Width below each resolution, in model_channels, from the finest down."""
    attention_resolutions: tuple[int, ...]
    """Image sizes, in pixels, at which every position attends to every other, as the middle always does; at
    the other sizes attention is linear. The package's default is the coarsest alone."""
    num_heads: int = 4
    num_head_channels: int = 32
    """Channels a head."""
    fourier_features: int | None = None
    """Width of an embedding by random or learned frequencies; by default the frequencies are fixed."""
    self_condition: bool = False
    """Not supported: whether the network also takes its last prediction."""
    dropout: float = 0.0

    def __post_init__(self):
        check_limits(self)
        for name in ("model_channels", "fourier_features"):
            if (getattr(self, name) or 0) % 2:
                raise ValueError(f"{name} {getattr(self, name)}: half are sines, so it must be even")
        if self.self_condition:
            raise ValueError(
                "self_condition true: networks that also take their last prediction are not supported; use "
                "one that was trained without"
            )

    @property
    def size_multiple(self) -> int | None:
        """What height and width must be multiples of; None where the network knows no size but its own."""
        return 2 ** (len(self.channel_mult) - 1)


class Sinusoid(nn.Module):
    """The embedding of fixed frequencies."""

    def __init__(self, dim: int):
        super().__init__()
        self.dim = dim

    def forward(self, t: Tensor) -> Tensor:
        """t [B] to float64 [B, dim]."""
        return timestep_embedding(t, self.dim, cos_first=False, full_range=True)


class Fourier(nn.Module):
    """The embedding of frequencies that were drawn or learned, with the time itself before them."""

    def __init__(self, dim: int):
        super().__init__()
        self.weights = nn.Parameter(torch.randn(dim // 2))

    def forward(self, t: Tensor) -> Tensor:
        """t [B] to float64 [B, 1 + dim]."""
        t = t.double()[:, None]
        angle = 2 * math.pi * t * self.weights.double()
        return torch.cat([t, angle.sin(), angle.cos()], dim=1)


class RMSNorm(nn.Module):
    """Divides the channels of a position by their root mean square, and scales each."""

    def __init__(self, channels: int):
        super().__init__()
        self.g = nn.Parameter(torch.ones(1, channels, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, H, W] to the same; squares are summed in the dtype of g, at least float32."""
        normed = F.normalize(x.to(self.g.dtype), dim=1) * (self.g * math.sqrt(self.g.shape[1]))
        return normed.to(x.dtype)


class Block(nn.Module):
    """A convolution and a norm, with the scale and shift of the time where given."""

    def __init__(self, in_channels: int, channels: int, dropout: float = 0.0):
        super().__init__()
        self.proj = Conv3x3(in_channels, channels)
        self.norm = RMSNorm(channels)
        self.act = SiLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        h = self.norm(self.proj(x))
        return self.dropout(self.act(h if emb is None else scale_shift(h, emb)))


class ResBlock(nn.Module):
    """Two blocks, the first told the time."""

    def __init__(self, config: LucidrainsUNetConfig, in_channels: int, channels: int):
        super().__init__()
        self.mlp = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, 2 * channels))
        self.block1 = Block(in_channels, channels, config.dropout)
        self.block2 = Block(channels, channels)
        same = in_channels == channels
        self.res_conv = nn.Identity() if same else nn.Conv2d(in_channels, channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return add(self.block2(self.block1(x, self.mlp(emb))), self.res_conv(x))


class Attention(nn.Module):
    """Residual attention of every position to every other and to the memories."""

    def __init__(self, config: LucidrainsUNetConfig, channels: int):
        super().__init__()
        self.num_heads, width = config.num_heads, config.num_heads * config.num_head_channels
        self.mem_kv = nn.Parameter(torch.randn(2, config.num_heads, NUM_MEMORIES, config.num_head_channels))
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * width, 1, bias=False)
        self.to_out = nn.Conv2d(width, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _split(self, x)
        k, v = _remember(self.mem_kv, k, v)
        return add(to_map(pointwise(self.to_out, attend(q, k, v)), like=x), x)


class LinearAttention(nn.Module):
    """Residual attention whose cost grows with the positions, not with their square (arXiv:1812.01243)."""

    def __init__(self, config: LucidrainsUNetConfig, channels: int):
        super().__init__()
        self.num_heads, width = config.num_heads, config.num_heads * config.num_head_channels
        self.mem_kv = nn.Parameter(torch.randn(2, config.num_heads, config.num_head_channels, NUM_MEMORIES))
        self.norm = RMSNorm(channels)
        self.to_qkv = nn.Conv2d(channels, 3 * width, 1, bias=False)
        self.to_out = nn.Sequential(nn.Conv2d(width, channels, 1), RMSNorm(channels))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = _split(self, x)
        k, v = _remember(self.mem_kv.transpose(2, 3), k, v)
        # float16 has no numbers for the shares of many positions, nor for their sums
        wide = torch.promote_types(k.dtype, torch.float32)
        context = k.softmax(dim=2, dtype=wide).transpose(2, 3) @ v.to(wide)
        h = (q.softmax(dim=3) / math.sqrt(q.shape[3])) @ context.to(q.dtype)
        conv, norm = self.to_out
        return add(norm(to_map(pointwise(conv, h.transpose(1, 2).flatten(2)), like=x)), x)


def _split(attention: Attention | LinearAttention, x: Tensor) -> list[Tensor]:
    """Return q, k and v of images, each [B, heads, HW, d]."""
    tokens = pointwise(attention.to_qkv, to_tokens(attention.norm(x)))
    return [split_heads(part, attention.num_heads) for part in tokens.chunk(3, dim=2)]


def _remember(memories: Tensor, *tokens: Tensor) -> list[Tensor]:
    """Put memories [2, heads, M, d] before k and v [B, heads, HW, d]."""
    return [
        torch.cat([memory.to(part.dtype).expand(len(part), -1, -1, -1), part], dim=2)
        for memory, part in zip(memories, tokens, strict=True)
    ]


class LucidrainsUNet(nn.Module):
    """The UNet of the package: root-mean-square norms, linear attention, and learned memories."""

    float32_modules = ("time_mlp", "final_conv")

    def __init__(self, config: LucidrainsUNetConfig):
        super().__init__()
        self.config = config
        width, features = config.model_channels, config.fourier_features
        first = config.init_channels or width
        self.init_conv = nn.Conv2d(config.in_channels, first, 7, padding=3)
        self.time_mlp = nn.Sequential(
            Sinusoid(width) if features is None else Fourier(features),
            nn.Linear(width if features is None else 1 + features, 4 * width),
            nn.GELU(),
            nn.Linear(4 * width, 4 * width),
        )
        widths = [first, *(mult * width for mult in config.channel_mult)]
        last = len(config.channel_mult) - 1
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        for level, (outer, inner) in enumerate(pairwise(widths)):
            size = config.image_size >> level
            down = _downsample(outer, inner) if level < last else Conv3x3(outer, inner)
            up = _upsample(inner, outer) if level > 0 else Conv3x3(inner, outer)
            self.downs.append(_stage(config, size, outer, outer, down))
            # the published keys count from the coarsest level
            self.ups.insert(0, _stage(config, size, inner + outer, inner, up))
        self.mid_block1 = ResBlock(config, widths[-1], widths[-1])
        self.mid_attn = Attention(config, widths[-1])
        self.mid_block2 = ResBlock(config, widths[-1], widths[-1])
        self.final_res_block = ResBlock(config, 2 * first, first)
        self.final_conv = nn.Conv2d(first, config.out_channels, 1)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict from noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: Training timesteps, shape [B].

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple.
        """
        check_size(x, self.config.size_multiple)
        body_dtype = self.init_conv.weight.dtype
        embed, *layers = self.time_mlp
        emb = embed(t).to(layers[0].weight.dtype)
        for layer in layers:
            emb = layer(emb)
        emb = emb.to(body_dtype)
        h = self.init_conv(x.to(body_dtype))
        skips = [h]
        for block1, block2, attention, downsample in self.downs:
            skips.append(block1(h, emb))
            skips.append(attention(block2(skips[-1], emb)))
            h = downsample(skips[-1])
        h = self.mid_block2(self.mid_attn(self.mid_block1(h, emb)), emb)
        for block1, block2, attention, upsample in self.ups:
            h = block1(torch.cat([h, skips.pop()], dim=1), emb)
            h = block2(torch.cat([h, skips.pop()], dim=1), emb)
            h = upsample(attention(h))
        h = self.final_res_block(torch.cat([h, skips.pop()], dim=1), emb)
        return self.final_conv(h.to(x.dtype))


def _stage(
    config: LucidrainsUNetConfig, size: int, in_channels: int, channels: int, resample: nn.Module
) -> nn.ModuleList:
    """Build what a resolution has on the way down or up: two blocks, attention, the change of size."""
    kind = Attention if size in config.attention_resolutions else LinearAttention
    blocks = [ResBlock(config, in_channels, channels) for _ in range(2)]
    return nn.ModuleList([*blocks, kind(config, channels), resample])


def _downsample(in_channels: int, channels: int) -> nn.Module:
    """Make the four pixels of each square channels, and mix them."""
    return nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4 * in_channels, channels, 1))


def _upsample(in_channels: int, channels: int) -> nn.Module:
    return nn.Sequential(nn.Identity(), UpConv2d(in_channels, channels))  # the second in the published keys
