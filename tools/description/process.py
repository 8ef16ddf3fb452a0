"""From the buffers beside a network to the diffusion section of its config."""

from collections.abc import Mapping

import torch
from torch import Tensor

from diffusions import make_schedule
from diffusions.schedule import SCHEDULES, WITH_ENDS
from tools.description.fields import Fields, Guess
from utils.weights import is_of_schedule

TABLES = ("betas", "alphas_cumprod", "loss_weight")
"""Buffers that tell something: of the schedule, and in lucidrains' files of what the network predicts."""
_OBJECTIVES = {
    "eps": lambda snr: torch.ones_like(snr),
    "x0": lambda snr: snr,
    "v": lambda snr: snr / (snr + 1),
}
"""Weight of the loss by what a network of lucidrains predicts, where noise is more than signal."""
_SCHEDULE = "not told; {} is usual; one of " + ", ".join(SCHEDULES)


def process(family: str, learned: bool, tables: Mapping[str, Tensor]) -> Fields:
    """Say on which process a network was trained, or what is usual.

    Args:
        family: Its name in configs.
        learned: Whether it has twice as many channels as the images.
        tables: Those of TABLES that the file holds, each [T].

    Raises:
        ValueError: The betas are of none of our schedules; the message is without the file's name.
    """
    lucid = family == "lucidrains_unet"
    betas = _betas(tables)
    fields = _usual_schedule(lucid) if betas is None else find_schedule(tables)
    found = None if betas is None else _find_objective(betas, tables.get("loss_weight"))
    guess = Guess("v", "not told; v is usual of lucidrains' programs; eps, x0 or v") if lucid else None
    fields["prediction"] = found or guess or Guess("eps", "not told; eps is usual; eps, x0 or v")
    if not lucid:
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


def _betas(tables: Mapping[str, Tensor]) -> Tensor | None:
    """Return the betas that tables hold or imply, float64 [T]."""
    if "betas" in tables:
        return tables["betas"].double()
    if "alphas_cumprod" not in tables:
        return None
    alphas = tables["alphas_cumprod"].double()
    return 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])


def agree(tables: Mapping[str, Tensor], alphas_cumprod: Tensor | None) -> bool:
    """Whether no table of a file contradicts a schedule, None where a network has none."""
    own = [name for name in TABLES[:2] if name in tables]
    if alphas_cumprod is None:
        return not own
    return all(is_of_schedule(name, tables[name], alphas_cumprod) for name in own)


def find_schedule(tables: Mapping[str, Tensor]) -> dict:
    """Return the fields of the one of our schedules that a file's tables are of.

    Args:
        tables: With betas or alphas_cumprod, each [T].

    Raises:
        ValueError: They are of none.
    """
    betas = _betas(tables)
    ends = betas[0].item(), betas[-1].item()
    # differences of alphas_cumprod in float32 have few digits
    for digits in (6,) if "betas" in tables else (3, 6):
        given = tuple(float(f"{end:.{digits}g}") for end in ends)
        for name in SCHEDULES:
            chosen = given if name in WITH_ENDS else ()
            if agree(tables, _alphas(name, len(betas), chosen)):
                fields = {"num_timesteps": len(betas), "schedule": name}
                return fields | dict(zip(("beta_start", "beta_end"), chosen, strict=False))
    raise ValueError(
        f"its betas, {len(betas)} from {ends[0]:.6g} to {ends[1]:.6g}, are of none of our schedules "
        f"({', '.join(SCHEDULES)}); it cannot be sampled"
    )


def _alphas(name: str, num_timesteps: int, ends: tuple[float, ...]) -> Tensor | None:
    try:
        return make_schedule(name, num_timesteps, *ends).alphas_cumprod
    except ValueError:  # it has no such ends
        return None


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
