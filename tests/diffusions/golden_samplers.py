"""The recorded sampler runs: their files, the analytic models that they name, and their noise."""

import json
import math
from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusions import NoiseSchedule, edit, make_schedule

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


@cache
def _family(name: str) -> tuple[dict, dict[str, Tensor]]:
    path = GOLDEN / "samplers" / name
    return json.loads(path.with_suffix(".json").read_text())["cases"], load_file(
        path.with_suffix(".safetensors")
    )


def case_names(family: str) -> list[str]:
    return list(_family(family)[0])


def read_case(family: str, case: str) -> tuple[dict, dict[str, Tensor]]:
    """Return a case's description and its tensors by their short names, with those that all cases share."""
    cases, tensors = _family(family)
    own = {
        key.removeprefix(f"{case}/"): value
        for key, value in tensors.items()
        if key.startswith(f"{case}/") or "/" not in key
    }
    return cases[case], own


@cache
def read_schedules() -> dict[str, Tensor]:
    return load_file(GOLDEN / "schedules" / "schedules.safetensors")


@cache
def read_lucidrains_schedules() -> dict[str, Tensor]:
    return load_file(GOLDEN / "schedules" / "lucidrains.safetensors")


@cache
def read_ve_schedules() -> dict[str, Tensor]:
    return load_file(GOLDEN / "schedules" / "ve_sde.safetensors")


@cache
def read_sigmas() -> dict[str, Tensor]:
    return load_file(GOLDEN / "schedules" / "sigma.safetensors")


@cache
def read_timesteps() -> dict[str, list[dict]]:
    return json.loads((GOLDEN / "schedules" / "timesteps.json").read_text())


def openai_schedule(name: str, num_timesteps: int) -> NoiseSchedule:
    """guided-diffusion's schedules: its 'linear' scales both ends by 1000 / T."""
    if name == "cosine":
        return make_schedule("cosine", num_timesteps)
    return make_schedule("linear", num_timesteps, 1e-4 * 1000 / num_timesteps, 0.02 * 1000 / num_timesteps)


def ddpm_schedule(name: str, num_timesteps: int) -> NoiseSchedule:
    """The DDPM programs' schedules, with the same two ends for every T."""
    return make_schedule(name, num_timesteps, 1e-4, 0.02)


class Replay:
    """Noise that returns recorded tensors in their order; `used` counts them."""

    def __init__(self, noises: Iterable[Tensor], dtype: torch.dtype):
        self._noises = [noise.to(dtype) for noise in noises]
        self.used = 0

    def __call__(self) -> Tensor:
        self.used += 1
        return self._noises[self.used - 1]


def column(values: Tensor, x: Tensor) -> Tensor:
    """One number a batch row, shaped and typed to go with x."""
    return values.to(x.dtype).view(-1, *[1] * (x.ndim - 1))


def make_model(
    spec: dict, schedule: NoiseSchedule, y: Tensor | None = None
) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the model that a case's `model` entry describes, with its labels bound."""
    kinds = {"sine": _sine, "gmm": _mixture, "x0sine": _x0_sine}
    alphas_cumprod = schedule.alphas_cumprod

    def model(x: Tensor, t: Tensor) -> Tensor:
        label = 0.0 if y is None else column(y, x)
        output = kinds[spec["kind"]](spec, alphas_cumprod, x, t, label)
        if "var_p" not in spec:
            return output
        return torch.cat([output, torch.tanh(spec["var_p"] * x + spec["var_q"] * column(t, x))], dim=1)

    return model


def _sine(spec, alphas_cumprod, x, t, label):
    angle = spec["c"] * x + spec["d"] * column(t, x) + spec["e"] * label
    return spec["a"] * x + spec["b"] * torch.sin(angle)


def _x0_sine(spec, alphas_cumprod, x, t, label):
    return 0.8 * torch.sin(spec["a"] * x + spec["d"] * column(t, x))


def _mixture(spec, alphas_cumprod, x, t, label):
    """The exact eps of elementwise data sum_k w_k N(m_k + shift y, s_k^2)."""
    A = column(alphas_cumprod[t], x)
    logits, scores = [], []
    for w, m, s in zip(spec["w"], spec["m"], spec["s"], strict=True):
        offset = x - A.sqrt() * (m + spec.get("shift", 0.0) * label)
        variance = A * s**2 + 1 - A
        logits.append(math.log(w) - variance.log() / 2 - offset**2 / (2 * variance))
        scores.append(offset / variance)
    weights = torch.softmax(torch.stack(logits, dim=-1), dim=-1)
    return (1 - A).sqrt() * (weights * torch.stack(scores, dim=-1)).sum(dim=-1)


def ve_denoiser(spec: dict) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the x_0 predictor of (x, sigma) that a case's `denoiser` entry describes: a mixture's mean."""

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        square = column(sigma, x) ** 2
        logits, means = [], []
        for w, m, s in zip(spec["w"], spec["m"], spec["s"], strict=True):
            variance = s**2 + square
            logits.append(math.log(w) - variance.log() / 2 - (x - m) ** 2 / (2 * variance))
            means.append(m + s**2 / variance * (x - m))
        weights = torch.softmax(torch.stack(logits, dim=-1), dim=-1)
        return (weights * torch.stack(means, dim=-1)).sum(dim=-1)

    return model


def ve_score(spec: dict) -> Callable[[Tensor, Tensor], Tensor]:
    denoiser = ve_denoiser(spec)
    return lambda x, sigma: (denoiser(x, sigma) - x) / column(sigma, x) ** 2


def ve_gaussian(mean: float, std: float, prediction: str = "eps"):
    """The exact predictor of (x, sigma) for data N(mean, std^2), in any of the forms of a VE network."""

    def model(x: Tensor, sigma: Tensor) -> Tensor:
        sigma = column(sigma, x)
        score = (mean - x) / (std**2 + sigma**2)
        return {"eps": -sigma * score, "x0": x + sigma**2 * score, "score": score}[prediction]

    return model


def gaussian(schedule: NoiseSchedule, mean: float, std: float, prediction: str = "eps"):
    """The exact predictor for data N(mean, std^2), in any of the three forms.

    Between timesteps, log sigma is interpolated linearly.
    """
    log_sigma = (1 / schedule.alphas_cumprod - 1).log() / 2

    def model(x: Tensor, t: Tensor) -> Tensor:
        low, share = t.long(), t - t.long()
        between = torch.lerp(
            log_sigma[low], log_sigma[(low + 1).clamp(max=len(log_sigma) - 1)], share.double()
        )
        A = column(1 / (1 + (2 * between).exp()), x)
        eps = (1 - A).sqrt() * (x - A.sqrt() * mean) / (A * std**2 + 1 - A)
        x_0 = (x - (1 - A).sqrt() * eps) / A.sqrt()
        return {"eps": eps, "x0": x_0, "v": A.sqrt() * eps - (1 - A).sqrt() * x_0}[prediction]

    return model


def affine_parts(process, model, guide: float, level: int, num_draws: int | None = None, **options):
    """Mean and variance of `edit` on scalars, exact where every step is affine in the state.

    Row r of the batch meets draw number r as 1 and all others as 0; the last row meets zeros only.
    """
    num_draws = level if num_draws is None else num_draws
    draws = torch.eye(num_draws + 1, dtype=torch.float64)[:num_draws, :, None]
    noise = Replay(draws, torch.float64)
    start = torch.full((num_draws + 1, 1), guide, dtype=torch.float64)
    rows = edit(process, model, start, level, noise, **options)
    assert noise.used == num_draws
    return rows[-1].item(), ((rows[:-1] - rows[-1]) ** 2).sum().item()


def recorded_gradient(spec: dict, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Build the gradient of a classifier that a case's `cond` entry describes."""

    def gradient(x: Tensor, t: Tensor) -> Tensor:
        return spec["scale"] * (spec["mu0"] * (column(y, x) - 1) - x) / (1 + spec["rate"] * column(t, x))

    return gradient


class Counted:
    """A model that counts its calls and keeps the timesteps it was told."""

    def __init__(self, model):
        self._model = model
        self.timesteps: list[int] = []

    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        assert t.dtype == torch.int64
        assert t.shape == (len(x),)
        self.timesteps.append(int(t[0]))
        return self._model(x, t)


def walk(step, x: Tensor, levels: Iterable[int]) -> Tensor:
    """Apply step(x, j, k) along levels; return all states, first to last, stacked."""
    states = [x]
    for j, k in pairwise(levels):
        states.append(step(states[-1], j, k))
    return torch.stack(states)


def assert_golden(actual: Tensor, expected: Tensor, relative: float = 1e-10) -> None:
    """Compare element by element, relative to the largest element or 1."""
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    bound = relative * max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(actual, expected, rtol=0, atol=bound)


def openai_case(case: str) -> tuple[dict, dict[str, Tensor], NoiseSchedule, list[int]]:
    """A run of guided-diffusion: description, tensors, schedule, and the timesteps that it kept."""
    meta, golden = read_case("guided_diffusion", case)
    kept = meta["timestep_map"] if isinstance(meta["timestep_map"], list) else range(meta["T"])
    return meta, golden, openai_schedule(meta["schedule"], meta["T"]), list(kept)


def xyf_case(case: str) -> tuple[dict, dict[str, Tensor], NoiseSchedule, list[int]]:
    """A run of xyfJASON's programs, likewise."""
    meta, golden = read_case("xyf", case)
    kept = meta["sequence"] if isinstance(meta["sequence"], list) else range(meta["T"])
    return meta, golden, ddpm_schedule(meta["schedule"], meta["T"]), list(kept)


def recorded_rows(meta: dict, states: Tensor) -> Tensor:
    """The states whose step numbers a case recorded; all of them where it names none."""
    _, listed, numbers = meta["traj_rows"].partition("step numbers ")
    return states[json.loads(numbers)] if listed else states


def down(step, x: Tensor, source: int, target: int = 0) -> Tensor:
    return walk(step, x, range(source, target - 1, -1))


def orders(errors: list[float]) -> list[float]:
    """Measured order of convergence between runs of which each has twice the steps."""
    return [math.log2(coarse / fine) for coarse, fine in pairwise(errors)]


def worst(difference: Tensor) -> float:
    return difference.abs().max().item()
