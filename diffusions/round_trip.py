"""What A to A loses by its steps alone, on data for which the perfect network is known."""

from copy import copy

from torch import Tensor

from diffusions.ddib import decode, encode
from diffusions.process import Model, Process


def lost_share(encoder: Process, decoder: Process, stds: Tensor) -> Tensor:
    """Return which share of a deviation from the mean does not come back from A to A.

    The data are N(0, std^2), whose ODE is linear: after encoding and decoding with their exact network, in
    float64, without clipping and guidance, x has become factor * x. A perfect solver has the factor 1.

    Args:
        encoder: K steps that run upwards, as for `encode`.
        decoder: The K steps down.
        stds: Of the data, any number of them, shape [N].

    Returns:
        |factor - 1|, shape [N].
    """
    encoder, decoder = (_free(process) for process in (encoder, decoder))
    stds = stds.double()[:, None]
    latent = encode(encoder, gaussian_network(encoder, stds), stds)
    return (decode(decoder, gaussian_network(decoder, stds), latent) / stds - 1).abs().flatten()


def gaussian_network(process: Process, stds: Tensor) -> Model:
    """Return the exact network for data N(0, std^2), in the form that a process asks for.

    Args:
        process: Whose prediction and levels to serve.
        stds: A std for each row of a batch, shape [B, 1].
    """
    levels = {level.condition: level for level in process.levels[1:]}

    def model(x_t: Tensor, told: Tensor) -> Tensor:
        signal, noise, _ = levels[told[0].item()]
        x = x_t / ((signal * stds) ** 2 + noise**2)
        x_0, eps = signal * stds**2 * x, noise * x
        outputs = {"eps": eps, "x0": x_0, "v": signal * eps - noise * x_0, "score": -x}
        return outputs[process.prediction]

    return model


def _free(process: Process) -> Process:
    process = copy(process).guided(None)
    process.clip_denoised = False
    return process
