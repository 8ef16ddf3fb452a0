"""What a network's output means: eps, x_0 or v, beside it perhaps a variance."""

import math
from typing import NamedTuple

from torch import Tensor

PREDICTIONS = ("eps", "x0", "v")


class Prediction(NamedTuple):
    """What a network says about x_t = sqrt(A) x_0 + sqrt(1 - A) eps, each of x_t's shape."""

    x_0: Tensor
    eps: Tensor
    variance: Tensor | None
    """Where in its range a learned variance lies, -1 to 1 (v of `learned_range`)."""


def split_variance(output: Tensor, num_channels: int) -> tuple[Tensor, Tensor | None]:
    """Separate a learned variance, which is the second half of the channels where there are twice as many.

    Args:
        output: What the network returned, shape [B, C or 2C, ...].
        num_channels: C, channels of the images.

    Returns:
        The prediction, shape [B, C, ...], and the variance of the same shape or None.

    Raises:
        ValueError: Neither C nor 2C channels.
    """
    if output.shape[1] == num_channels:
        return output, None
    if output.shape[1] == 2 * num_channels:
        prediction, variance = output.chunk(2, dim=1)
        return prediction, variance
    raise ValueError(
        f"the network returned {output.shape[1]} channels for images of {num_channels}; "
        f"allowed are {num_channels}, or {2 * num_channels} with a learned variance"
    )


def interpret(output: Tensor, x_t: Tensor, alpha_cumprod: float, prediction: str) -> tuple[Tensor, Tensor]:
    """Turn a network's output into x_0 and eps.

    eps: x_0 = (x_t - sqrt(1 - A) eps) / sqrt(A) (Ho et al. 2020, eq. 15); x0: the same, solved for eps;
    v = sqrt(A) eps - sqrt(1 - A) x_0 (Salimans & Ho 2022, section 4).

    Args:
        output: The prediction, shape of x_t.
        x_t: What the network was given, shape [B, C, ...].
        alpha_cumprod: A at the level of x_t, between 0 and 1, exclusive.
        prediction: eps, x0 or v.

    Returns:
        x_0 and eps, shape of x_t.
    """
    if prediction == "eps":
        return to_x_0(output, x_t, alpha_cumprod), output
    if prediction == "x0":
        return output, to_eps(output, x_t, alpha_cumprod)
    assert prediction == "v", prediction
    signal, noise = math.sqrt(alpha_cumprod), math.sqrt(1 - alpha_cumprod)
    return signal * x_t - noise * output, noise * x_t + signal * output


def to_x_0(eps: Tensor, x_t: Tensor, alpha_cumprod: float) -> Tensor:
    """Return x_0 = (x_t - sqrt(1 - A) eps) / sqrt(A) (Ho et al. 2020, eq. 15)."""
    return (x_t - math.sqrt(1 - alpha_cumprod) * eps) / math.sqrt(alpha_cumprod)


def to_eps(x_0: Tensor, x_t: Tensor, alpha_cumprod: float) -> Tensor:
    """Return eps = (x_t - sqrt(A) x_0) / sqrt(1 - A), the same equation solved for eps."""
    return (x_t - math.sqrt(alpha_cumprod) * x_0) / math.sqrt(1 - alpha_cumprod)
