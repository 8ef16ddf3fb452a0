"""The network for points of Su et al. (2023), with the state-dict keys of suxuann/ddib's 2-D checkpoints."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from models.layers import GroupNorm, SiLU, add, timestep_embedding, zeroed

NUM_GROUPS = 32


@dataclass(frozen=True, kw_only=True)
class DDIBMLPConfig:
    """A residual network of linear layers; the defaults are those of the published 2-D checkpoints."""

    in_channels: int = 2
    """Coordinates of a point."""
    out_channels: int = 2
    model_channels: int = 256
    """Width of the layers; twice as wide after the skip has joined."""
    num_res_blocks: int = 3
    """Residual blocks before the middle two, and after them."""
    dropout: float = 0.2

    def __post_init__(self):
        if self.model_channels < 2 * NUM_GROUPS or self.model_channels % NUM_GROUPS:
            raise ValueError(
                f"model_channels {self.model_channels}: the norm has {NUM_GROUPS} groups and leaves nothing "
                f"of one number a group; allowed are multiples of {NUM_GROUPS} from {2 * NUM_GROUPS}"
            )


class EmbedSequential(nn.Sequential):
    """A Sequential of residual blocks, which hands each the time embedding."""

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        for block in self:
            x = block(x, emb)
        return x


class ResBlock(nn.Module):
    """Two linear layers of one width around the embedding."""

    def __init__(self, channels: int, emb_channels: int, dropout: float):
        super().__init__()
        self.in_layers = nn.Sequential(GroupNorm(NUM_GROUPS, channels), SiLU(), nn.Linear(channels, channels))
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, channels))
        self.out_layers = nn.Sequential(
            GroupNorm(NUM_GROUPS, channels),
            SiLU(),
            nn.Dropout(dropout),
            zeroed(nn.Linear(channels, channels)),
        )

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = add(self.in_layers(x), self.emb_layers(emb))
        return add(self.out_layers(h), x)


class DDIBMLP(nn.Module):
    """ADM's plan without its maps: linear layers for convolutions, one resolution, no attention.

    ADM would give every block on the way up a skip of its own; here only one is used, the last, which
    joins the middle's output. Norms are over groups of a point's own features.
    """

    float32_modules = ("time_embed", "out")

    def __init__(self, config: DDIBMLPConfig):
        super().__init__()
        self.config = config
        width = config.model_channels

        def blocks(channels: int, count: int) -> EmbedSequential:
            return EmbedSequential(*(ResBlock(channels, width, config.dropout) for _ in range(count)))

        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.input_blocks = nn.ModuleList(
            [nn.Sequential(nn.Linear(config.in_channels, width)), blocks(width, config.num_res_blocks)]
        )
        self.middle_block = blocks(width, 2)
        self.output_blocks = nn.ModuleList([blocks(2 * width, config.num_res_blocks)])
        self.out = nn.Sequential(
            GroupNorm(NUM_GROUPS, 2 * width), SiLU(), zeroed(nn.Linear(2 * width, config.out_channels))
        )

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Predict from noisy points.

        Args:
            x: Noisy points in float32 or float64, shape [B, in_channels].
            t: Training timesteps, shape [B].

        Returns:
            Prediction in the dtype of x, shape [B, out_channels].
        """
        sinusoid = timestep_embedding(t, self.config.model_channels, cos_first=True, full_range=False)
        emb = self.time_embed(sinusoid.to(self.time_embed[0].weight.dtype))
        first, down = self.input_blocks
        body_dtype = first[0].weight.dtype
        emb = emb.to(body_dtype)
        skip = down(first(x.to(body_dtype)), emb)
        h = torch.cat([self.middle_block(skip, emb), skip], dim=1)
        return self.out(self.output_blocks[0](h, emb).to(x.dtype))
