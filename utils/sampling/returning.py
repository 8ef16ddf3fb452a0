"""Whether a translation's steps bring a picture back from A to A, before any network is asked."""

import math
from dataclasses import replace
from itertools import pairwise

import torch

from diffusions.process import Process
from diffusions.round_trip import lost_share
from utils.config import Config
from utils.sampling.processes import KARRAS, Trained, make_solver, read_timesteps
from utils.settings import RECORDED, Translate

_SPREAD = 0.3
"""Std of pictures on [-1, 1]: of their details, and of their brightness as a whole."""
_LOSS = 0.03
_STRIDE, _HEUN_STRIDE = 2.0, 2.5
_CLOSED = ("exact", "fixed_point", *RECORDED)
"""Solvers and inversions whose way back undoes their way there, whatever the steps."""


def describe_loss(
    translate: Translate, config: Config, trained: Trained, timesteps: list[float]
) -> str | None:
    """Say what A to A loses where the steps of --solver are too long for it, and which setting keeps it.

    Args:
        translate: The settings.
        config: Of the network.
        trained: Its process.
        timesteps: That are kept.

    Returns:
        One line, or None where nothing is to be said.
    """
    if translate.from_latents or translate.solver in _CLOSED or translate.inversion in _CLOSED:
        return None
    encoder, decoder = make_solver(translate, trained, timesteps)
    loss, stride = _loss(encoder, decoder, config), _longest_stride(encoder)
    longest = _HEUN_STRIDE if translate.solver == "heun" else _STRIDE
    if loss <= _LOSS and stride <= longest:
        return None
    num_steps = min(max(25, len(timesteps)), config.diffusion.num_timesteps)
    spacing = KARRAS if translate.respace_type == KARRAS else translate.spacing
    better = replace(
        translate,
        **{"solver": "heun", "inversion": None, "calls": None},
        **{"respace_type": spacing, "respace_steps": num_steps},
    )
    kept = _loss(*make_solver(better, trained, read_timesteps(better, trained, None)), config)
    return (
        f"note: A to A may come back changed: these steps lose about {loss:.2g} on [-1, 1] by closed form, "
        f"and sigma grows up to {stride:.3g}-fold in one; --solver heun --respace_type {spacing} "
        f"--respace_steps {num_steps} loses {kept:.2g}; --cycle measures it; see docs/DDIB.md"
    )


def _loss(encoder: Process, decoder: Process, config: Config) -> float:
    """Return the loss of details or of the brightness as a whole, whichever is larger, on [-1, 1]."""
    num_values = config.state_channels * config.model.image_size**2
    stds = torch.tensor([_SPREAD, _SPREAD * num_values**0.5])
    return _SPREAD * float(lost_share(encoder, decoder, stds).max())


def _longest_stride(process: Process) -> float:
    """Return by what sigma grows at most in a step, where there is more noise than image."""
    sigmas = [process.sigma(level) for level in range(1, process.num_steps + 1)]
    pairs = pairwise([0.0, *(sigma for sigma in sigmas if sigma < math.inf)])
    return max((high / max(low, 1.0) for low, high in pairs if high > 1), default=1.0)
