"""SDEdit (Meng et al. 2022): noise a guide part of the way, then denoise it."""

from torch import Tensor

from diffusions.process import Model, Noise, VPProcess


def edit(process: VPProcess, model: Model, guide: Tensor, level: int, noise: Noise) -> Tensor:
    """Turn a guide into an image: diffuse it to a level, then step down to level 0 (Meng et al. 2022).

    Args:
        process: How to step down, with DDPM for the method of the paper.
        model: The network; called `level` times.
        guide: Images, shape [B, C, ...], range [-1, 1].
        level: How far to noise: 1 (faithful to the guide) to K (realistic, whatever the guide).
        noise: Source of the noise, drawn from once at the start and then as the steps need it.

    Returns:
        Images, shape of guide, at least float32; range [-1, 1] where the process clips.

    Raises:
        ValueError: A level that the process does not have.
    """
    process.check_level(level)
    x = process.diffuse(guide, level, noise())
    for k in range(level, 0, -1):
        x = process.step(model, x, k, k - 1, noise)
    return x
