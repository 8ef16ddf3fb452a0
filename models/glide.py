"""The networks of GLIDE (Nichol et al., 2021), with the state-dict keys of openai/glide-text2im."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.adm import ADM, ADMConfig, AttentionBlock, split_qkv
from models.layers import add, attend, check_heads, pointwise, to_map, to_tokens


@dataclass(frozen=True, kw_only=True)
class GLIDEConfig(ADMConfig):
    """A UNet that reads a text, of 64 pixels a side; or of 256, shown the small picture enlarged."""

    text_context: int
    """Tokens of a text, padding included."""
    text_channels: int
    text_layers: int
    text_heads: int
    vocabulary: int
    resblock_updown: bool = True
    use_scale_shift_norm: bool = True
    upsampler: bool = False
    """Whether a small picture is shown beside the noisy one: in_channels are those of both."""

    guidance_channels = None
    """It is told no scale, see `TextUNetConfig`."""

    @property
    def image_channels(self) -> int:
        """Of the pictures."""
        return self.in_channels // 2 if self.upsampler else self.in_channels


class TextAttentionBlock(AttentionBlock):
    """Residual attention over all positions and over a text before them."""

    def __init__(self, config: GLIDEConfig, channels: int, num_heads: int):
        super().__init__(config, channels, num_heads)
        self.encoder_kv = nn.Conv1d(config.text_channels, 2 * channels, 1)

    def forward(self, x: Tensor, text: Tensor) -> Tensor:
        q, k, v = split_qkv(
            pointwise(self.qkv, to_tokens(self.norm(x))), self.num_heads, self.heads_outermost
        )
        told = pointwise(self.encoder_kv, text)  # heads outermost, whatever the order of qkv
        told_k, told_v = told.unflatten(2, (self.num_heads, 2, -1)).permute(3, 0, 2, 1, 4).unbind()
        h = attend(q, torch.cat([told_k, k], dim=2), torch.cat([told_v, v], dim=2))
        return add(to_map(pointwise(self.proj_out, h), like=x), x)


class TextAttention(nn.Module):
    """Self-attention of the tokens of a text, to all of them."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        check_heads(channels, num_heads)
        self.num_heads = num_heads
        self.c_qkv, self.c_proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(attend(*split_qkv(self.c_qkv(x), self.num_heads, heads_outermost=True)))


class TextMLP(nn.Module):
    """Two layers with a GELU between."""

    def __init__(self, channels: int):
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(channels, 4 * channels), nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class TextBlock(nn.Module):
    """Attention and two layers, each a residual behind a norm."""

    def __init__(self, channels: int, num_heads: int):
        super().__init__()
        self.attn, self.ln_1 = TextAttention(channels, num_heads), nn.LayerNorm(channels)
        self.mlp, self.ln_2 = TextMLP(channels), nn.LayerNorm(channels)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class TextTransformer(nn.Module):
    """The blocks in a row."""

    def __init__(self, config: GLIDEConfig):
        super().__init__()
        blocks = [TextBlock(config.text_channels, config.text_heads) for _ in range(config.text_layers)]
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.resblocks:
            x = block(x)
        return x


class GLIDE(ADM):
    """The UNet of "GLIDE: Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion
    Models" (arXiv:2112.10741), base and upsampler."""

    attention = TextAttentionBlock
    float32_modules = (*ADM.float32_modules, "transformer", "final_ln", "transformer_proj")

    def __init__(self, config: GLIDEConfig):
        super().__init__(config)
        width, length = config.text_channels, config.text_context
        self.token_embedding = nn.Embedding(config.vocabulary, width)
        self.positional_embedding = nn.Parameter(torch.empty(length, width))
        self.padding_embedding = nn.Parameter(torch.empty(length, width))
        self.transformer, self.final_ln = TextTransformer(config), nn.LayerNorm(width)
        self.transformer_proj = nn.Linear(width, 4 * config.model_channels)

    def read(self, tokens: Tensor, mask: Tensor) -> Tensor:
        """Return the states of texts, [B, text_context, text_channels]; computed once a text.

        Args:
            tokens: [B, text_context].
            mask: Likewise, true where a token is one, not padding.
        """
        known = self.token_embedding(tokens) + self.positional_embedding
        states = torch.where(mask.bool()[..., None], known, self.padding_embedding)
        return self.final_ln(self.transformer(states))

    def forward(self, x: Tensor, t: Tensor, states: Tensor, small: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, C, H, W].
            t: Training timesteps, shape [B].
            states: Of their texts, from `read`.
            small: The upsampler's pictures, [B, C, h, w], of any smaller size.

        Returns:
            Prediction and what the variance was learned as, in the dtype of x, [B, 2C, H, W].
        """
        emb = self.embed(t) + self.transformer_proj(states[:, -1])
        if small is not None:
            large = F.interpolate(small, x.shape[2:], mode="bilinear", align_corners=False)
            x = torch.cat([x, large], dim=1)
        return self.predict(x, emb, states)
