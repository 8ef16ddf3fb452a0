"""diffusers' AutoencoderKL: from images to the latents that a network works on, and back."""

from dataclasses import dataclass

from torch import Tensor

from models.wrapped import Fields, Wrapped, make


@dataclass(frozen=True, kw_only=True)
class AutoencoderConfig(Fields):
    """The fields of an AutoencoderKL, as its config.json has them."""

    def __post_init__(self):
        facts = self.facts()
        for name in ("latents_mean", "latents_std"):
            if facts.get(name) is not None:
                raise ValueError(
                    f"{name}: autoencoders whose channels are scaled one by one are not supported"
                )

    @property
    def in_channels(self) -> int:
        """Of images."""
        return self.facts().get("in_channels", 3)

    @property
    def latent_channels(self) -> int:
        """Of latents."""
        return self.facts().get("latent_channels", 4)

    @property
    def factor(self) -> int:
        """Height and width in pixels of one of a latent."""
        return 2 ** (len(self.facts().get("block_out_channels", (64,))) - 1)

    @property
    def scaling(self) -> float:
        """What latents are multiplied by, to have about unit variance: scaling_factor."""
        return self.facts().get("scaling_factor") or 0.18215

    @property
    def shift(self) -> float:
        """What is taken from latents before that."""
        return self.facts().get("shift_factor") or 0.0


class Autoencoder(Wrapped):
    """An AutoencoderKL (Rombach et al. 2022, arXiv:2112.10752)."""

    float32_modules = ()

    def __init__(self, config: AutoencoderConfig):
        super().__init__(make("AutoencoderKL", config.facts()))
        self.config = config
        self._scaling, self._shift = config.scaling, config.shift

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, latent_channels, H / factor, W / factor] of images [B, C, H, W] in [-1, 1].

        They are the mode of the posterior: the same picture has the same latent.
        """
        mode = self.theirs.encode(images).latent_dist.mode().to(images.dtype)
        return (mode - self._shift) * self._scaling

    def decode(self, latents: Tensor) -> Tensor:
        """Return images of latents, the shapes of `encode`, not clipped."""
        return self.theirs.decode(latents / self._scaling + self._shift).sample.to(latents.dtype)

    def in_tiles(self, tiled: bool) -> None:
        """Go over large pictures in tiles from now on, which blends them and needs less memory, or not."""
        self.theirs.use_tiling = tiled
