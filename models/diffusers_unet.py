"""diffusers' own UNet2DModel, for the networks of it that none of ours computes."""

from dataclasses import dataclass

from torch import Tensor

from models.layers import check_labels, check_size
from models.wrapped import Fields, Wrapped, make


@dataclass(frozen=True, kw_only=True)
class DiffusersUNetConfig(Fields):
    """The fields of a UNet2DModel, as its config.json has them."""

    image_size: int
    """Height and width of the images, in pixels."""
    in_channels: int = 3
    out_channels: int = 3
    """Those of the images; twice as many where the network learned its variance."""
    num_classes: int | None = None

    @property
    def size_multiple(self) -> int | None:
        """What height and width must be multiples of; None where the network knows no size but its own."""
        blocks = self.facts().get("down_block_types")
        return 2 ** ((len(blocks) if isinstance(blocks, list) else 4) - 1)  # it has four by default


class DiffusersUNet(Wrapped):
    """A UNet2DModel, called as our networks are."""

    float32_modules = ("time_embedding", "class_embedding", "conv_out")

    def __init__(self, config: DiffusersUNetConfig):
        super().__init__(make("UNet2DModel", config.facts()))
        self.config = config

    def forward(self, x: Tensor, t: Tensor, y: Tensor | None = None) -> Tensor:
        """Predict from noisy images.

        Args:
            x: Noisy images in float32 or float64, shape [B, in_channels, H, W]; H and W are
                multiples of the coarsest level's reduction.
            t: Training timesteps, or sigma of a score network, shape [B].
            y: Class indices, shape [B]; needed when the network has classes.

        Returns:
            Prediction in the dtype of x, shape [B, out_channels, H, W].

        Raises:
            ValueError: H or W is not such a multiple, or y is given or missing wrongly.
        """
        check_size(x, self.config.size_multiple)
        check_labels(y, self.config.num_classes)
        if y is None and self.config.num_classes is not None:
            raise ValueError(f"this network needs a class in 0..{self.config.num_classes - 1}, got y = None")
        return self.theirs(x, t, class_labels=y).sample.to(x.dtype)
