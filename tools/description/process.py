"""From a network, what a file tells of it, and tables beside it, to the diffusion section of its config."""

import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from diffusions.preconditioning import SIGMA_DATA
from diffusions.schedule import SCHEDULES
from tools.description.fields import Fields, Guess
from tools.description.origin import IDDPM, Told
from tools.description.schedule import betas_of, find_schedule, noise_ends
from utils.quote import plain, quote

_OBJECTIVES = {
    "eps": lambda snr: torch.ones_like(snr),
    "x0": lambda snr: snr,
    "v": lambda snr: snr / (snr + 1),
}
"""Weight of the loss by what a network of lucidrains predicts, where noise is more than signal."""
_SCHEDULE = "not told; {} is usual; one of " + ", ".join(SCHEDULES)
_AROUND = {"EDMPrecond": "edm", "Precond": "edm", "VPPrecond": "vp", "VEPrecond": "ve"}
_BUILT_IN = {"sigma_data": SIGMA_DATA, "beta_d": 19.9, "beta_min": 0.1}
"""Numbers of what is around NVlabs' networks, which the preconditionings have, and no other."""
_EDM_ENDS = 0.002, 80.0
"""Least and most noise that EDM's programs sample with."""


def process(family: str, model: Fields, tables: Mapping[str, Tensor], told: Told) -> Fields:
    """Say on which process a network was trained, or what is usual.

    Args:
        family: Its name in configs.
        model: The section of the config.
        tables: Those of TABLES that the file holds, each [T].
        told: What the file tells beside.

    Raises:
        ValueError: It was trained on none of ours; the message is without the file's name.
    """
    if family == "ncsnpp":
        return _ve(tables, model["num_scales"])
    if family == "mixer":
        return _vp_sde(model["t_end"])
    learned = model["out_channels"] == 2 * model["in_channels"]
    if told.around is not None and told.around != IDDPM and betas_of(tables) is None:
        return _edm(told)
    if model.get("use_conv2d_attention") and not learned and betas_of(tables) is None:
        return _of_consistency_models()
    return _vp(family, learned, tables, told)


def _vp(family: str, learned: bool, tables: Mapping[str, Tensor], told: Told) -> Fields:
    lucid = family == "lucidrains_unet"
    fields = _usual_schedule(lucid) if betas_of(tables) is None else find_schedule(tables)
    fields["prediction"] = _prediction(fields, lucid, tables, told)
    if not lucid and told.around is None:
        why = "not told; true where a program told its network t * 1000 / num_timesteps (improved-diffusion)"
        fields["rescale_timesteps"] = Guess(False, why)
    if learned:
        fields["var_type"] = "learned_range"
    else:
        fields["var_type"] = Guess("fixed_small", "not told; fixed_small is usual; or fixed_large")
    return fields


def _usual_schedule(lucid: bool) -> dict:
    steps = {"num_timesteps": Guess(1000, "not told; 1000 is usual, 4000 in improved-diffusion")}
    if lucid:
        return steps | {"schedule": Guess("sigmoid", _SCHEDULE.format("sigmoid"))}
    ends = "not told; usual for linear and 1000 timesteps; remove it for cosine and sigmoid"
    linear = {"schedule": Guess("linear", _SCHEDULE.format("linear"))}
    return steps | linear | {"beta_start": Guess(1e-4, ends), "beta_end": Guess(0.02, ends)}


def _prediction(fields: Fields, lucid: bool, tables: Mapping[str, Tensor], told: Told) -> str | Guess:
    betas = betas_of(tables)
    found = None if betas is None else _find_objective(betas, tables.get("loss_weight"))
    if found or told.around is not None:  # of NVlabs, with betas: iDDPMPrecond, which is of eps alone
        return found or "eps"
    if lucid:
        return Guess("v", "not told; v is usual of lucidrains' programs; eps, x0 or v")
    if fields.get("rescale_betas_zero_snr") or 1.0 in fields.get("trained_betas", ())[-1:]:
        return Guess("v", "not told; v is usual where the last timestep has no signal; v or x0")
    return Guess("eps", "not told; eps is usual; eps, x0 or v")


def _find_objective(betas: Tensor, weights: Tensor | None) -> str | None:
    """Return what a network of lucidrains' programs predicts, by the weight of its loss at each timestep."""
    if weights is None or weights.shape != betas.shape:
        return None
    alphas = (1 - betas).cumprod(dim=0)
    snr = alphas / (1 - alphas)
    noisy = snr < 1  # above, the trainer may bound it
    for name, weigh in _OBJECTIVES.items():
        if noisy.any() and torch.allclose(weights.double()[noisy], weigh(snr[noisy]), rtol=0.01, atol=1e-6):
            return name
    return None


def _ve(tables: Mapping[str, Tensor], num_scales: int) -> Fields:
    why = "not told; {} is usual; {} noise of the training, of images in [0, 1]"
    largest = why.format(50, "most") + ": 50 of 32x32, 348 of 256x256 faces"
    low, high = noise_ends(tables) or (Guess(0.01, why.format(0.01, "least")), Guess(50.0, largest))
    return {
        "process": "ve",
        "num_timesteps": num_scales,
        "sigma_min": low,
        "sigma_max": high,
        "prediction": "score",
    }


def _vp_sde(t_end: float | Guess) -> Fields:
    ends = "not told; [-1, 17] is usual of galaxygrad; what black and white were in the training"
    return {
        "process": "vp_sde",
        "num_timesteps": 1000,
        "beta": Guess(1.0, "not told; 1 is usual; beta of the training"),
        "t_min": Guess(0.001, "not told; 0.001 is usual; the first time of the training"),
        "t_max": t_end,
        "prediction": "score",
        "clip": None,
        "image_range": Guess([-1.0, 17.0], ends),
    }


def _edm(told: Told) -> Fields:
    """Return the process of a network with one of EDM's preconditionings around it."""
    around = _AROUND.get(told.around)
    _check_built_in(told)
    if around is None:
        made = f", it was made as {plain(told.around, 60)}" if told.around else ""
        why = f"not told{made}; edm is usual; vp of VPPrecond, ve of VEPrecond, edm of EDMPrecond"
        around = Guess("edm", why)
    low, high = (_number(told.made.get(name)) for name in ("sigma_min", "sigma_max"))
    least, most = _EDM_ENDS
    why = "not told; {} of EDM's sampling is usual; the {} noise to sample with"
    return {
        "process": "edm",
        "num_timesteps": 1000,
        "sigma_min": low if low and low > least else Guess(least, why.format(least, "least")),
        "sigma_max": high if high and high < most else Guess(most, why.format(80, "most")),
        "prediction": "x0",
        "preconditioning": around,
        "clip": None,
    }


def _number(value: Any) -> float | None:
    return float(value) if type(value) in (int, float) and abs(value) < sys.float_info.max else None


def _check_built_in(told: Told) -> None:
    needed = _BUILT_IN | ({"M": 1000} if told.around == "VPPrecond" else {})
    for name, value in needed.items():
        if told.made.get(name, value) != value:
            raise ValueError(
                f"{plain(told.around, 60)} is around it with {name} {quote(told.made[name])}; "
                f"allowed is {value:g}"
            )


def _of_consistency_models() -> Fields:
    """Guess the process of openai's consistency_models, by whose kind of attention they are known."""
    sampled = "not told; usual in openai's consistency_models"
    return {
        "process": Guess("edm", f"{sampled}, whose attention this is"),
        "num_timesteps": Guess(
            1000, "not told; any number for edm_250; of a consistency model its scales, as 40"
        ),
        "sigma_min": Guess(_EDM_ENDS[0], sampled),
        "sigma_max": Guess(_EDM_ENDS[1], sampled),
        "prediction": Guess("x0", f"{sampled}; as process edm needs"),
        "preconditioning": Guess("edm_250", "not told; edm_250 or consistency, of a consistency model"),
    }
