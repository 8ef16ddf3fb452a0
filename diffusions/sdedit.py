"""SDEdit (Meng et al. 2022): noise a guide part of the way, then denoise it."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffusions.process import Model, Noise, Process, as_state

_RESAMPLED = 0.5


def edit(
    process: Process,
    model: Model,
    guide: Tensor,
    level: int,
    noise: Noise,
    *,
    mask: Tensor | None = None,
    strength: Tensor | None = None,
    fixed_noise: bool = False,
    repeats: int = 1,
    resample: int = 1,
) -> Tensor:
    """Turn a guide into an image: diffuse it to a level, then step down to level 0 (Meng et al. 2022).

    With a mask, what may not change is composited in after every step, x = mask x + (1 - mask)
    diffuse(guide, level just reached), so that at level 0 it is the guide itself. With strengths a
    pixel follows the guide in the same way until its own level, strength * level, is reached, and is
    free from there on (Levin & Fried 2023, arXiv:2306.00950).

    Args:
        process: How to step down, with DDPM for the method of the paper.
        model: The network; called `repeats * level` times by a sampler of one call a step, or as often as
            `resample` says.
        guide: Images, shape [B, C, ...], range [-1, 1].
        level: How far to noise: 1 (faithful to the guide) to K (realistic, whatever the guide).
        noise: Source of the noise: drawn from once at the start of a repeat, then by each step what it
            needs and, unless that noise is fixed, once for what is composited in.
        mask: What may change, 0 (kept) to 1, shape [B, 1 or C, ...].
        strength: Share of the level at which each pixel starts to change, 0 to 1, shape of a mask.
        fixed_noise: Composite with the noise of the start (released program) instead of fresh (paper).
        repeats: How often to do it; each result is the next guide.
        resample: How often to make each step at low noise, see `levels_walked`. Between, the state is noised
            up again, so that what is free learns of what is kept (Lugmayr et al. 2022, arXiv:2201.09865).

    Returns:
        Images, shape of guide, at least float32; range [-1, 1] where the process clips. Where the mask or
        the strength is 0 they equal the guide.

    Raises:
        ValueError: A level that the process does not have, or no repeat.
    """
    process.check_level(level)
    if repeats < 1:
        raise ValueError(f"repeats is {repeats}; give at least 1")
    composites = mask is not None or strength is not None
    for _ in range(repeats):
        first = noise()
        x = process.diffuse(guide, level, first)
        step = process.start(model, noise)
        walked = levels_walked(process, level, resample)
        for k, following in zip(walked, [*walked[1:], 0], strict=True):
            x = step(x, k, k - 1)
            if composites:
                kept = _kept(process, guide, k - 1, first, noise, fixed_noise)
                x = torch.lerp(kept, x, _weight(mask, strength, level, k - 1).to(x.dtype))
            if following == k:
                x = process.renoise(x, k - 1, k, noise())
                step = process.start(model, noise)  # what it remembers led elsewhere
        guide = x
    return x


def levels_walked(process: Process, level: int, resample: int = 1) -> list[int]:
    """Return the level that each step of an edit leaves: from the highest, each once or `resample` times.

    Several times are those of a sigma of at most 0.5 on images in [-1, 1], but not the last: on correlated
    Gaussians all of the gain is there (docs/SDEdit.md, Masks).
    """
    times = {k: resample if k > 1 and process.sigma(k) <= _RESAMPLED else 1 for k in range(level, 0, -1)}
    return [k for k, count in times.items() for _ in range(count)]


def _kept(process: Process, guide: Tensor, level: int, first: Tensor, noise: Noise, fixed: bool) -> Tensor:
    if level == 0:
        return as_state(guide)
    return process.diffuse(guide, level, first if fixed else noise())


def _weight(mask: Tensor | None, strength: Tensor | None, level: int, reached: int) -> Tensor:
    """Return how much of each pixel is its own at the level just reached, 0 to 1."""
    if strength is None:
        assert mask is not None
        return mask
    # a level in thousandths: j / level, rounded, times level may be a little more than j
    free = (strength * level - reached > 1e-3).to(strength.dtype)
    return free if mask is None else mask * free


def distance(result: Tensor, guide: Tensor, mask: Tensor | None = None) -> Tensor:
    """Return the root mean square difference of each image from its guide, weighted by the mask.

    Args:
        result: Images, shape [B, C, ...].
        guide: Images, shape of result.
        mask: What may change, 0 to 1, shape [B, 1 or C, ...].

    Returns:
        In the units of the images, shape [B]; 0 for a mask that is 0 everywhere.
    """
    square = (result - guide).square()
    weight = torch.ones_like(square) if mask is None else mask.expand_as(square)
    return ((weight * square).flatten(1).sum(1) / weight.flatten(1).sum(1).clamp(min=1e-12)).sqrt()


def edit_within(
    edit_rows: Callable[[list[int], int], Tensor],
    distances: Callable[[list[int], Tensor], Tensor],
    guide: Tensor,
    num_levels: int,
    limit: float,
) -> tuple[Tensor, list[int], list[float]]:
    """Find for each image, by bisection, a level as high as its result stays near enough to the guide.

    The next level that was tried above the one found is too far; where the distance grows with the
    level, it is the highest that is near enough. Images at one level are edited together.

    Args:
        edit_rows: (rows of the batch, level) -> their results, shape [rows, C, ...].
        distances: (rows of the batch, their results) -> their distances from the guide, shape [rows].
        guide: Images, shape [B, C, ...].
        num_levels: Highest level to try.
        limit: Largest distance allowed.

    Returns:
        Results, shape of guide; the level of each, 0 where even level 1 is too far and the result is the
        guide; the distance of each.
    """
    best = as_state(guide).clone()
    found, reached = [0] * len(guide), [0.0] * len(guide)
    too_far = [num_levels + 1] * len(guide)
    while pending := [row for row in range(len(guide)) if too_far[row] - found[row] > 1]:
        middle = {row: (found[row] + too_far[row]) // 2 for row in pending}
        for level in sorted(set(middle.values())):
            rows = [row for row in pending if middle[row] == level]
            results = edit_rows(rows, level)
            for row, result, value in zip(rows, results, distances(rows, results).tolist(), strict=True):
                if value <= limit and math.isfinite(value):
                    best[row], found[row], reached[row] = result, level, value
                else:
                    too_far[row] = level
    return best, found, reached
