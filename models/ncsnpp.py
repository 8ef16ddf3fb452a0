"""NCSN++ of Song et al. (2021), with the state-dict keys of yang-song/score_sde_pytorch."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import (
    Conv3x3,
    GroupNorm,
    SiLU,
    UNetConfig,
    add,
    attend,
    check_size,
    split_heads,
    to_map,
    to_tokens,
    zeroed,
)

EPS = 1e-6
FOURIER_SCALE = 16.0
CONV_IN = 3  # its place in the published numbering; all later bare convolutions make images


@dataclass(frozen=True, kw_only=True)
class NCSNPPConfig(UNetConfig):
    """The NCSN++ of "Score-Based Generative Modeling through Stochastic Differential Equations"."""

    progressive: str = "output_skip"
    """How the output is made: 'output_skip' sums an image of each resolution, 'none' takes the finest."""
    progressive_input: str = "input_skip"
    """How the shrunk image enters each resolution: 'input_skip' by a 1x1 convolution of the image alone,
    'residual' by a strided one of what the resolution above became."""
    fir: bool = True
    """Change sizes with the filter [1, 3, 3, 1] instead of means and nearest neighbours."""
    skip_rescale: bool = True
    """Divide the sum that ends a residual branch by sqrt(2)."""
    centered: bool = False
    """The layers take x as it is; where not, 2 x - 1."""
    scale_by_sigma: bool = True
    """Divide the output by sigma, which makes it the score."""
    num_scales: int
    """Length of the list of noise levels in the weight files, which the network itself does not read."""

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in (
            ("progressive", ("output_skip", "none")),
            ("progressive_input", ("input_skip", "residual")),
        ):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} {getattr(self, name)!r}: allowed are {', '.join(allowed)}")
        if self.progressive_input == "residual" and not self.fir:
            raise ValueError("fir false: allowed with progressive_input 'input_skip' only")

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level, counted from the finest, attend."""
        return self.image_size >> level in self.attention_resolutions


def fir_kernel() -> Tensor:
    """The filter [1, 3, 3, 1] in both directions, sum 1; never on the meta device, no file holds it."""
    taps = torch.tensor([1.0, 3.0, 3.0, 1.0], device="cpu") / 8
    return torch.outer(taps, taps)[None, None]


def fir_filter(x: Tensor, kernel: Tensor, stride: int, padding: int) -> Tensor:
    """Filter each channel of x [B, C, H, W] by itself."""
    channels = x.shape[1]
    return F.conv2d(
        x, kernel.to(x.dtype).expand(channels, 1, -1, -1), stride=stride, padding=padding, groups=channels
    )


def fir_up(x: Tensor) -> Tensor:
    """Double the size: zeros between the pixels, then the filter [1, 3, 3, 1] with sum 4.

    Bilinear interpolation is this filter, apart from the border: it repeats the outermost pixels where
    the filter sees zeros, which leaves 3/4.

    Args:
        x: Maps, shape [B, C, H, W].

    Returns:
        Maps, shape [B, C, 2H, 2W].
    """
    y = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    for dim in (2, 3):
        y.select(dim, 0).mul_(0.75)
        y.select(dim, -1).mul_(0.75)
    return y


class Upsample(nn.Module):
    """Twice the size."""

    def __init__(self, fir: bool):
        super().__init__()
        self.fir = fir

    def forward(self, x: Tensor) -> Tensor:
        return fir_up(x) if self.fir else F.interpolate(x, scale_factor=2, mode="nearest")


class Downsample(nn.Module):
    """Half the size."""

    def __init__(self, fir: bool):
        super().__init__()
        self.register_buffer("kernel", fir_kernel() if fir else None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kernel is None:
            return F.avg_pool2d(x, 2)
        return fir_filter(x, self.kernel, stride=2, padding=1)


def group_norm(channels: int) -> GroupNorm:
    """GroupNorm of at least four channels a group, in at most 32 groups."""
    return GroupNorm(min(channels // 4, 32), channels, EPS)


def merge(fresh: Tensor, other: Tensor, rescale: bool) -> Tensor:
    """fresh + other, divided by sqrt(2) where asked for, in the memory of the first as `add`."""
    h = add(fresh, other)
    if not rescale:
        return h
    return h * math.sqrt(0.5) if torch.is_grad_enabled() else h.mul_(math.sqrt(0.5))


class FourierEmbedding(nn.Module):
    """Sines and cosines of log(sigma) at fixed random frequencies, in float64.

    In float32 the angle alone is off by up to 2e-4.
    """

    def __init__(self, width: int):
        super().__init__()
        self.W = nn.Parameter(torch.randn(width) * FOURIER_SCALE, requires_grad=False)

    def forward(self, sigma: Tensor) -> Tensor:
        angle = sigma.double().log()[:, None] * self.W.double() * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class NIN(nn.Module):
    """A linear layer on [B, L, C], in the layout of the published files: W is [in, out]."""

    def __init__(self, channels: int):
        super().__init__()
        self.W = nn.Parameter(torch.empty(channels, channels))
        self.b = nn.Parameter(torch.zeros(channels))
        nn.init.xavier_uniform_(self.W)

    def forward(self, tokens: Tensor) -> Tensor:
        return F.linear(tokens, self.W.T.to(tokens.dtype), self.b.to(tokens.dtype))


class ResBlock(nn.Module):
    """Two convolutions, the embedding added between them, with an optional change of size before."""

    def __init__(
        self, config: NCSNPPConfig, in_channels: int, channels: int, resample: nn.Module | None = None
    ):
        super().__init__()
        self.rescale = config.skip_rescale
        self.resample = resample or nn.Identity()
        self.GroupNorm_0 = group_norm(in_channels)
        self.Conv_0 = Conv3x3(in_channels, channels)
        self.Dense_0 = nn.Linear(4 * config.model_channels, channels)
        self.GroupNorm_1 = group_norm(channels)
        self.dropout = nn.Dropout(config.dropout)
        self.Conv_1 = zeroed(Conv3x3(channels, channels))
        if in_channels != channels or resample is not None:
            self.Conv_2 = nn.Conv2d(in_channels, channels, 1)
        self.act = SiLU()

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Run on x [B, C, H, W]; emb [B, 4 * model_channels] is after its activation."""
        h = self.Conv_0(self.resample(self.act(self.GroupNorm_0(x))))
        h = add(h, self.Dense_0(emb)[:, :, None, None])
        h = self.Conv_1(self.dropout(self.act(self.GroupNorm_1(h))))
        x = self.resample(x)
        return merge(h, self.Conv_2(x) if hasattr(self, "Conv_2") else x, self.rescale)


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions, in one head."""

    def __init__(self, config: NCSNPPConfig, channels: int):
        super().__init__()
        self.rescale = config.skip_rescale
        self.GroupNorm_0 = group_norm(channels)
        self.NIN_0 = NIN(channels)
        self.NIN_1 = NIN(channels)
        self.NIN_2 = NIN(channels)
        self.NIN_3 = zeroed(NIN(channels))

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(self.GroupNorm_0(x))
        h = attend(*(split_heads(nin(tokens), 1) for nin in (self.NIN_0, self.NIN_1, self.NIN_2)))
        return merge(to_map(self.NIN_3(h), like=x), x, self.rescale)


class InputSkip(nn.Module):
    """Adds the shrunk image to the maps, through a 1x1 convolution."""

    def __init__(self, config: NCSNPPConfig, channels: int):
        super().__init__()
        self.downsample = Downsample(config.fir)
        self.Conv_0 = nn.Conv2d(config.in_channels, channels, 1)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next smaller image and the new maps."""
        pyramid = self.downsample(pyramid)
        return pyramid, add(self.Conv_0(pyramid.to(h.dtype)), h)


class InputResidual(nn.Module):
    """Adds what the level above became to the maps, through a filter and a strided convolution."""

    def __init__(self, config: NCSNPPConfig, in_channels: int, channels: int):
        super().__init__()
        self.rescale = config.skip_rescale
        self.Conv2d_0 = nn.Conv2d(in_channels, channels, 3, stride=2)
        self.register_buffer("kernel", fir_kernel(), persistent=False)

    def forward(self, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Return the new maps twice: they are the next pyramid as well."""
        pyramid = fir_filter(pyramid.to(h.dtype), self.kernel, stride=1, padding=2)
        h = merge(self.Conv2d_0(pyramid), h, self.rescale)
        return h, h


def make_modules(config: NCSNPPConfig) -> Iterator[nn.Module]:
    """Make the modules in the order that numbers them in the published files."""
    width, last = config.model_channels, len(config.channel_mult) - 1
    widths = [mult * width for mult in config.channel_mult]
    yield FourierEmbedding(width)
    yield nn.Linear(2 * width, 4 * width)
    yield nn.Linear(4 * width, 4 * width)
    yield Conv3x3(config.in_channels, width)
    channels, skips, pyramid = width, [width], config.in_channels
    for level, new in enumerate(widths):
        for _ in range(config.num_res_blocks):
            yield ResBlock(config, channels, new)
            if config.attends(level):
                yield AttentionBlock(config, new)
            channels = new
            skips.append(new)
        if level < last:
            yield ResBlock(config, new, new, Downsample(config.fir))
            if config.progressive_input == "input_skip":
                yield InputSkip(config, new)
            else:
                yield InputResidual(config, pyramid, new)
                pyramid = new
            skips.append(new)
    yield ResBlock(config, channels, channels)
    yield AttentionBlock(config, channels)
    yield ResBlock(config, channels, channels)
    for level, new in reversed(list(enumerate(widths))):
        for _ in range(config.num_res_blocks + 1):
            yield ResBlock(config, channels + skips.pop(), new)
            channels = new
        if config.attends(level):
            yield AttentionBlock(config, new)
        if level == 0 or config.progressive == "output_skip":
            yield group_norm(new)
            yield zeroed(Conv3x3(new, config.out_channels))
        if level > 0:
            yield ResBlock(config, new, new, Upsample(config.fir))


class NCSNPP(nn.Module):
    """The network of Song et al. for the variance-exploding SDE, trained on continuous noise levels.

    Loads the `ncsnpp_continuous` weights of score_sde_pytorch.
    """

    def __init__(self, config: NCSNPPConfig):
        super().__init__()
        self.config = config
        self.register_buffer("sigmas", torch.zeros(config.num_scales, dtype=torch.float64))
        self.all_modules = nn.ModuleList(make_modules(config))
        self.upsample = Upsample(config.fir)
        self.act = SiLU()

    @property
    def float32_modules(self) -> tuple[str, ...]:
        """The embedding's layers and the convolutions that make images."""
        return tuple(
            f"all_modules.{i}"
            for i, module in enumerate(self.all_modules)
            if isinstance(module, nn.Linear) or (isinstance(module, nn.Conv2d) and i != CONV_IN)
        )

    def embed(self, sigma: Tensor) -> Tensor:
        """Embed noise levels [B] as [B, 4 * model_channels], after the activation that all blocks share."""
        fourier, dense_0, dense_1 = islice(self.all_modules, CONV_IN)
        return F.silu(dense_1(F.silu(dense_0(fourier(sigma).to(dense_0.weight.dtype)))))

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Estimate the score of noisy images.

        Args:
            x: Noisy images x_0 + sigma z in float32 or float64, x_0 in [0, 1], shape
                [B, in_channels, H, W]; H and W are multiples of the coarsest level's reduction. Where the
                config says centered, the layers take them as they are, else as 2 x - 1.
            sigma: Standard deviations of the noise, above 0, shape [B].

        Returns:
            Score in the units of x and in its dtype, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple.
        """
        config, last = self.config, len(self.config.channel_mult) - 1
        check_size(x, config.size_multiple)
        modules = islice(self.all_modules, CONV_IN, None)  # used up in the order of make_modules
        conv_in = next(modules)
        body_dtype = conv_in.weight.dtype
        emb = self.embed(sigma).to(body_dtype)
        pyramid = x if config.centered else 2 * x - 1
        h = conv_in(pyramid.to(body_dtype))
        skips = [h]
        for level in range(last + 1):
            for _ in range(config.num_res_blocks):
                h = next(modules)(h, emb)
                if config.attends(level):
                    h = next(modules)(h)
                skips.append(h)
            if level < last:
                h = next(modules)(h, emb)
                pyramid, h = next(modules)(pyramid, h)
                skips.append(h)
        h = next(modules)(h, emb)
        h = next(modules)(h)
        h = next(modules)(h, emb)
        out = None
        for level in reversed(range(last + 1)):
            for _ in range(config.num_res_blocks + 1):
                h = next(modules)(torch.cat([h, skips.pop()], dim=1), emb)
            if config.attends(level):
                h = next(modules)(h)
            if level == 0 or config.progressive == "output_skip":
                norm, conv = next(modules), next(modules)
                image = conv(self.act(norm(h.to(x.dtype))))
                out = image if out is None else add(image, self.upsample(out))
            if level > 0:
                h = next(modules)(h, emb)
        return out / sigma.to(out.dtype)[:, None, None, None] if config.scale_by_sigma else out
