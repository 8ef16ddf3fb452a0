"""From tables of a schedule beside a network to what a config says of it."""

import math
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from diffusions import NoiseSchedule, make_schedule
from diffusions.schedule import SCHEDULES, WITH_ENDS
from utils.config import MAX_VALUES
from utils.weights import is_of_schedule

BETAS = ("betas", "alphas_cumprod")
TABLES = (*BETAS, "loss_weight", "sigmas")
"""Buffers that tell something: of the schedule; in lucidrains' files of what the network predicts; in
score_sde's of the least and the most noise."""
_MOST_LISTED = MAX_VALUES - 1000  # the config has other values too
_NO_SIGNAL = 1e-6
_HALVINGS = 40


def betas_of(tables: Mapping[str, Tensor]) -> Tensor | None:
    """Return the betas that tables hold or imply, float64 [T]."""
    if "betas" in tables:
        return tables["betas"].double()
    return _implied(tables["alphas_cumprod"]) if "alphas_cumprod" in tables else None


def _implied(alphas_cumprod: Tensor) -> Tensor:
    alphas = alphas_cumprod.double()
    return 1 - alphas / torch.cat([alphas.new_ones(1), alphas[:-1]])


def of_levels(levels: Tensor) -> Tensor:
    """Return alphas_cumprod [T] of the sigmas of an iDDPMPrecond, [T + 1], the most first and 0 last."""
    return 1 / (1 + levels[:-1].flip(0).double() ** 2)


def agree(tables: Mapping[str, Tensor], alphas_cumprod: Tensor | None) -> bool:
    """Whether no table of a file contradicts a schedule, None where a network has none."""
    own = [name for name in BETAS if name in tables]
    if alphas_cumprod is None:
        return not own
    return all(is_of_schedule(name, tables[name], alphas_cumprod) for name in own)


def noise_ends(tables: Mapping[str, Tensor]) -> tuple[float, float] | None:
    """Return the least and the most noise of the levels that a file of score_sde holds, None of no levels."""
    levels = tables.get("sigmas")
    if levels is None or not (levels.isfinite().all() and levels.min() > 0 and len(levels) > 1):
        return None  # what diffusers saved and others converted has zeros
    low, high = sorted([levels[0].item(), levels[-1].item()])
    return float(f"{low:.6g}"), float(f"{high:.6g}")


def find_schedule(tables: Mapping[str, Tensor]) -> dict:
    """Return the fields of the schedule that a file's tables are of: one of ours, or all betas.

    Args:
        tables: With betas or alphas_cumprod, each [T].

    Raises:
        ValueError: No schedule has such tables.
    """
    betas = betas_of(tables)
    near_none = 1 - betas[-1] < _NO_SIGNAL or tables.get("alphas_cumprod", betas)[-1] < _NO_SIGNAL
    for rescaled in (False, True) if near_none else (False,):
        for name, ends in _named(betas, "betas" in tables, rescaled):
            if agree(tables, _alphas(name, len(betas), ends, rescaled)):
                fields = {"num_timesteps": len(betas), "schedule": name}
                fields |= dict(zip(("beta_start", "beta_end"), ends, strict=False))
                return fields | ({"rescale_betas_zero_snr": True} if rescaled else {})
    return {"num_timesteps": len(betas), "trained_betas": _listed(tables)}


def _named(betas: Tensor, are_exact: bool, rescaled: bool) -> Iterator[tuple[str, tuple[float, ...]]]:
    """Yield the schedules of ours that betas may be of, with their ends, the roundest first.

    Args:
        betas: float64 [T].
        are_exact: In float32, not differences of alphas_cumprod, which have few digits.
        rescaled: Whether they are of a schedule whose last signal was taken away.
    """
    for name in SCHEDULES:
        if name not in WITH_ENDS:
            yield name, ()
            continue
        first, last = betas[0].item(), _solve(name, betas) if rescaled else betas[-1].item()
        for digits in range(3, 7) if rescaled else (6,) if are_exact else (3, 6):
            yield name, (_rounded(first, digits), _rounded(last, digits))


def _rounded(value: float, digits: int) -> float:
    return float(f"{value:.{digits}g}")


def _solve(name: str, betas: Tensor) -> float:
    """Return the last beta of a schedule that rescaling hides: the first stays, and half-way tells the other.

    The less noise a schedule has, the more its rescaled signal half-way.
    """
    if name == "const":
        return betas[0].item()
    middle, first = len(betas) // 2, betas[0].item()
    wanted = (1 - betas[: middle + 1]).prod().item()
    low, high = first, 0.999
    for _ in range(_HALVINGS):
        end = math.sqrt(low * high)
        alphas = _alphas(name, len(betas), (first, end), rescaled=True)
        if alphas is not None and alphas[middle] > wanted:
            low = end
        else:
            high = end
    return end


def _alphas(name: str, num_timesteps: int, ends: tuple[float, ...], rescaled: bool) -> Tensor | None:
    try:
        schedule = make_schedule(name, num_timesteps, *ends)
        return (schedule.without_last_signal() if rescaled else schedule).alphas_cumprod
    except ValueError:  # it has no such ends
        return None


def _listed(tables: Mapping[str, Tensor]) -> list[float]:
    """Return betas as short as float32 tells them apart, of which a schedule has all tables of a file.

    Raises:
        ValueError: None has.
    """
    betas, problem = betas_of(tables), "its tables contradict one another"
    ways = {
        "betas": lambda table: [float(str(beta)) for beta in table.numpy().astype(np.float32)],
        "alphas_cumprod": lambda table: [_rounded(beta, 9) for beta in _implied(table).tolist()],
    }
    for name in (name for name in BETAS if name in tables):
        try:
            listed = ways[name](tables[name])
            schedule = NoiseSchedule(torch.tensor(listed, dtype=torch.float64))
        except ValueError as error:
            problem = str(error)
            continue
        if len(listed) > _MOST_LISTED:
            problem = f"a config lists at most {_MOST_LISTED}"
        elif agree(tables, schedule.alphas_cumprod):
            return listed
    raise ValueError(
        f"its betas, {len(betas)} from {betas[0]:.6g} to {betas[-1]:.6g}, are of none of our schedules "
        f"({', '.join(SCHEDULES)}), and cannot be listed: {problem}"
    )
