"""FlowEdit (Kulikov et al. 2024, arXiv:2412.08629): move an image by the difference of two denoisers."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusions.process import Model, Noise, Process, as_state, draw


class Denoised(NamedTuple):
    """What a model makes of an image at every level."""

    x_t: Tensor
    """The image at level K, shape [B, C, ...]."""
    x_0: Tensor
    """The image itself."""
    noises: Tensor
    """Of levels K to 1, shape [K, B, C, ...]."""
    denoised: Tensor
    """What the model takes the image at each of these levels for, likewise."""


def flow_edit(
    process: Process, source_model: Model, target_model: Model, x_0: Tensor, noise: Noise
) -> Tensor:
    """Translate images without encoding them: what both models make of the same noise is taken apart.

    At each level, with noise z in units of the signal, the image x_0 + sigma z is shown to the source model
    and the edit e + sigma z to the target model; e moves along the difference of their ODEs, which in the
    denoised images D is e <- (s / sigma) e + (1 - s / sigma) (x_0 + D_B - D_A) for the next level's sigma s.
    The paper's path is that of rectified flows; this is the same on levels of any signal.

    Args:
        process: K levels, the last of which is where the edit begins: the higher, the more may change.
        source_model: The network of the images' domain; called K times.
        target_model: The network of the wanted domain; called K times. The process' gradient leads it.
        x_0: Images, shape [B, C, ...], range [-1, 1].
        noise: Drawn from K times.

    Returns:
        Images, shape of x_0, at least float32, not clipped. With the same model twice they are x_0.
    """
    return follow_denoised(process, target_model, record_denoised(process, source_model, x_0, noise))


def record_denoised(process: Process, model: Model, x_0: Tensor, noise: Noise) -> Denoised:
    """Ask the source model what it makes of images at every level, see `flow_edit`; nothing leads it."""
    x_0, process = as_state(x_0), process.guided(None)
    noises, denoised = [], []
    for k in range(process.num_steps, 0, -1):
        noises.append(draw(noise, x_0))
        denoised.append(_denoise(process, model, process.diffuse(x_0, k, noises[-1]), k))
    first = process.diffuse(x_0, process.num_steps, noises[0])
    return Denoised(first, x_0, torch.stack(noises), torch.stack(denoised))


def follow_denoised(process: Process, model: Model, recording: Denoised) -> Tensor:
    """Move images along what the target model says otherwise, see `flow_edit`.

    Raises:
        ValueError: A recording of another number of levels.
    """
    _, x_0, noises, denoised = recording
    if len(noises) != process.num_steps:
        raise ValueError(
            f"the recording has {len(noises)} levels, this process {process.num_steps}; "
            "follow it with the process that recorded it"
        )
    edited = x_0
    for k, z, source in zip(range(process.num_steps, 0, -1), noises, denoised, strict=True):
        target = _denoise(process, model, process.diffuse(edited, k, z), k)
        edited = (x_0 + target - source).lerp(edited, process.sigma(k - 1) / process.sigma(k))
    return edited


def _denoise(process: Process, model: Model, x_t: Tensor, level: int) -> Tensor:
    if process.look is not None:
        process.look(x_t, level)
    return process.predict_guided(model, x_t, level).x_0
