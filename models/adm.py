"""The ADM networks of Dhariwal & Nichol (2021), with the state-dict keys of openai/guided-diffusion."""

from dataclasses import dataclass, field

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
    check_labels,
    check_size,
    conv_after,
    pointwise,
    scale_shift,
    timestep_embedding,
    to_map,
    to_tokens,
    zeroed,
)


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(UNetConfig):
    """What the UNet and the noisy classifier have in common."""

    out_channels: int = field()
    """Channels (UNet; twice in_channels with learned variance) or logits (classifier)."""
    channel_mult: tuple[float, ...]
    num_heads: int | None = None
    """Of every attention; no tensor tells it, so one of the two must be given: all these networks attend."""
    num_head_channels: int | None = None
    """Channels a head; where given, num_heads has no effect."""
    conv_resample: bool = True
    resblock_updown: bool = False
    use_scale_shift_norm: bool = False
    use_new_attention_order: bool = False
    """Channels of the qkv convolution: q, k, v outermost (new) or heads outermost (legacy)."""
    use_conv2d_attention: bool = False
    """Whether its kernels are of maps, as in openai/consistency_models, instead of rows of tokens."""

    def __post_init__(self):
        super().__post_init__()
        if self.num_heads is None and self.num_head_channels is None:
            raise ValueError(
                "num_heads and num_head_channels: found neither, and no tensor tells how many heads attend; "
                "give one of them as the network was trained (1 head: num_heads: 1)"
            )


@dataclass(frozen=True, kw_only=True)
class ADMConfig(EncoderConfig):
    """A UNet, class-conditional where num_classes is given."""

    num_classes: int | None = None
    label_optional: bool = False
    """With classes, the network also predicts without one: nothing is added to the embedding of the time."""
    num_heads_upsample: int | None = None
    """Heads on the way up, where they differ from num_heads."""


@dataclass(frozen=True, kw_only=True)
class ADMClassifierConfig(EncoderConfig):
    """A noisy classifier: the encoder half, then a pool."""

    pool: str = "attention"
    """'attention' or 'adaptive'."""

    @property
    def size_multiple(self) -> int | None:
        """As of every UNet, but attention pools as many positions as it has embeddings for."""
        return None if self.pool == "attention" else super().size_multiple


class EmbedSequential(nn.Sequential):
    """A Sequential that hands the time embedding to the residual blocks in it, and text to what attends."""

    def forward(self, x: Tensor, emb: Tensor, *text: Tensor) -> Tensor:
        for layer in self:
            if isinstance(layer, ResBlock):
                x = layer(x, emb)
            else:
                x = layer(x, *text) if isinstance(layer, AttentionBlock) else layer(x)
        return x


class Downsample(nn.Module):
    """Half the size, by a strided 3x3 convolution (symmetric padding) or by averaging."""

    def __init__(self, channels: int, use_conv: bool):
        super().__init__()
        conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1) if use_conv else None
        self.op = conv or nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class ResBlock(nn.Module):
    """Two convolutions around the embedding, with an optional change of size in the first."""

    def __init__(
        self, config: EncoderConfig, in_channels: int, channels: int, resample: nn.Module | None = None
    ):
        super().__init__()
        self.scale_shift = config.use_scale_shift_norm
        emb_channels = 4 * config.model_channels
        self.resample = resample or nn.Identity()
        self.in_layers = nn.Sequential(
            GroupNorm(32, in_channels), SiLU(), conv_after(resample, in_channels, channels)
        )
        self.emb_layers = nn.Sequential(
            nn.SiLU(), nn.Linear(emb_channels, 2 * channels if self.scale_shift else channels)
        )
        self.out_layers = nn.Sequential(
            GroupNorm(32, channels),
            SiLU(),
            nn.Dropout(config.dropout),
            zeroed(Conv3x3(channels, channels)),
        )
        self.skip_connection = (
            nn.Identity() if in_channels == channels else nn.Conv2d(in_channels, channels, 1)
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        norm, act, conv = self.in_layers
        h = act(norm(x))
        h = conv(h if isinstance(conv, UpConv2d) else self.resample(h))
        emb = self.emb_layers(emb)
        norm, *rest = self.out_layers
        h = scale_shift(norm(h), emb) if self.scale_shift else norm(add(h, emb[:, :, None, None]))
        for layer in rest:
            h = layer(h)
        return add(h, self.skip_connection(self.resample(x)))


def split_qkv(qkv: Tensor, num_heads: int, heads_outermost: bool) -> tuple[Tensor, ...]:
    """Split [B, L, 3C] into queries, keys and values, each [B, num_heads, L, C / num_heads]."""
    if heads_outermost:
        return qkv.unflatten(2, (num_heads, 3, -1)).permute(3, 0, 2, 1, 4).unbind()
    return qkv.unflatten(2, (3, num_heads, -1)).permute(2, 0, 3, 1, 4).unbind()


class AttentionBlock(nn.Module):
    """Residual self-attention over all positions."""

    def __init__(self, config: EncoderConfig, channels: int, num_heads: int):
        super().__init__()
        self.num_heads = channels // config.num_head_channels if config.num_head_channels else num_heads
        check_heads(channels, self.num_heads)
        self.heads_outermost = not config.use_new_attention_order
        self.norm = GroupNorm(32, channels)
        conv = nn.Conv2d if config.use_conv2d_attention else nn.Conv1d
        self.qkv = conv(channels, 3 * channels, 1)
        self.proj_out = zeroed(conv(channels, channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        qkv = pointwise(self.qkv, to_tokens(self.norm(x)))
        h = attend(*split_qkv(qkv, self.num_heads, self.heads_outermost))
        return add(to_map(pointwise(self.proj_out, h), like=x), x)


class AttentionPool(nn.Module):
    """Attention of the mean token over all tokens (CLIP's pool); always in the new qkv order."""

    def __init__(self, config: ADMClassifierConfig, size: int, channels: int):
        super().__init__()
        if not config.num_head_channels:
            raise ValueError("pool 'attention' needs num_head_channels; give it, or use pool 'adaptive'")
        self.num_heads = channels // config.num_head_channels
        check_heads(channels, self.num_heads)
        self.positional_embedding = nn.Parameter(torch.randn(channels, size**2 + 1) / channels**0.5)
        self.qkv_proj = nn.Conv1d(channels, 3 * channels, 1)
        self.c_proj = nn.Conv1d(channels, config.out_channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = to_tokens(x)
        tokens = torch.cat([tokens.mean(dim=1, keepdim=True), tokens], dim=1)
        tokens = tokens + self.positional_embedding.T.to(tokens.dtype)
        qkv = pointwise(self.qkv_proj, tokens)
        h = attend(*split_qkv(qkv, self.num_heads, heads_outermost=False))
        return pointwise(self.c_proj, h[:, :1])[:, 0]


class Encoder(nn.Module):
    """Time embedding, way down and middle: the part that the UNet and the classifier share."""

    attention = AttentionBlock

    def __init__(self, config: EncoderConfig, num_classes: int | None = None):
        super().__init__()
        self.config = config
        width, emb_channels = config.model_channels, 4 * config.model_channels
        self.time_embed = nn.Sequential(
            nn.Linear(width, emb_channels), nn.SiLU(), nn.Linear(emb_channels, emb_channels)
        )
        if num_classes is not None:
            self.label_emb = nn.Embedding(num_classes, emb_channels)
        channels = int(config.channel_mult[0] * width)
        blocks = [EmbedSequential(Conv3x3(config.in_channels, channels))]
        self.skip_channels = [channels]
        size = config.image_size
        for level, mult in enumerate(config.channel_mult):
            for _ in range(config.num_res_blocks):
                layers: list[nn.Module] = [ResBlock(config, channels, int(mult * width))]
                channels = int(mult * width)
                if size in config.attention_resolutions:
                    layers.append(self.attention(config, channels, config.num_heads))
                blocks.append(EmbedSequential(*layers))
                self.skip_channels.append(channels)
            if level < len(config.channel_mult) - 1:
                blocks.append(EmbedSequential(_resampler(config, Downsample, channels)))
                self.skip_channels.append(channels)
                size //= 2
        self.input_blocks = nn.ModuleList(blocks)
        self.middle_block = EmbedSequential(
            ResBlock(config, channels, channels),
            self.attention(config, channels, config.num_heads),
            ResBlock(config, channels, channels),
        )
        self.size, self.channels = size, channels

    def embed(self, t: Tensor) -> Tensor:
        """Embed timesteps [B] as [B, 4 * model_channels]."""
        sinusoid = timestep_embedding(t, self.config.model_channels, cos_first=True, full_range=False)
        return self.time_embed(sinusoid.to(self.time_embed[0].weight.dtype))

    def encode(self, x: Tensor, emb: Tensor, *text: Tensor) -> list[Tensor]:
        """Run the way down and the middle: all skip tensors, then the middle's output."""
        check_size(x, 2 ** (len(self.config.channel_mult) - 1))
        body_dtype = self.middle_block[0].in_layers[2].weight.dtype
        h, emb = x.to(body_dtype), emb.to(body_dtype)
        text = tuple(states.to(body_dtype) for states in text)
        outputs = []
        for block in self.input_blocks:
            h = block(h, emb, *text)
            outputs.append(h)
        return [*outputs, self.middle_block(h, emb, *text)]


def _resampler(config: EncoderConfig, resample: type[nn.Module], channels: int) -> nn.Module:
    if config.resblock_updown:
        return ResBlock(config, channels, channels, resample(channels, use_conv=False))
    return resample(channels, config.conv_resample)


class ADM(Encoder):
    """The UNet of Dhariwal & Nichol, "Diffusion Models Beat GANs on Image Synthesis" (2021).

    Loads openai's published UNets and those of RePaint, ilvr_adm, cycle-diffusion and DDIB.
    """

    float32_modules = ("time_embed", "label_emb", "out")

    def __init__(self, config: ADMConfig):
        super().__init__(config, config.num_classes)
        width = config.model_channels
        heads = config.num_heads_upsample or config.num_heads
        size, channels, skips = self.size, self.channels, list(self.skip_channels)
        blocks = []
        for level, mult in reversed(list(enumerate(config.channel_mult))):
            for i in range(config.num_res_blocks + 1):
                layers: list[nn.Module] = [ResBlock(config, channels + skips.pop(), int(mult * width))]
                channels = int(mult * width)
                if size in config.attention_resolutions:
                    layers.append(self.attention(config, channels, heads))
                if level and i == config.num_res_blocks:
                    layers.append(_resampler(config, Upsample, channels))
                    size *= 2
                blocks.append(EmbedSequential(*layers))
        self.output_blocks = nn.ModuleList(blocks)
        self.out = nn.Sequential(
            GroupNorm(32, channels), SiLU(), zeroed(Conv3x3(channels, config.out_channels))
        )

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: Training timesteps, shape [B].
            y: Class indices, shape [B]; needed when the network has classes that are not optional.

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple, or y is given or missing wrongly.
        """
        check_labels(y, self.config.num_classes)
        if y is None and self.config.num_classes is not None and not self.config.label_optional:
            raise ValueError(f"this network needs a class in 0..{self.config.num_classes - 1}, got y = None")
        emb = self.embed(t)
        return self.predict(x, emb if y is None else emb + self.label_emb(y))

    def predict(self, x: Tensor, emb: Tensor, *text: Tensor) -> Tensor:
        """Predict from noisy images [B, in_channels, H, W] and all that is told of them.

        Args:
            x: The images.
            emb: What is embedded, [B, E].
            text: For layers that attend to it: states [B, L, D].
        """
        skips = self.encode(x, emb, *text)
        h = skips.pop()
        emb, text = emb.to(h.dtype), tuple(states.to(h.dtype) for states in text)
        for block in self.output_blocks:
            h = block(torch.cat([h, skips.pop()], dim=1), emb, *text)
        return self.out(h.to(x.dtype))


class ADMClassifier(Encoder):
    """The noisy classifier of the same paper (openai's EncoderUNetModel): logits from x_t and t."""

    float32_modules = ("time_embed", "out")

    def __init__(self, config: ADMClassifierConfig):
        super().__init__(config)
        norm = GroupNorm(32, self.channels)
        if config.pool == "attention":
            self.out = nn.Sequential(norm, SiLU(), AttentionPool(config, self.size, self.channels))
        elif config.pool == "adaptive":
            conv = zeroed(nn.Conv2d(self.channels, config.out_channels, 1))
            self.out = nn.Sequential(norm, SiLU(), nn.AdaptiveAvgPool2d(1), conv, nn.Flatten())
        else:
            raise ValueError(f"pool {config.pool!r}: allowed are 'attention' and 'adaptive'")

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Classify noisy images x [B, C, H, W] at timesteps t [B]: logits [B, out_channels]."""
        return self.out(self.encode(x, self.embed(t))[-1].to(x.dtype))
