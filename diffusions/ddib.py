"""DDIB (Su et al. 2023): translate images through the noise that two models have in common."""

from torch import Tensor

from diffusions.ddim import DDIM
from diffusions.process import Model


def translate(process: DDIM, source_model: Model, target_model: Model, x_0: Tensor) -> Tensor:
    """Translate images from one model's domain to another's (Su et al. 2023, algorithm 1).

    Args:
        process: DDIM with eta = 0, K steps.
        source_model: The network of the images' domain; called K times.
        target_model: The network of the wanted domain; called K times.
        x_0: Images, shape [B, C, ...], range [-1, 1].

    Returns:
        Images, shape of x_0, at least float32; range [-1, 1] where the process clips.

    Raises:
        ValueError: A process that does not run upwards.
    """
    return decode(process, target_model, encode(process, source_model, x_0))


def encode(process: DDIM, model: Model, x_0: Tensor) -> Tensor:
    """Follow the ODE from images up to noise, level 0 to K; nothing is clipped on this way.

    Args:
        process: DDIM with eta = 0, K steps.
        model: The network; called K times.
        x_0: Images, shape [B, C, ...], range [-1, 1].

    Returns:
        x_K, shape of x_0, at least float32.

    Raises:
        ValueError: A process that does not run upwards.
    """
    x = x_0
    for k in range(process.num_steps):
        x = process.step(model, x, k, k + 1)
    return x


def decode(process: DDIM, model: Model, x_t: Tensor) -> Tensor:
    """Follow the ODE from noise down to images, level K to 0.

    Args:
        process: DDIM with eta = 0, K steps.
        model: The network; called K times.
        x_t: State of level K, shape [B, C, ...].

    Returns:
        Images, shape of x_t, at least float32; range [-1, 1] where the process clips.
    """
    x = x_t
    for k in range(process.num_steps, 0, -1):
        x = process.step(model, x, k, k - 1)
    return x
