"""diffusers' UNet2DConditionModel: the networks of Stable Diffusion 1, 2, XL and their descendants."""

from dataclasses import dataclass

import torch
from torch import Tensor

from models.wrapped import Fields, Wrapped, make

CROPPED = (0.0, 0.0)
"""Where the picture was cut from a larger one, top and left, that SDXL is told: nowhere."""


@dataclass(frozen=True, kw_only=True)
class TextUNetConfig(Fields):
    """The fields of a UNet2DConditionModel, as its config.json has them."""

    image_size: int
    """Height and width of what it works on: of latents, or of images."""
    in_channels: int = 4
    out_channels: int = 4
    pixels: int = 8
    """Height and width in the picture of one of its own pixels."""

    size_multiple = 1  # it scales up to the sizes that it scaled down from

    @property
    def told_pooled(self) -> bool:
        """Whether it is told one vector of the whole text, and the size of the picture, as SDXL is."""
        return self.facts().get("addition_embed_type") == "text_time"

    @property
    def guidance_channels(self) -> int | None:
        """Channels of the embedding of the guidance scale that it is told, as LCMs are; None for none."""
        return self.facts().get("time_cond_proj_dim")


class TextUNet(Wrapped):
    """A UNet2DConditionModel, told the states of a text."""

    float32_modules = ("time_embedding", "add_embedding", "conv_out")

    def __init__(self, config: TextUNetConfig):
        super().__init__(make("UNet2DConditionModel", config.facts()))
        self.config = config
        self._told_pooled, self._guidance_channels = config.told_pooled, config.guidance_channels
        self._size_ids: dict[tuple[float, ...], Tensor] = {}

    def forward(self, x: Tensor, t: Tensor, states: Tensor, *more: Tensor) -> Tensor:
        """Predict from noisy latents.

        Args:
            x: Noisy latents, shape [B, in_channels, h, w].
            t: Training timesteps, shape [B].
            states: Of the tokens of their texts, [B, tokens, width].
            more: What else the config says that it is told: the pooled states [B, width] of `told_pooled`,
                then the guidance scale [B] of `guidance_channels`.

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, h, w].
        """
        told = list(more)
        added = self._added(x, told.pop(0)) if self._told_pooled else None
        scale = None
        if self._guidance_channels is not None:
            scale = embed_guidance(told.pop(0), self._guidance_channels)
        return self.theirs(x, t, states, timestep_cond=scale, added_cond_kwargs=added).sample.to(x.dtype)

    def _added(self, x: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """Return what SDXL is told beside: the text as a whole; original size, crop and size, in pixels."""
        size = tuple(float(side * self.config.pixels) for side in x.shape[2:])
        if size not in self._size_ids:  # handed to a GPU once
            ids = torch.tensor([*size, *CROPPED, *size], device="cpu")
            self._size_ids = {size: ids.to(x.device)}
        return {"text_embeds": pooled, "time_ids": self._size_ids[size].to(x.device).expand(len(x), -1)}


def embed_guidance(scale: Tensor, channels: int) -> Tensor:
    """Return the embedding of guidance scales [B] that LCMs are told, [B, channels].

    sin and cos of 1000 (scale - 1) times frequencies from 1 to 1e-4 (Luo et al. 2023, arXiv:2310.04378).
    """
    half = channels // 2
    frequencies = torch.exp(
        torch.arange(half, device=scale.device) * (-torch.log(torch.tensor(1e4)).item() / (half - 1))
    )
    angles = 1000 * (scale.float() - 1)[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)
