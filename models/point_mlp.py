"""A small network for points, trained here: a residual MLP on waves of the coordinates."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import timestep_embedding


@dataclass(frozen=True, kw_only=True)
class PointMLPConfig:
    """The default is the network of weights/points2d.safetensors, 34,370 parameters."""

    in_channels: int = 2
    """Coordinates of a point."""
    out_channels: int = 2
    model_channels: int = 64
    """Width of every layer and of the time embedding."""
    num_res_blocks: int = 3
    wavelengths: tuple[float, ...] = (4.0, 2.0, 1.0)
    """Of the sine and cosine of each coordinate that stand beside it; without them edges are learned slowly
    (Tancik et al. 2020, arXiv:2006.10739)."""


class PointMLP(nn.Module):
    """Residual blocks of two linear layers around the embedding, no norms.

    Where the layers are as narrow as here, norms over groups of features cost more time than they save.
    """

    float32_modules = ("time_embed", "input", "out")

    def __init__(self, config: PointMLPConfig):
        super().__init__()
        self.config = config
        width, num_features = config.model_channels, config.in_channels * (1 + 2 * len(config.wavelengths))
        self.time_embed = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width))
        self.input = nn.Linear(num_features, width)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Linear(width, width), nn.Linear(width, width)])
            for _ in range(config.num_res_blocks)
        )
        self.out = nn.Linear(width, config.out_channels)

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
        angles = torch.cat([2 * math.pi / length * x for length in self.config.wavelengths], dim=1)
        h = self.input(torch.cat([x, angles.sin(), angles.cos()], dim=1))
        body_dtype = self.blocks[0][0].weight.dtype
        h, emb = h.to(body_dtype), emb.to(body_dtype)
        for first, second in self.blocks:
            h = h + second(F.silu(first(F.silu(h + emb))))
        return self.out(F.silu(h).to(x.dtype))
