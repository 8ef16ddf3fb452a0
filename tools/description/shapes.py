"""From the shapes of tensors to what the model sections of several families have in common."""

from collections.abc import Mapping, Sequence

import torch

from tools.description.fields import Fields, Guess

Shapes = Mapping[str, torch.Size]


def unet(shapes: Shapes, first: str, time: str, widths: list[int], num_blocks: int) -> dict:
    """Return the fields that all UNets have, given the names of two weights."""
    width = shapes[time][1]
    return {
        "in_channels": shapes[first][1],
        "out_channels": 0,  # its place in the section
        "model_channels": width,
        "channel_mult": multiples(widths, width),
        "num_res_blocks": num_blocks,
    }


def multiples(widths: Sequence[int], width: int) -> list[float]:
    """Return widths as multiples of one."""
    return [n // width if n % width == 0 else n / width for n in widths]


def count(shapes: Shapes, place: str) -> int:
    """Return how many numbered modules lie in a place."""
    head = f"{place}."
    return len({key[len(head) :].partition(".")[0] for key in shapes if key.startswith(head)})


def with_size(fields: Fields, image_size: int | None, guess: Guess | None = None) -> dict:
    """Put the size of images first, and in pixels which resolutions attend.

    Args:
        fields: With attention_resolutions as one flag a resolution, from the finest down.
        image_size: Where it is known.
        guess: Of the size, by default that which leaves 8 pixels at the coarsest resolution; why is without
            what every such guess says.
    """
    levels = len(fields["channel_mult"])
    pixels, why = guess or Guess(4 << levels, f"usual for {levels} resolutions")
    size = image_size or Guess(
        pixels, f"not told; {why}; --image_size N gives it, attention_resolutions follow"
    )
    pixels = image_size or pixels
    attends = [pixels >> i for i, on in enumerate(fields["attention_resolutions"]) if on]
    return {"image_size": size, **fields, "attention_resolutions": attends}
