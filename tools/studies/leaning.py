"""Ways to lean two predictions of a network towards a class, on what they say of the image."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from diffusions import is_within
from diffusions.process import Model
from diffusions.schedule import NoiseSchedule

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(x_0 with the class, x_0 without [B, C, H, W], sigma) -> x_0 that leans."""


def _std(x: Tensor) -> Tensor:
    return x.std((1, 2, 3), keepdim=True)


def plain(with_class: Tensor, without: Tensor, sigma: float, scale: float) -> Tensor:
    """Extrapolate (Ho & Salimans 2022)."""
    return torch.lerp(without, with_class, scale)


def in_interval(
    with_class: Tensor, without: Tensor, sigma: float, scale: float, low: float, high: float
) -> Tensor:
    """Extrapolate at some noise only (Kynkäänniemi et al. 2024)."""
    return torch.lerp(without, with_class, scale) if is_within(sigma, (low, high)) else with_class


def rescaled(with_class: Tensor, without: Tensor, sigma: float, scale: float, share: float) -> Tensor:
    """Give what leans the spread that it had with the class alone, in part (Lin et al. 2024)."""
    leaning = torch.lerp(without, with_class, scale)
    return leaning * (1 - share + share * _std(with_class) / _std(leaning))


def projected(
    with_class: Tensor, without: Tensor, sigma: float, scale: float, share: float, most: float
) -> Tensor:
    """Leave out what only makes the image stronger, and of the rest what is too much (Sadat et al. 2025)."""
    towards = with_class - without
    norm = towards.square().mean((1, 2, 3), keepdim=True).sqrt()
    towards = towards * (most / norm).clamp(max=1)
    image = with_class.flatten(1).double()
    along = (towards.flatten(1).double() * image).sum(1) / image.square().sum(1)
    parallel = along[:, None, None, None].to(towards.dtype) * with_class
    return with_class + (scale - 1) * (towards - (1 - share) * parallel)


def within(with_class: Tensor, without: Tensor, sigma: float, scale: float) -> Tensor:
    """Extrapolate, and where an image is at an end of its range stay there."""
    leaning = torch.lerp(without, with_class, scale)
    room = (1 - with_class.abs().amax(1, keepdim=True)).clamp(0, 1)
    return with_class + (leaning - with_class) * (room / 0.1).clamp(max=1)


MIXES: dict[str, Callable[..., Tensor]] = {
    "plain": plain,
    "interval": partial(in_interval, low=0.2, high=1.0),
    "interval of EDM2": partial(in_interval, low=0.28, high=2.9),
    "rescaled": partial(rescaled, share=0.7),
    "projected": partial(projected, share=0.0, most=1e9),
    "projected, at most .1": partial(projected, share=0.0, most=0.1),
    "within": within,
}


def lean(towards: Model, away: Model, schedule: NoiseSchedule, mix: Mix, scale: float) -> Model:
    """Return a network of v that leans by a mix."""

    def model(x_t: Tensor, t: Tensor) -> Tensor:
        A = schedule.alphas_cumprod[int(t[0])].item()
        signal, noise = A**0.5, (1 - A) ** 0.5
        both = [signal * x_t - noise * network(x_t, t) for network in (towards, away)]
        x_0 = mix(*both, noise / signal, scale)
        return (signal * x_t - x_0) / noise

    return model
