"""DDIB (Su et al. 2023): translate images through the noise that two models have in common."""

from torch import Tensor

from diffusions.pairs import carry_latent
from diffusions.process import Model, Process


def translate(
    process: Process,
    source_model: Model,
    target_model: Model,
    x_0: Tensor,
    target_process: Process | None = None,
) -> Tensor:
    """Translate images from one model's domain to another's (Su et al. 2023, algorithm 1).

    Args:
        process: K steps that run both ways: DDIM with eta = 0, one of its other inversions, Heun or BDIA.
        source_model: The network of the images' domain; called K times by DDIM.
        target_model: The network of the wanted domain, likewise.
        x_0: Images, shape [B, C, ...], range [-1, 1].
        target_process: Steps of the target model, where it was trained on another schedule; its last
            level should have the noise of that of `process`, see `match_timesteps`.

    Returns:
        Images, shape of x_0, at least float32; range [-1, 1] where the process that decodes clips.

    Raises:
        ValueError: A process that does not run upwards, or two whose latents differ in form.
    """
    latent = encode(process, source_model, x_0)
    if target_process is None:
        return decode(process, target_model, latent)
    return decode(target_process, target_model, carry_latent(latent, process, target_process))


def encode(process: Process, model: Model, x_0: Tensor) -> Tensor:
    """Follow the ODE from images up to noise, level 0 to K; nothing is clipped or guided on this way.

    Args:
        process: K steps that run upwards, as for `translate`.
        model: The network; called K times by DDIM.
        x_0: Images, shape [B, C, ...], range [-1, 1].

    Returns:
        x_K, shape of x_0, by BDIA [B, 2C, ...]; at least float32.

    Raises:
        ValueError: A process that does not run upwards.
    """
    step, x = process.start(model), x_0
    for k in range(process.num_steps):
        x = step(x, k, k + 1)
    return x


def decode(process: Process, model: Model, x_t: Tensor) -> Tensor:
    """Follow the ODE from noise down to images, level K to 0.

    Args:
        process: K steps, as for `translate`, or DPMSolver.
        model: The network; called K times by DDIM.
        x_t: State of level K, shape [B, C, ...], for BDIA [B, 2C, ...].

    Returns:
        Images, shape [B, C, ...], at least float32; range [-1, 1] where the process clips.
    """
    step, x = process.start(model), x_t
    for k in range(process.num_steps, 0, -1):
        x = step(x, k, k - 1)
    return x
