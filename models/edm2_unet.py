"""The magnitude-preserving UNet of Karras et al. (2024), with the state-dict keys of NVlabs/edm2."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import (
    Conv3x3,
    UNetConfig,
    Upsample,
    attend,
    check_heads,
    check_labels,
    check_size,
    to_map,
    to_tokens,
)

EPS = 1e-4
LABEL_BALANCE, CONCAT_BALANCE, RES_BALANCE, ATTENTION_BALANCE = 0.5, 0.5, 0.3, 0.3
"""Weights of the second part in sums and concatenations."""
MOST = 256.0  # activations beyond it are cut off
SILU_SIZE = 0.596  # root mean square of SiLU of a standard Gaussian


@dataclass(frozen=True, kw_only=True)
class EDM2UNetConfig(UNetConfig):
    """The UNet of "Analyzing and Improving the Training Dynamics of Diffusion Models"."""

    label_optional: ClassVar[bool] = True
    """Without a class, the network is told a row of zeros in place of the one-hot row."""
    num_classes: int | None = None
    num_head_channels: int = 64
    """Channels a head."""
    channel_mult_noise: int | None = None
    """Width of the embedding of the noise, in model_channels; by default that of the finest maps."""
    channel_mult_emb: int | None = None
    """Width of the embedding of noise and class, in model_channels; by default that of the widest maps."""

    @property
    def noise_channels(self) -> int:
        """Width of the embedding of the noise."""
        return self.model_channels * (self.channel_mult_noise or self.channel_mult[0])

    @property
    def emb_channels(self) -> int:
        """Width of the embedding of noise and class."""
        return self.model_channels * (self.channel_mult_emb or max(self.channel_mult))

    def name(self, level: int) -> str:
        """Return what the published keys call a level, counted from the finest."""
        size = self.image_size >> level
        return f"{size}x{size}"

    def attends(self, level: int) -> bool:
        """Whether the blocks of a level, counted from the finest, attend."""
        return self.image_size >> level in self.attention_resolutions


def normalize(x: Tensor, dim: int | tuple[int, ...]) -> Tensor:
    """Divide by the root mean square over some dimensions, plus 1e-4."""
    dims = (dim,) if isinstance(dim, int) else dim
    at_least = torch.promote_types(x.dtype, torch.float32)  # half precision cannot hold the sum of squares
    norm = torch.linalg.vector_norm(x, dim=dims, keepdim=True, dtype=at_least)
    size = norm * math.sqrt(norm.numel() / x.numel()) + EPS
    return x / size.to(x.dtype)


def mp_silu(x: Tensor) -> Tensor:
    """SiLU that keeps the magnitude of Gaussians (eq. 81)."""
    h = F.silu(x)
    return h / SILU_SIZE if torch.is_grad_enabled() else h.div_(SILU_SIZE)


def mp_sum(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Mix a and b by (1 - balance) : balance, of unchanged magnitude (eq. 88)."""
    size = math.hypot(1 - balance, balance)
    return torch.add(a * ((1 - balance) / size), b, alpha=balance / size)


def mp_cat(a: Tensor, b: Tensor, balance: float) -> Tensor:
    """Concatenate the channels of a and b, each part of a magnitude whatever its width (eq. 103)."""
    num_a, num_b = a.shape[1], b.shape[1]
    size = math.sqrt((num_a + num_b) / ((1 - balance) ** 2 + balance**2))
    return torch.cat(
        [a * (size * (1 - balance) / math.sqrt(num_a)), b * (size * balance / math.sqrt(num_b))], dim=1
    )


class Normalized:
    """For a layer without bias whose weights count only by their direction, row by row (eq. 47, 66).

    Until `fuse`, the weights are normalized at every call, as training changes them.
    """

    weight: nn.Parameter
    final = False

    def fuse(self) -> None:
        """Put the normalized weights in the place of the weights, which are final."""
        if not self.final:
            self.weight.data = self.normalized().detach()
            self.final = True
        if isinstance(self, Conv3x3):
            Conv3x3.fuse(self)

    def normalized(self) -> Tensor:
        """Return the weights that the layer computes with: rows of length 1."""
        if self.final:
            return self.weight
        fan_in = math.prod(self.weight.shape[1:])
        return normalize(self.weight, tuple(range(1, self.weight.ndim))) / math.sqrt(fan_in)


class MPLinear(Normalized, nn.Linear):
    """A linear layer of normalized weights."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, bias=False)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.normalized())


class MPConv1x1(Normalized, nn.Conv2d):
    """A 1x1 convolution of normalized weights."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, 1, bias=False)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.normalized())


class MPConv3x3(Normalized, Conv3x3):
    """A 3x3 convolution of normalized weights that keeps the size."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__(in_channels, out_channels, bias=False)
        nn.init.normal_(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if self.final else F.conv2d(x, self.normalized(), padding=1)


class FourierEmbedding(nn.Module):
    """Cosines at fixed random frequencies and phases, of magnitude 1, in float64."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("freqs", 2 * math.pi * torch.randn(width))
        self.register_buffer("phases", 2 * math.pi * torch.rand(width))

    def forward(self, t: Tensor) -> Tensor:
        angle = t.double()[:, None] * self.freqs.double() + self.phases.double()
        return angle.cos() * math.sqrt(2)


class Block(nn.Module):
    """A residual branch of two convolutions, the embedding scaling it between them, then attention."""

    def __init__(
        self,
        config: EDM2UNetConfig,
        in_channels: int,
        channels: int,
        *,
        encoder: bool = False,
        attention: bool = False,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.encoder = encoder
        self.resample = resample or nn.Identity()
        self.num_heads = channels // config.num_head_channels if attention else 0
        self.emb_gain = nn.Parameter(torch.zeros(()))
        self.conv_res0 = MPConv3x3(channels if encoder else in_channels, channels)
        self.emb_linear = MPLinear(config.emb_channels, channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv_res1 = MPConv3x3(channels, channels)
        self.conv_skip = MPConv1x1(in_channels, channels) if in_channels != channels else None
        if attention:
            check_heads(channels, self.num_heads)
            self.attn_qkv = MPConv1x1(channels, 3 * channels)
            self.attn_proj = MPConv1x1(channels, channels)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Run on x [B, C, H, W]; emb [B, emb_channels] is after its activation."""
        x = self.resample(x)
        if self.encoder:
            x = normalize(self.shortcut(x), dim=1)
        scale = 1 + self.emb_linear(emb) * self.emb_gain.to(emb.dtype)
        h = mp_silu(self.conv_res0(mp_silu(x)) * scale[:, :, None, None])
        h = self.conv_res1(self.dropout(h))
        x = mp_sum(x if self.encoder else self.shortcut(x), h, RES_BALANCE)
        if self.num_heads:
            x = mp_sum(x, self.attend(x), ATTENTION_BALANCE)
        return x.clamp(-MOST, MOST) if torch.is_grad_enabled() else x.clamp_(-MOST, MOST)

    def shortcut(self, x: Tensor) -> Tensor:
        """Bring x to the block's width."""
        return x if self.conv_skip is None else self.conv_skip(x)

    def attend(self, x: Tensor) -> Tensor:
        """Attend over all positions, by queries, keys and values of one magnitude."""
        weight, tokens = self.attn_qkv.normalized().flatten(1), to_tokens(x)
        q, k, v = (  # a channel's query, key and value are neighbours
            normalize(F.linear(tokens, weight[i::3]).unflatten(2, (self.num_heads, -1)), dim=3)
            for i in range(3)
        )
        h = attend(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
        return to_map(F.linear(h, self.attn_proj.normalized().flatten(1)), like=x)


Named = Iterator[tuple[str, nn.Module]]


def make_encoder(config: EDM2UNetConfig, skips: list[int]) -> Named:
    """Make the modules of the way down by their published names; skips takes the width of each skip."""
    channels = config.model_channels * config.channel_mult[0]
    yield f"{config.name(0)}_conv", MPConv3x3(config.in_channels + 1, channels)
    skips.append(channels)
    for level, mult in enumerate(config.channel_mult):
        if level:
            down = Block(config, channels, channels, encoder=True, resample=nn.AvgPool2d(2))
            yield f"{config.name(level)}_down", down
            skips.append(channels)
        for i in range(config.num_res_blocks):
            new, attention = mult * config.model_channels, config.attends(level)
            block = Block(config, channels, new, encoder=True, attention=attention)
            yield f"{config.name(level)}_block{i}", block
            channels = new
            skips.append(channels)


def make_decoder(config: EDM2UNetConfig, skips: list[int]) -> Named:
    """Make the modules of the middle and the way up by their published names; uses skips up."""
    last, channels = len(config.channel_mult) - 1, skips[-1]
    for level, mult in reversed(list(enumerate(config.channel_mult))):
        name = config.name(level)
        if level == last:
            yield f"{name}_in0", Block(config, channels, channels, attention=True)
            yield f"{name}_in1", Block(config, channels, channels)
        else:
            resample = Upsample(channels, use_conv=False)
            yield f"{name}_up", Block(config, channels, channels, resample=resample)
        for i in range(config.num_res_blocks + 1):
            new, attention = mult * config.model_channels, config.attends(level)
            yield f"{name}_block{i}", Block(config, channels + skips.pop(), new, attention=attention)
            channels = new


class EDM2UNet(nn.Module):
    """ADM without biases and norms: weights, sums and activations keep magnitudes instead.

    Loads the networks of the published pickles of NVlabs/edm2, without what predicts their loss.
    """

    float32_modules = ("emb_noise", "emb_label", "out_conv")

    def __init__(self, config: EDM2UNetConfig):
        super().__init__()
        self.config = config
        self.out_gain = nn.Parameter(torch.zeros(()))
        self.emb_fourier = FourierEmbedding(config.noise_channels)
        self.emb_noise = MPLinear(config.noise_channels, config.emb_channels)
        if config.num_classes is not None:
            self.emb_label = MPLinear(config.num_classes, config.emb_channels)
        skips: list[int] = []
        self.enc = nn.ModuleDict(dict(make_encoder(config, skips)))
        self.dec = nn.ModuleDict(dict(make_decoder(config, skips)))
        self.out_conv = MPConv3x3(config.model_channels * config.channel_mult[0], config.out_channels)

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embed noise levels [B] and classes [B] as [B, emb_channels], after the activation."""
        emb = self.emb_noise(self.emb_fourier(t).to(self.emb_noise.weight.dtype))
        if self.config.num_classes is not None:
            label = torch.zeros_like(emb)
            if y is not None:  # a one-hot row of root mean square 1
                table = self.emb_label.normalized().T
                label = F.embedding(y, table) * math.sqrt(self.config.num_classes)
            emb = mp_sum(emb, label, LABEL_BALANCE)
        return mp_silu(emb)

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute F of the preconditioning, c_out F(c_in x, c_noise) + c_skip x.

        Args:
            x: Noisy images times c_in, in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: c_noise, a quarter of the logarithm of sigma, shape [B].
            y: Class indices, shape [B], int64; None for a row of zeros in place of the class.

        Returns:
            F in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple, or y is given to a network without classes.
        """
        config, last = self.config, len(self.config.channel_mult) - 1
        check_labels(y, config.num_classes)
        check_size(x, config.size_multiple)
        emb = self.embed(t, y).to(self.enc[f"{config.name(0)}_conv"].weight.dtype)
        skips = self.encode(x, emb)
        h = skips[-1]
        for level in reversed(range(last + 1)):
            name = config.name(level)
            for step in ("in0", "in1") if level == last else ("up",):
                h = self.dec[f"{name}_{step}"](h, emb)
            for i in range(config.num_res_blocks + 1):
                h = self.dec[f"{name}_block{i}"](mp_cat(h, skips.pop(), CONCAT_BALANCE), emb)
        return self.out_conv(h.to(x.dtype)) * self.out_gain

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Run the way down: all skip tensors."""
        config, x = self.config, x.to(emb.dtype)
        h = self.enc[f"{config.name(0)}_conv"](torch.cat([x, torch.ones_like(x[:, :1])], dim=1))
        skips = [h]
        for level in range(len(config.channel_mult)):
            if level:
                h = self.enc[f"{config.name(level)}_down"](h, emb)
                skips.append(h)
            for i in range(config.num_res_blocks):
                h = self.enc[f"{config.name(level)}_block{i}"](h, emb)
                skips.append(h)
        return skips
