"""What the scheduler of a diffusers folder says of sampling: what is obeyed, and what is said not to be."""

from typing import Any

from utils.log import once
from utils.quote import quote

SCHEDULES = {"linear": "linear", "scaled_linear": "quad", "squaredcos_cap_v2": "cosine"}
VARIANCES = {k + end: k for k in ("fixed_small", "fixed_large", "learned_range") for end in ("", "_log")}
PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}
_LARGEST_CLIP = 1000.0
_UNUSED = {
    "thresholding": (False, "x_0 is clipped as clip_sample says, and never scaled"),
    "set_alpha_to_one": (True, "here level 0 is always the clean image"),
    "timestep_spacing": ("leading", "--respace_type chooses the timesteps"),
    "steps_offset": (0, "--respace_type chooses the timesteps"),
}
"""Fields of a scheduler that no sampler here obeys: the value that asks for nothing, and why not."""


def read_diffusion(facts: dict[str, Any]) -> dict[str, Any]:
    """Return the diffusion section of a config, of what a scheduler says of its betas and prediction."""
    facts = {"prediction_type": "epsilon", "variance_type": "fixed_small", **facts}
    say_unused(facts)
    return {
        "num_timesteps": facts["num_train_timesteps"],
        **_betas(facts),
        "rescale_betas_zero_snr": facts.get("rescale_betas_zero_snr", False),
        "prediction": _translate(facts, "prediction_type", PREDICTIONS),
        "var_type": _translate(facts, "variance_type", VARIANCES),
        "clip": read_clip(facts),
    }


def _betas(facts: dict[str, Any]) -> dict[str, Any]:
    """Return what a scheduler says of its betas: all of them, or a schedule's name and ends."""
    if facts.get("trained_betas") is not None:
        return {"trained_betas": facts["trained_betas"]}
    schedule = _translate(facts, "beta_schedule", SCHEDULES)
    ends = {} if schedule == "cosine" else {key: facts[key] for key in ("beta_start", "beta_end")}
    return {"schedule": schedule, **ends}


def _translate(facts: dict[str, Any], key: str, table: dict[str, str]) -> str:
    found = facts[key]
    if not isinstance(found, str) or found not in table:
        raise ValueError(f"{key} {quote(found)}: allowed are {', '.join(table)}")
    return table[found]


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
