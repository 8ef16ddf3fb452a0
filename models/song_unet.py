"""The DDPM++ and NCSN++ of Karras et al. (2022), with the state-dict keys of NVlabs/edm."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import ncsnpp
from models.layers import (
    Conv3x3,
    SiLU,
    UNetConfig,
    UpConv2d,
    Upsample,
    add,
    attend,
    check_labels,
    check_size,
    conv_after,
    split_heads,
    timestep_embedding,
    to_map,
    to_tokens,
    zeroed,
)
from models.ncsnpp import FOURIER_SCALE, fir_filter, group_norm, merge

BOX, FIR = (1, 1), (1, 3, 3, 1)
ALLOWED = {
    "embedding": ("positional", "fourier"),
    "encoder_type": ("standard", "residual", "skip"),
    "decoder_type": ("standard", "skip"),
    "resample_filter": (BOX, FIR),
}


@dataclass(frozen=True, kw_only=True)
class SongUNetConfig(UNetConfig):
    """The SongUNet of "Elucidating the Design Space of Diffusion-Based Generative Models".

    As it is by default, it is the DDPM++ (files called vp); the NCSN++ (files called ve) has embedding
    fourier, channel_mult_noise 2, resample_filter [1, 3, 3, 1] and encoder_type residual.
    """

    label_optional: ClassVar[bool] = True
    """Without a class, the network is told a row of zeros in place of the one-hot row."""
    num_classes: int | None = None
    embedding: str = "positional"
    """Of the noise: 'positional' sinusoids, or 'fourier' at random frequencies."""
    channel_mult_noise: int = 1
    """Width of the embedding of the noise before its two layers, in model_channels."""
    resample_filter: tuple[int, ...] = BOX
    """What changes sizes: [1, 1] takes means and nearest neighbours, or [1, 3, 3, 1]."""
    encoder_type: str = "standard"
    """How the shrunk image enters each resolution: not at all; 'residual' by a strided convolution of
    what the resolution above became; 'skip' by a 1x1 convolution of the image alone."""
    decoder_type: str = "standard"
    """How the output is made: of the finest resolution, or 'skip', the sum of an image of each."""
    augment_dim: int = 0
    """Numbers that told the network in training how an image was changed; without use afterwards, when
    nothing is changed, but the files hold their weights."""

    def __post_init__(self):
        super().__post_init__()
        for name, allowed in ALLOWED.items():
            found = getattr(self, name)
            if found not in allowed:
                raise ValueError(f"{name} {found!r}: allowed are {', '.join(map(str, allowed))}")

    def name(self, level: int) -> str:
        """Return what the published keys call a level, counted from the finest."""
        size = self.image_size >> level
        return f"{size}x{size}"

    def attends(self, level: int) -> bool:
        """Whether a level, counted from the finest, attends."""
        return self.image_size >> level in self.attention_resolutions


def filter_of(taps: tuple[int, ...]) -> Tensor:
    """Return the filter in both directions, sum 1, shape [1, 1, K, K]."""
    taps = torch.tensor(taps, dtype=torch.float32)
    return (torch.outer(taps, taps) / taps.sum() ** 2)[None, None]


def holding_filter(module: nn.Module, config: SongUNetConfig) -> nn.Module:
    """Give a module the buffer that the published files have in its place, and that nothing reads."""
    module.register_buffer("resample_filter", filter_of(config.resample_filter))
    return module


def halve(config: SongUNetConfig) -> nn.Module:
    """Build what halves the size of maps."""
    return nn.AvgPool2d(2) if config.resample_filter == BOX else ncsnpp.Downsample(fir=True)


def double(config: SongUNetConfig, channels: int) -> nn.Module:
    """Build what doubles the size of maps."""
    if config.resample_filter == BOX:
        return Upsample(channels, use_conv=False)
    return ncsnpp.Upsample(fir=True)


class FourierEmbedding(nn.Module):
    """Sines and cosines at fixed random frequencies, in float64."""

    def __init__(self, width: int):
        super().__init__()
        self.register_buffer("freqs", torch.randn(width // 2) * FOURIER_SCALE)

    def forward(self, t: Tensor) -> Tensor:
        angle = t.double()[:, None] * self.freqs.double() * (2 * math.pi)
        return torch.cat([angle.sin(), angle.cos()], dim=1)


class Block(nn.Module):
    """Two convolutions, the embedding added between them, then attention; each branch divided by sqrt(2).

    A change of size comes before the first convolution.
    """

    def __init__(
        self,
        config: SongUNetConfig,
        in_channels: int,
        channels: int,
        *,
        attention: bool = False,
        resample: nn.Module | None = None,
    ):
        super().__init__()
        self.resample = resample or nn.Identity()
        self.attention = attention
        self.act = SiLU()
        self.norm0 = group_norm(in_channels)
        self.conv0 = conv_after(resample, in_channels, channels)
        self.affine = nn.Linear(4 * config.model_channels, channels)
        self.norm1 = group_norm(channels)
        self.dropout = nn.Dropout(config.dropout)
        self.conv1 = zeroed(Conv3x3(channels, channels))
        if in_channels != channels or resample is not None:
            self.skip = nn.Conv2d(in_channels, channels, 1)
        if resample is not None:
            holding_filter(self.conv0, config)
            holding_filter(self.skip, config)
        if attention:
            self.norm2 = group_norm(channels)
            self.qkv = nn.Conv2d(channels, 3 * channels, 1)
            self.proj = zeroed(nn.Conv2d(channels, channels, 1))

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        """Run on x [B, C, H, W]; emb [B, 4 * model_channels] is after its activation."""
        h = self.act(self.norm0(x))
        h = self.conv0(h if isinstance(self.conv0, UpConv2d) else self.resample(h))
        h = add(h, self.affine(emb)[:, :, None, None])
        h = self.conv1(self.dropout(self.act(self.norm1(h))))
        x = self.resample(x)
        h = merge(h, self.skip(x) if hasattr(self, "skip") else x, rescale=True)
        return self.attend(h) if self.attention else h

    def attend(self, x: Tensor) -> Tensor:
        """Add self-attention over all positions, in one head."""
        tokens = to_tokens(self.norm2(x))
        weight, bias = self.qkv.weight.flatten(1), self.qkv.bias
        # a channel's query, key and value are neighbours
        q, k, v = (split_heads(F.linear(tokens, weight[i::3], bias[i::3]), 1) for i in range(3))
        h = F.linear(attend(q, k, v), self.proj.weight.flatten(1), self.proj.bias)
        return merge(to_map(h, like=x), x, rescale=True)


class AuxResidual(nn.Conv2d):
    """The filter, then a strided 3x3 convolution: half the size."""

    def __init__(self, config: SongUNetConfig, in_channels: int, channels: int):
        super().__init__(in_channels, channels, 3, stride=2)
        holding_filter(self, config)

    def forward(self, x: Tensor) -> Tensor:
        padding = self.resample_filter.shape[-1] // 2  # (K - 2) / 2 of the filter and 1 of the convolution
        return super().forward(fir_filter(x, self.resample_filter, stride=1, padding=padding))


Named = Iterator[tuple[str, nn.Module]]


def make_encoder(config: SongUNetConfig, skips: list[int]) -> Named:
    """Make the modules of the way down by their published names; skips takes the width of each skip."""
    channels, pyramid = config.model_channels, config.in_channels
    yield f"{config.name(0)}_conv", Conv3x3(config.in_channels, channels)
    skips.append(channels)
    for level, mult in enumerate(config.channel_mult):
        if level:
            name = config.name(level)
            yield f"{name}_down", Block(config, channels, channels, resample=halve(config))
            if config.encoder_type == "skip":
                yield f"{name}_aux_down", holding_filter(halve(config), config)
                yield f"{name}_aux_skip", nn.Conv2d(pyramid, channels, 1)
            elif config.encoder_type == "residual":
                yield f"{name}_aux_residual", AuxResidual(config, pyramid, channels)
                pyramid = channels
            skips.append(channels)
        for i in range(config.num_res_blocks):
            new = mult * config.model_channels
            block = Block(config, channels, new, attention=config.attends(level))
            yield f"{config.name(level)}_block{i}", block
            channels = new
            skips.append(channels)


def make_decoder(config: SongUNetConfig, skips: list[int]) -> Named:
    """Make the modules of the middle and the way up by their published names; uses skips up."""
    last, channels, skipping = len(config.channel_mult) - 1, skips[-1], config.decoder_type == "skip"
    for level, mult in reversed(list(enumerate(config.channel_mult))):
        name = config.name(level)
        if level == last:
            yield f"{name}_in0", Block(config, channels, channels, attention=True)
            yield f"{name}_in1", Block(config, channels, channels)
        else:
            yield f"{name}_up", Block(config, channels, channels, resample=double(config, channels))
        for i in range(config.num_res_blocks + 1):
            attention = i == config.num_res_blocks and config.attends(level)
            new = mult * config.model_channels
            yield f"{name}_block{i}", Block(config, channels + skips.pop(), new, attention=attention)
            channels = new
        if skipping and level < last:
            yield f"{name}_aux_up", holding_filter(double(config, config.out_channels), config)
        if skipping or level == 0:
            yield f"{name}_aux_norm", group_norm(channels)
            yield f"{name}_aux_conv", zeroed(Conv3x3(channels, config.out_channels))


class SongUNet(nn.Module):
    """The network of Song et al. as Karras et al. train it: told c_noise, and any preconditioning around it.

    Loads the networks of the published pickles of NVlabs/edm, apart from those called adm.
    """

    def __init__(self, config: SongUNetConfig):
        super().__init__()
        self.config = config
        width = config.model_channels * config.channel_mult_noise
        emb_channels = 4 * config.model_channels
        if config.embedding == "fourier":
            self.map_noise = FourierEmbedding(width)
        if config.num_classes is not None:
            self.map_label = nn.Linear(config.num_classes, width)
        if config.augment_dim:
            self.map_augment = nn.Linear(config.augment_dim, width, bias=False)
        self.map_layer0 = nn.Linear(width, emb_channels)
        self.map_layer1 = nn.Linear(emb_channels, emb_channels)
        skips: list[int] = []
        self.enc = nn.ModuleDict(dict(make_encoder(config, skips)))
        self.dec = nn.ModuleDict(dict(make_decoder(config, skips)))
        self.act = SiLU()

    @property
    def float32_modules(self) -> tuple[str, ...]:
        """The embedding's layers and the convolutions that make images."""
        names = ("map_label", "map_augment", "map_layer0", "map_layer1")
        return (*names, *(f"dec.{name}" for name in self.dec if name.endswith("aux_conv")))

    def embed(self, t: Tensor, y: Tensor | None) -> Tensor:
        """Embed noise levels [B] and classes [B] as [B, 4 * model_channels], after the activation."""
        width, num_classes = self.map_layer0.in_features, self.config.num_classes
        if self.config.embedding == "fourier":
            emb = self.map_noise(t)
        else:
            emb = timestep_embedding(t, width, cos_first=False, full_range=True)
        if num_classes is not None:
            emb = emb + self.map_label.bias
        if y is not None:  # a one-hot row of root mean square 1
            emb = emb + F.embedding(y, self.map_label.weight.T) * math.sqrt(num_classes)
        emb = F.silu(self.map_layer0(emb.to(self.map_layer0.weight.dtype)))
        return F.silu(self.map_layer1(emb))

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Compute F of the preconditioning, c_out F(c_in x, c_noise) + c_skip x.

        Args:
            x: Noisy images times c_in, in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: c_noise, what the preconditioning tells of the noise, shape [B].
            y: Class indices, shape [B], int64; None for a row of zeros in place of the class.

        Returns:
            F in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple, or y is given to a network without classes.
        """
        check_labels(y, self.config.num_classes)
        check_size(x, self.config.size_multiple)
        emb = self.embed(t, y).to(self.enc[f"{self.config.name(0)}_conv"].weight.dtype)
        return self.decode(self.encode(x, emb), emb, x.dtype)

    def encode(self, x: Tensor, emb: Tensor) -> list[Tensor]:
        """Run the way down: all skip tensors."""
        config, pyramid = self.config, x
        h = self.enc[f"{config.name(0)}_conv"](x.to(emb.dtype))
        skips = [h]
        for level in range(len(config.channel_mult)):
            name = config.name(level)
            if level:
                pyramid, h = self.join(name, pyramid, self.enc[f"{name}_down"](h, emb))
                skips.append(h)
            for i in range(config.num_res_blocks):
                h = self.enc[f"{name}_block{i}"](h, emb)
                skips.append(h)
        return skips

    def join(self, name: str, pyramid: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        """Bring the image into a resolution: the next pyramid and the new maps."""
        if self.config.encoder_type == "skip":
            pyramid = self.enc[f"{name}_aux_down"](pyramid)
            return pyramid, add(self.enc[f"{name}_aux_skip"](pyramid.to(h.dtype)), h)
        if self.config.encoder_type == "residual":
            h = merge(self.enc[f"{name}_aux_residual"](pyramid.to(h.dtype)), h, rescale=True)
            return h, h
        return pyramid, h

    def decode(self, skips: list[Tensor], emb: Tensor, dtype: torch.dtype) -> Tensor:
        """Run the middle and the way up."""
        config, dec, h, out = self.config, self.dec, skips[-1], None
        last, skipping = len(config.channel_mult) - 1, config.decoder_type == "skip"
        for level in reversed(range(last + 1)):
            name = config.name(level)
            for step in ("in0", "in1") if level == last else ("up",):
                h = dec[f"{name}_{step}"](h, emb)
            for i in range(config.num_res_blocks + 1):
                h = dec[f"{name}_block{i}"](torch.cat([h, skips.pop()], dim=1), emb)
            if skipping or level == 0:
                image = dec[f"{name}_aux_conv"](self.act(dec[f"{name}_aux_norm"](h.to(dtype))))
                out = image if out is None else add(image, dec[f"{name}_aux_up"](out))
        return out
