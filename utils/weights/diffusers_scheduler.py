"""What the scheduler of a diffusers folder says of sampling: what is obeyed, and what is said not to be."""

from typing import Any

from utils.log import once
from utils.quote import quote

_LARGEST_CLIP = 1000.0
_UNUSED = {
    "thresholding": (False, "x_0 is clipped as clip_sample says, and never scaled"),
    "set_alpha_to_one": (True, "here level 0 is always the clean image"),
    "timestep_spacing": ("leading", "--respace_type chooses the timesteps"),
    "steps_offset": (0, "--respace_type chooses the timesteps"),
}
"""Fields of a scheduler that no sampler here obeys: the value that asks for nothing, and why not."""


def read_clip(facts: dict[str, Any]) -> float | None:
    """Return the bound that x_0 is clipped to, None for no clipping (clip_sample, clip_sample_range).

    Raises:
        ValueError: Values of another kind.
    """
    clips, bound = facts.get("clip_sample", True), facts.get("clip_sample_range", 1.0)
    if type(clips) is not bool:
        raise ValueError(f"clip_sample {quote(clips)}: allowed are true and false")
    if type(bound) not in (int, float) or not 0 < bound <= _LARGEST_CLIP:
        raise ValueError(
            f"clip_sample_range {quote(bound)}: allowed is a number above 0, to {_LARGEST_CLIP:g}"
        )
    return float(bound) if clips else None


def say_unused(facts: dict[str, Any]) -> None:
    """Say which of the fields that are not obeyed ask for something, in one line."""
    found = [
        f"{key} {quote(facts[key])} ({why})"
        for key, (harmless, why) in _UNUSED.items()
        if facts.get(key, harmless) != harmless
    ]
    if found:
        once(f"note: scheduler_config.json is not followed in {'; '.join(found)}")
