"""What a network's output means: eps, x_0, v or the score, beside it perhaps a variance."""

from typing import NamedTuple

from torch import Tensor

from diffusions.schedule import Level

PREDICTIONS = ("eps", "x0", "v", "score")


class Prediction(NamedTuple):
    """What a network says about x_t = signal x_0 + noise eps, each of x_t's shape."""

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


def interpret(output: Tensor, x_t: Tensor, level: Level, prediction: str) -> tuple[Tensor, Tensor]:
    """Turn a network's output into x_0 and eps.

    eps: x_0 = (x_t - noise eps) / signal (Ho et al. 2020, eq. 15); x0: the same, solved for eps;
    v = signal eps - noise x_0 (Salimans & Ho 2022, section 4), where the variance is preserved;
    score = -eps / noise (Song et al. 2021, arXiv:2011.13456).

    Args:
        output: The prediction, shape of x_t.
        x_t: What the network was given, shape [B, C, ...].
        level: That of x_t, above 0.
        prediction: eps, x0, v or score.

    Returns:
        x_0 and eps, shape of x_t.
    """
    if prediction == "eps":
        return to_x_0(output, x_t, level), output
    if prediction == "x0":
        return output, to_eps(output, x_t, level)
    if prediction == "score":
        eps = -level.noise * output
        return to_x_0(eps, x_t, level), eps
    assert prediction == "v", prediction
    return level.signal * x_t - level.noise * output, level.noise * x_t + level.signal * output


def to_x_0(eps: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """Return x_0 = (x_t - noise eps) / signal (Ho et al. 2020, eq. 15)."""
    return (x_t - level.noise * eps) / level.signal


def to_eps(x_0: Tensor, x_t: Tensor, level: Level) -> Tensor:
    """Return eps = (x_t - signal x_0) / noise, the same equation solved for eps."""
    return (x_t - level.signal * x_0) / level.noise
