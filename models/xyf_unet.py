"""The two UNets of xyfJASON/diffusion-models-pytorch, with their state-dict keys."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from models.layers import (
    Conv3x3,
    GroupNorm,
    SiLU,
    UNetConfig,
    UpConv2d,
    Upsample,
    add,
    attend,
    check_heads,
    check_size,
    conv_after,
    pointwise,
    scale_shift,
    split_heads,
    timestep_embedding,
    to_map,
    to_tokens,
    zeroed,
)


@dataclass(frozen=True, kw_only=True)
class XyfUNetConfig(UNetConfig):
    """The unconditional network."""

    num_heads: int = 1


@dataclass(frozen=True, kw_only=True)
class XyfAdaGNUNetConfig(UNetConfig):
    """The class-conditional network, of adaptive group norms and residual changes of size."""

    label_optional: ClassVar[bool] = True
    """The network also predicts without a class, as classifier-free guidance needs it."""
    num_classes: int
    num_head_channels: int
    """Channels a head."""


class ResBlock(nn.Module):
    """Two convolutions, the embedding added between them."""

    def __init__(self, config: UNetConfig, in_channels: int, channels: int):
        super().__init__()
        self.blk1 = nn.Sequential(GroupNorm(32, in_channels), SiLU(), Conv3x3(in_channels, channels))
        self.proj = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, channels))
        self.blk2 = nn.Sequential(
            GroupNorm(32, channels),
            SiLU(),
            nn.Dropout(config.dropout),
            zeroed(Conv3x3(channels, channels)),
        )
        self.shortcut = _shortcut(in_channels, channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.blk2(add(self.blk1(x), self.proj(emb)[:, :, None, None]))
        return add(h, self.shortcut(x))


class AdaGN(nn.Module):
    """Group norm whose scale and shift come from the embedding: norm(x) (1 + scale) + shift."""

    def __init__(self, config: UNetConfig, channels: int):
        super().__init__()
        self.gn = GroupNorm(32, channels)
        self.proj = nn.Sequential(nn.SiLU(), nn.Linear(4 * config.model_channels, 2 * channels))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        return scale_shift(self.gn(x), self.proj(emb))


class AdaGNResBlock(nn.Module):
    """Two convolutions around an adaptive group norm, with an optional change of size in the first."""

    def __init__(
        self, config: UNetConfig, in_channels: int, channels: int, resample: nn.Module | None = None
    ):
        super().__init__()
        self.resample = resample or nn.Identity()
        self.blk1 = nn.Sequential(
            GroupNorm(32, in_channels), SiLU(), conv_after(resample, in_channels, channels)
        )
        self.adagn = AdaGN(config, channels)
        self.blk2 = nn.Sequential(SiLU(), nn.Dropout(config.dropout), zeroed(Conv3x3(channels, channels)))
        self.shortcut = _shortcut(in_channels, channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.blk1
        h = act(norm(x))
        h = conv(h if isinstance(conv, UpConv2d) else self.resample(h))
        h = self.blk2(self.adagn(h, emb))
        return add(h, self.shortcut(self.resample(x)))


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.norm = GroupNorm(32, channels)
        self.q = nn.Conv2d(channels, channels, 1)
        self.k = nn.Conv2d(channels, channels, 1)
        self.v = nn.Conv2d(channels, channels, 1)
        self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(self.norm(x))
        h = attend(
            *(split_heads(pointwise(conv, tokens), self.num_heads) for conv in (self.q, self.k, self.v))
        )
        return add(to_map(pointwise(self.proj, h), like=x), x)


def _shortcut(in_channels: int, channels: int) -> nn.Module:
    return nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)


def _call(layer: nn.Module, h: Tensor, emb: Tensor) -> Tensor:
    return layer(h, emb) if isinstance(layer, ResBlock | AdaGNResBlock) else layer(h)


class _Walk(nn.Module):
    """Way down, middle and way up: the same in both networks, which differ in their blocks.

    A stage is a flat list, as in the published keys: residual blocks, each followed by its attention
    where the stage attends, then the change of size.
    """

    def __init__(
        self,
        config: UNetConfig,
        res_block: Callable[[int, int], nn.Module],
        attention: Callable[[int], nn.Module],
        downsample: Callable[[int], nn.Module],
        upsample: Callable[[int], nn.Module],
        num_classes: int | None = None,
    ):
        super().__init__()
        self.config = config
        width, emb_channels = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(
            nn.Identity(),  # the sinusoid: no parameters, but counted in the published keys
            nn.Linear(width, emb_channels),
            nn.SiLU(),
            nn.Linear(emb_channels, emb_channels),
        )
        if num_classes is not None:
            self.class_embed = nn.Embedding(num_classes, emb_channels)
        self.first_conv = Conv3x3(config.in_channels, width)

        def stage(size: int, in_channels: list[int], channels: int) -> nn.ModuleList:
            layers = nn.ModuleList()
            for c in in_channels:
                layers.append(res_block(c, channels))
                if size in config.attention_resolutions:
                    layers.append(attention(channels))
            return layers

        widths = [mult * width for mult in config.channel_mult]
        levels = [(level, config.image_size >> level, new) for level, new in enumerate(widths)]
        channels, skips = width, [width]
        self.down_blocks = nn.ModuleList()
        for level, size, new in levels:
            blocks = stage(size, [channels] + [new] * (config.num_res_blocks - 1), new)
            skips += [new] * config.num_res_blocks
            if level < len(levels) - 1:
                blocks.append(downsample(new))
                skips.append(new)
            self.down_blocks.append(blocks)
            channels = new
        self.bottleneck_block = nn.ModuleList(
            [res_block(channels, channels), AttentionBlock(channels, 1), res_block(channels, channels)]
        )
        self.up_blocks = nn.ModuleList()
        for level, size, new in reversed(levels):
            blocks = stage(size, [c + skips.pop() for c in [channels] + [new] * config.num_res_blocks], new)
            blocks.append(upsample(new) if level > 0 else nn.Identity())
            self.up_blocks.append(blocks)
            channels = new
        self.last_conv = nn.Sequential(
            GroupNorm(32, channels), SiLU(), zeroed(Conv3x3(channels, config.out_channels))
        )

    def embed(self, t: Tensor) -> Tensor:
        """Embed timesteps [B] as [B, 4 * model_channels]."""
        sinusoid = timestep_embedding(t, self.config.model_channels, cos_first=False, full_range=True)
        return self.time_embed(sinusoid.to(self.time_embed[1].weight.dtype))

    def walk(self, x: Tensor, emb: Tensor) -> Tensor:
        """Run the network on images [B, C, H, W] with an embedding [B, 4 * model_channels]."""
        check_size(x, self.config.size_multiple)
        body_dtype = self.first_conv.weight.dtype
        h, emb = self.first_conv(x.to(body_dtype)), emb.to(body_dtype)
        skips = [h]
        for stage in self.down_blocks:
            for layer in stage:
                h = _call(layer, h, emb)
                if isinstance(layer, AttentionBlock):
                    skips[-1] = h  # it completes the block before it
                else:
                    skips.append(h)
        for layer in self.bottleneck_block:
            h = _call(layer, h, emb)
        for *blocks, upsample in self.up_blocks:
            for layer in blocks:
                if not isinstance(layer, AttentionBlock):
                    h = torch.cat([h, skips.pop()], dim=1)
                h = _call(layer, h, emb)
            h = _call(upsample, h, emb)
        return self.last_conv(h.to(x.dtype))


class XyfUNet(_Walk):
    """The unconditional UNet: DDPM's, but with symmetric padding and another GroupNorm epsilon."""

    float32_modules = ("time_embed", "last_conv")

    def __init__(self, config: XyfUNetConfig):
        super().__init__(
            config,
            res_block=lambda in_channels, channels: ResBlock(config, in_channels, channels),
            attention=lambda channels: AttentionBlock(channels, config.num_heads),
            downsample=lambda channels: nn.Conv2d(channels, channels, 3, stride=2, padding=1),
            # the second entry in the published keys
            upsample=lambda channels: nn.Sequential(nn.Identity(), UpConv2d(channels, channels)),
        )

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
        return self.walk(x, self.embed(t))


class XyfAdaGNUNet(_Walk):
    """The class-conditional UNet of classifier-free guidance (xyfJASON's UNetCategorialAdaGN)."""

    float32_modules = ("time_embed", "class_embed", "last_conv")

    def __init__(self, config: XyfAdaGNUNetConfig):
        def res_block(in_channels: int, channels: int, resample: nn.Module | None = None) -> nn.Module:
            return AdaGNResBlock(config, in_channels, channels, resample)

        super().__init__(
            config,
            res_block=res_block,
            attention=lambda channels: AttentionBlock(channels, channels // config.num_head_channels),
            downsample=lambda channels: res_block(channels, channels, nn.AvgPool2d(2)),
            upsample=lambda channels: res_block(channels, channels, Upsample(channels, use_conv=False)),
            num_classes=config.num_classes,
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy images, for classes or, without them, unconditionally.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: Training timesteps, shape [B].
            y: Class indices, shape [B]; None adds no class embedding, the unconditional use.

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple.
        """
        emb = self.embed(t)
        return self.walk(x, emb if y is None else emb + self.class_embed(y))
