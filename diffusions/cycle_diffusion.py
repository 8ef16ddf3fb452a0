"""CycleDiffusion (Wu & De la Torre 2022, arXiv:2210.05559): translate by replaying DDPM's noise."""

from typing import NamedTuple

import torch
from torch import Tensor

from diffusions.ddpm import DDPM
from diffusions.process import Model, Noise, Step, as_state, draw


class Recording(NamedTuple):
    """The noise with which a DDPM would have made some images."""

    x_t: Tensor
    """State of level K, shape [B, C, ...]."""
    noises: Tensor
    """What the steps added to their means, from that to level K - 1 to that to level 0; their standard
    deviation is in it. Shape [K, B, C, ...]."""


def cycle_translate(
    process: DDPM,
    source_model: Model,
    target_model: Model,
    x_0: Tensor,
    noise: Noise,
    independent: bool = False,
) -> Tensor:
    """Translate images: find the noise that makes them with one model, use it with another.

    Args:
        process: DDPM, K steps.
        source_model: The network of the images' domain; called K times.
        target_model: The network of the wanted domain; called K times.
        x_0: Images, shape [B, C, ...], range [-1, 1].
        noise: Drawn from K times.
        independent: See `record_noise`.

    Returns:
        Images, shape of x_0, at least float32. With the same model twice they are x_0 to rounding.
    """
    return replay_noise(process, target_model, record_noise(process, source_model, x_0, noise, independent))


def record_noise(
    process: DDPM, model: Model, x_0: Tensor, noise: Noise, independent: bool = False
) -> Recording:
    """Sample a way up from images, then read off the noise of the way down (the paper's DPM-Encoder, eq. 6).

    x_K, then x_{K-1} to x_1 come from q(x_{k-1} | x_k, x_0), which asks no network; the noise of the step
    from k is x_{k-1} - mean_k(x_k). That of the step to level 0, which a sampler draws none for, is what
    is left to the image.

    Args:
        process: DDPM, K steps. Its means are clipped where it clips, as those of `replay_noise` will be; its
            gradient is left out.
        model: The network; called K times.
        x_0: Images, shape [B, C, ...], range [-1, 1].
        noise: Drawn from K times.
        independent: Draw each state from q(x_k | x_0) with noise of its own, so that the recorded noise is
            larger and keeps more of the image (edit-friendly, Huberman-Spiegelglas et al., arXiv:2304.06140).
    """
    x_0 = as_state(x_0)
    start = x_t = process.diffuse(x_0, process.num_steps, noise())
    mean = _start_means(process.guided(None), model, x_0)
    noises = []
    for k in range(process.num_steps, 0, -1):
        below = x_0
        if k > 1 and independent:
            below = process.diffuse(x_0, k - 1, draw(noise, x_0))
        elif k > 1:
            below = _sample_below(process, x_0, x_t, k, noise)
        noises.append(below - mean(x_t, k, k - 1))
        x_t = below
    return Recording(start, torch.stack(noises))


def replay_noise(process: DDPM, model: Model, recording: Recording) -> Tensor:
    """Go down from a recording's x_K with its noise, x_{k-1} = mean_k(x_k) + noise_k.

    Args:
        process: DDPM with the K levels of the recording.
        model: The network; called K times.
        recording: From `record_noise`, with any network.

    Returns:
        Images, shape [B, C, ...]; as the last step adds noise too, not clipped even where the process clips.

    Raises:
        ValueError: A recording of another number of steps.
    """
    x, noises = recording
    if len(noises) != process.num_steps:
        raise ValueError(
            f"the recording has {len(noises)} steps, this process {process.num_steps}; "
            "replay it with the process that recorded it"
        )
    mean = _start_means(process, model, x)
    for k, added in zip(range(process.num_steps, 0, -1), noises, strict=True):
        x = mean(x, k, k - 1) + added
    return x


def _start_means(process: DDPM, model: Model, like: Tensor) -> Step:
    """Begin a walk whose steps add no noise to their means."""
    return process.start(model, lambda: torch.zeros_like(like))


def _sample_below(process: DDPM, x_0: Tensor, x_t: Tensor, level: int, noise: Noise) -> Tensor:
    """Draw from q(x_{k-1} | x_k, x_0) (Ho et al. 2020, eq. 6)."""
    variance = process.levels[level - 1].noise ** 2 * process.fresh_share(level, level - 1)
    return process.posterior_mean(x_0, x_t, level) + variance**0.5 * draw(noise, x_0)
