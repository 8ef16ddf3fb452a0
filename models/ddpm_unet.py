"""The UNet of DDPM (Ho et al., 2020), with the state-dict keys of pesser/pytorch_diffusion and SDEdit."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import (
    Conv3x3,
    GroupNorm,
    SiLU,
    UNetConfig,
    Upsample,
    add,
    attend,
    check_size,
    pointwise,
    split_heads,
    timestep_embedding,
    to_map,
    to_tokens,
    zeroed,
)

EPS = 1e-6  # TensorFlow's choice, which the converted weights were trained with


@dataclass(frozen=True, kw_only=True)
class DDPMUNetConfig(UNetConfig):
    """The UNet of "Denoising Diffusion Probabilistic Models"."""

    conv_resample: bool = True


class TimeEmbedding(nn.Module):
    """Sinusoid, then two linear layers with one activation between."""

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        self.dense = nn.ModuleList([nn.Linear(width, 4 * width), nn.Linear(4 * width, 4 * width)])

    def forward(self, t: Tensor) -> Tensor:
        first, second = self.dense
        sinusoid = timestep_embedding(t, self.width, cos_first=False, full_range=True)
        return second(F.silu(first(sinusoid.to(first.weight.dtype))))


class Downsample(nn.Module):
    """Half the size, by a strided 3x3 convolution or by averaging."""

    def __init__(self, channels: int, use_conv: bool):
        super().__init__()
        if use_conv:
            self.conv = nn.Conv2d(channels, channels, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        if not hasattr(self, "conv"):
            return F.avg_pool2d(x, 2)
        return self.conv(F.pad(x, (0, 1, 0, 1)))  # right and bottom only, as TensorFlow's "SAME" does


class ResBlock(nn.Module):
    """Two convolutions, the time embedding added between them."""

    def __init__(self, config: DDPMUNetConfig, in_channels: int, channels: int):
        super().__init__()
        self.norm1 = GroupNorm(32, in_channels, EPS)
        self.conv1 = Conv3x3(in_channels, channels)
        self.temb_proj = nn.Linear(4 * config.model_channels, channels)
        self.norm2 = GroupNorm(32, channels, EPS)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = zeroed(Conv3x3(channels, channels))
        if in_channels != channels:
            self.nin_shortcut = nn.Conv2d(in_channels, channels, 1)
        self.act = SiLU()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.conv1(self.act(self.norm1(x)))
        h = add(h, self.temb_proj(F.silu(emb))[:, :, None, None])
        h = self.conv2(self.dropout(self.act(self.norm2(h))))
        return add(h, self.nin_shortcut(x) if hasattr(self, "nin_shortcut") else x)


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions, in one head."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = GroupNorm(32, channels, EPS)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj_out = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(self.norm(x))
        h = attend(*(split_heads(pointwise(conv, tokens), 1) for conv in (self.q, self.k, self.v)))
        return add(to_map(pointwise(self.proj_out, h), like=x), x)


class Level(nn.Module):
    """The blocks of one resolution on the way down or up, and the change of size after them."""

    def __init__(self, config: DDPMUNetConfig, size: int, in_channels: list[int], channels: int):
        super().__init__()
        attends = size in config.attention_resolutions
        self.block = nn.ModuleList(ResBlock(config, c, channels) for c in in_channels)
        self.attn = nn.ModuleList(AttentionBlock(channels) if attends else nn.Identity() for _ in self.block)


class DDPMUNet(nn.Module):
    """The UNet of Ho et al., "Denoising Diffusion Probabilistic Models" (2020).

    Loads pesser's conversions of the published weights and the files of SDEdit.
    """

    float32_modules = ("temb", "norm_out", "conv_out")

    def __init__(self, config: DDPMUNetConfig):
        super().__init__()
        self.config = config
        width, last = config.model_channels, len(config.channel_mult) - 1
        widths = [mult * width for mult in config.channel_mult]
        sizes = [config.image_size >> level for level in range(len(widths))]
        self.temb = TimeEmbedding(width)
        self.conv_in = Conv3x3(config.in_channels, width)
        self.down = nn.ModuleList()
        channels, skips = width, [width]
        for i, (size, new) in enumerate(zip(sizes, widths, strict=True)):
            level = Level(config, size, [channels] + [new] * (config.num_res_blocks - 1), new)
            skips += [new] * config.num_res_blocks
            if i < last:
                level.downsample = Downsample(new, config.conv_resample)
                skips.append(new)
            self.down.append(level)
            channels = new
        self.mid = nn.Module()
        self.mid.block_1 = ResBlock(config, channels, channels)
        self.mid.attn_1 = AttentionBlock(channels)
        self.mid.block_2 = ResBlock(config, channels, channels)
        self.up = nn.ModuleList()
        for i, (size, new) in reversed(list(enumerate(zip(sizes, widths, strict=True)))):
            inputs = [c + skips.pop() for c in [channels] + [new] * config.num_res_blocks]
            level = Level(config, size, inputs, new)
            if i > 0:
                level.upsample = Upsample(new, config.conv_resample)
            self.up.insert(0, level)  # the published keys count from the finest level
            channels = new
        self.norm_out = GroupNorm(32, channels, EPS)
        self.act = SiLU()
        self.conv_out = zeroed(Conv3x3(channels, config.out_channels))

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict the noise in images.

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
        body_dtype = self.conv_in.weight.dtype
        emb = self.temb(t).to(body_dtype)
        h = self.conv_in(x.to(body_dtype))
        skips = [h]
        for level in self.down:
            for block, attn in zip(level.block, level.attn, strict=True):
                h = attn(block(h, emb))
                skips.append(h)
            if hasattr(level, "downsample"):
                h = level.downsample(h)
                skips.append(h)
        h = self.mid.block_2(self.mid.attn_1(self.mid.block_1(h, emb)), emb)
        for level in reversed(self.up):
            for block, attn in zip(level.block, level.attn, strict=True):
                h = attn(block(torch.cat([h, skips.pop()], dim=1), emb))
            if hasattr(level, "upsample"):
                h = level.upsample(h)
        return self.conv_out(self.act(self.norm_out(h.to(x.dtype))))
