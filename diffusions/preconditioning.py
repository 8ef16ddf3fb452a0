"""What surrounds a network that knows sigma: scales of its input and output, and what it is told.

Karras et al. 2022 (arXiv:2206.00364, table 1) and Song et al. 2023 (consistency models, arXiv:2303.01469).
Such a network F becomes one of x_0 = c_skip x + c_out F(c_in x, told), x = x_0 + sigma eps.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from diffusions.prediction import split_variance
from diffusions.process import Model

SIGMA_DATA = 0.5
"""Standard deviation of the images, on [-1, 1], that all published networks reckon with."""
_BETA_MIN, _BETA_SPAN = 0.1, 19.9
"""Of the continuous VP process of Song et al. 2021, on t from 0 to 1."""


class Scales(NamedTuple):
    """What belongs to some sigmas, each of the shape of sigma."""

    skip: Tensor
    out: Tensor
    input: Tensor
    told: Tensor


def precondition(network: Model, name: str, sigma_min: float) -> Model:
    """Let a network predict x_0.

    Args:
        network: (c_in x, told [B]) -> F, [B, C or 2C, ...], of which only the first C count.
        name: One of PRECONDITIONINGS.
        sigma_min: Least noise that it was trained on, where a consistency model is the identity.

    Returns:
        (x_t [B, C, ...], sigma [B]) -> x_0 [B, C, ...], in the dtype of x_t.
    """
    scales = PRECONDITIONINGS[name]

    def model(x_t: Tensor, sigma: Tensor) -> Tensor:
        # told in float64: log(1 + sigma^2) of a small sigma is noise in float32
        found = scales(sigma.double(), sigma_min)
        skip, out, scale = (part.to(x_t.dtype).view(-1, *[1] * (x_t.ndim - 1)) for part in found[:3])
        output, _ = split_variance(network(scale * x_t, found.told).to(x_t.dtype), x_t.shape[1])
        return skip * x_t + out * output

    return model


def _edm(sigma: Tensor, sigma_min: float) -> Scales:
    norm = (sigma**2 + SIGMA_DATA**2).rsqrt()
    return Scales((SIGMA_DATA * norm) ** 2, sigma * SIGMA_DATA * norm, norm, sigma.log() / 4)


def _edm_in_250ths(sigma: Tensor, sigma_min: float) -> Scales:
    return _edm(sigma, sigma_min)._replace(told=250 * sigma.log())


def _consistency(sigma: Tensor, sigma_min: float) -> Scales:
    norm, beyond = (sigma**2 + SIGMA_DATA**2).rsqrt(), sigma - sigma_min
    skip = SIGMA_DATA**2 / (beyond**2 + SIGMA_DATA**2)
    return Scales(skip, beyond * SIGMA_DATA * norm, norm, 250 * sigma.log())


def _vp(sigma: Tensor, sigma_min: float) -> Scales:
    t = ((_BETA_MIN**2 + 2 * _BETA_SPAN * (sigma**2).log1p()).sqrt() - _BETA_MIN) / _BETA_SPAN
    return Scales(torch.ones_like(sigma), -sigma, (sigma**2 + 1).rsqrt(), 999 * t)


def _ve(sigma: Tensor, sigma_min: float) -> Scales:
    one = torch.ones_like(sigma)
    return Scales(one, sigma, one, (sigma / 2).log())


PRECONDITIONINGS: dict[str, Callable[[Tensor, float], Scales]] = {
    "edm": _edm,
    "edm_250": _edm_in_250ths,
    "consistency": _consistency,
    "vp": _vp,
    "ve": _ve,
}
"""By the name in configs: edm as NVlabs tell sigma, edm_250 as openai do; vp and ve of their baselines."""
