"""FlowEdit (Kulikov et al. 2024, arXiv:2412.08629): move an image by the difference of two denoisers."""

from torch import Tensor

from diffusions.process import Model, Noise, Process, as_state, draw


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
    x_0 = edited = as_state(x_0)
    unled = process.guided(None)
    for k in range(process.num_steps, 0, -1):
        z, here = draw(noise, x_0), process.levels[k]
        source = unled.predict_guided(source_model, here.signal * x_0 + here.noise * z, k).x_0
        target = process.predict_guided(target_model, here.signal * edited + here.noise * z, k).x_0
        kept = process.sigma(k - 1) / process.sigma(k)
        edited = (x_0 + target - source).lerp(edited, kept)
    return edited
