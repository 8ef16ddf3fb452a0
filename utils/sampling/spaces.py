"""Where a network works: on pixels, or on the latents of an autoencoder."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from diffusions.tiles import margins
from models import build_empty
from models.autoencoder import Autoencoder
from models.precision import cast_network
from utils import jobs, log
from utils.config import Config
from utils.jobs import Launch
from utils.pipelines import PipelineConfig, load_part


class PixelSpace:
    """Pictures are what the network works on."""

    factor = 1
    """Height and width in a picture of one pixel of what the network works on."""

    def encode(self, images: Tensor) -> Tensor:
        """Return what the network works on, of images [B, C, H, W] in [-1, 1]."""
        return images

    def decode(self, states: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images of what the network works on.

        Args:
            states: As `encode` returns them.
            size: Height and width of the images.
        """
        return states

    def by_tiles(self) -> "PixelSpace":
        """Return this for pictures that are cut into tiles."""
        return self

    def size_of(self, states: Tensor) -> tuple[int, int]:
        """Return height and width of the images of what the network works on."""
        height, width = states.shape[2:]
        return height * self.factor, width * self.factor

    def free(self, mask: Tensor) -> Tensor:
        """Return where the network may change what it works on, of where images may [B, 1, H, W]."""
        return mask

    def share(self, strength: Tensor) -> Tensor:
        """Return how far each place of what the network works on goes, of the pixels' [B, 1, H, W]."""
        return strength

    def keep(self, result: Tensor, images: Tensor, mask: Tensor | None, strength: Tensor | None) -> Tensor:
        """Return results that equal the images where nothing may change, as those of pixels do anyway."""
        return result


PIXELS = PixelSpace()


class LatentSpace(PixelSpace):
    """Pictures are encoded by an autoencoder, one at a time, so that batches change nothing."""

    def __init__(self, autoencoder: Autoencoder, tiled: bool = False):
        """
        Args:
            autoencoder: On its device.
            tiled: Let it go over large pictures in tiles, which needs less memory.
        """
        self._autoencoder, self.factor, self._tiled = autoencoder, autoencoder.config.factor, tiled

    def by_tiles(self) -> "LatentSpace":
        """Return this with its pictures in tiles, which the autoencoder blends."""
        return LatentSpace(self._autoencoder, tiled=True)

    def encode(self, images: Tensor) -> Tensor:
        """Return latents [B, 4, h, w] of images, continued by reflection to the next multiple."""
        return self._each(self._autoencoder.encode, self._around(images, "reflect"))

    def decode(self, states: Tensor, size: tuple[int, int]) -> Tensor:
        """Return images of latents, cut to a size again; range [-1, 1]."""
        images = self._each(self._autoencoder.decode, states)
        (top, _), (left, _) = (margins(side, self.factor) for side in size)
        return images[:, :, top : top + size[0], left : left + size[1]].clamp(-1, 1)

    def free(self, mask: Tensor) -> Tensor:
        """Return where latents may change: wherever one of their pixels may."""
        return F.max_pool2d(self._around(mask, "replicate"), self.factor)

    def share(self, strength: Tensor) -> Tensor:
        """Return the mean over the pixels of each latent."""
        return F.avg_pool2d(self._around(strength, "replicate"), self.factor)

    def keep(self, result: Tensor, images: Tensor, mask: Tensor | None, strength: Tensor | None) -> Tensor:
        """Return results that equal the images where nothing may change: an autoencoder keeps no byte."""
        if strength is not None:
            changes = (strength > 0).to(result.dtype)
            mask = changes if mask is None else mask * changes
        return result if mask is None else torch.lerp(images.to(result.dtype), result, mask.to(result.dtype))

    def _around(self, images: Tensor, mode: str) -> Tensor:
        """Continue images or maps to the next multiple of a latent's pixels."""
        sides = [side for i in (3, 2) for side in margins(images.shape[i], self.factor)]
        return F.pad(images, sides, mode=mode) if any(sides) else images

    def _each(self, call, batch: Tensor) -> Tensor:
        return torch.cat([self._try(call, row[None]) for row in batch])

    def _try(self, call, row: Tensor) -> Tensor:
        self._autoencoder.in_tiles(self._tiled)
        try:
            return call(row)
        except (RuntimeError, MemoryError) as error:
            if self._tiled or not jobs.is_short_memory(error):
                raise
        log.log.warning("out of memory; the autoencoder goes on in tiles")
        self._tiled = True
        return self._try(call, row)


def load_space(config: Config, weights: Path, launch: Launch) -> PixelSpace:
    """Load what brings pictures to a network and back.

    Args:
        config: Of the network.
        weights: Its file or folder.
        launch: Where it runs; in half precision float16 the autoencoder is in float32, as those of SDXL
            overflow.

    Raises:
        ValueError: The weights are broken, unsafe, or those of another autoencoder.
    """
    if not isinstance(config, PipelineConfig):
        return PIXELS
    dtype = torch.float32 if launch.dtype == torch.float16 else launch.dtype
    autoencoder = load_part(build_empty(config.autoencoder), weights / "vae")
    return LatentSpace(cast_network(autoencoder.to(launch.device), dtype))
