"""How much a latent looks like noise."""

import torch
from torch import Tensor

LIMITS = {"mean": 0.1, "std": 0.1, "kurtosis": 0.5, "correlation": 0.1}
"""How far each statistic may be from that of standard normal noise before it is far from Gaussian."""
GAUSSIAN = {"mean": 0.0, "std": 1.0, "kurtosis": 3.0, "correlation": 0.0}


def latent_statistics(latent: Tensor) -> dict[str, Tensor]:
    """Measure the pixels of each latent, which for standard normal noise give `GAUSSIAN`.

    Args:
        latent: Scaled to variance 1, shape [B, C, H, W].

    Returns:
        mean; std; kurtosis, the fourth central moment over the squared second; correlation of neighbours,
        the mean of the horizontal and the vertical one. Each of shape [B].
    """
    x = latent.double()
    flat = x.flatten(1)
    mean = flat.mean(1)
    centred = x - mean.view(-1, 1, 1, 1)
    variance = centred.square().flatten(1).mean(1)
    fourth = centred.pow(4).flatten(1).mean(1)
    across = (centred[..., 1:] * centred[..., :-1]).flatten(1).mean(1)
    down = (centred[..., 1:, :] * centred[..., :-1, :]).flatten(1).mean(1)
    return {
        "mean": mean,
        "std": variance.sqrt(),
        "kurtosis": fourth / variance**2,
        "correlation": (across + down) / 2 / variance,
    }


def unlike_noise(statistics: dict[str, float]) -> list[str]:
    """Name the statistics of one latent that are far from those of noise, with what was found."""
    far = [name for name, value in statistics.items() if not abs(value - GAUSSIAN[name]) <= LIMITS[name]]
    return [f"{name} {statistics[name]:.3f} (noise: {GAUSSIAN[name]:g})" for name in far]


def rmse(a: Tensor, b: Tensor) -> Tensor:
    """Return the root mean square difference of images, shape [B, ...] -> [B]."""
    return torch.sub(a, b).square().flatten(1).mean(1).sqrt()
