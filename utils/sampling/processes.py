"""From options and config to the process that images are noised and denoised by."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    VPSDE,
    Consistency,
    DPMSolver,
    FixedPointInversion,
    Heun,
    LatentConsistency,
    NoiseSchedule,
    PredictorCorrector,
    SourceInversion,
    as_ve,
    from_unit_range,
    karras_sigmas,
    make_karras_schedule,
    make_schedule,
    make_ve_schedule,
    match_timesteps,
    precondition,
    respace,
)
from diffusions.process import Model, Process
from diffusions.schedule import Schedule
from models import CONFIG_CLASSES, PARTS
from utils import pipelines, settings, weights
from utils.config import Config

KARRAS, CONSISTENCY = "karras", "consistency"
_EDIT_CALLS, _TEXT_CALLS, _DISTILLED_CALLS, _CONSISTENCY_CALLS = 25, 40, 4, 2
"""Of an edit from a t0 or sigma0, where nothing is said: those of a text are two by two."""
_TRANSLATION_CALLS = 100
_GUIDED = (0.28, 2.9)
"""The noise at which guidance leads an edit to a class, where --calls place the levels and nothing else is
said: measured on ImageNet by Kynkäänniemi et al. 2024, and on the demo (docs/SDEdit.md, Results)."""
_SEARCH_STEPS, _KARRAS_STEPS, _TEXT_STEPS, _GLIDE_SCALE = 50, 18, 25, 3.0
"""Where nothing is said: with auto_t0, of networks that know any sigma, of those that are told a text."""
M = TypeVar("M", bound=settings.Method)
SAMPLERS: dict[str, Callable[..., Process]] = {
    "ddim": DDIM,
    "heun": Heun,
    CONSISTENCY: Consistency,
    "dpm-solver++": DPMSolver,
    "sde-dpm-solver++": partial(DPMSolver, stochastic=True),
}
"""What --sampler may name beside ddpm, which has options of its own; its names are in utils.settings."""


@dataclass(frozen=True)
class Trained:
    """What a config says of the process that a network was trained on."""

    schedule: Schedule
    prediction: str
    """What the network means once it is adapted."""
    adapt: Callable[[Model], Model]
    """Lets the network work on this schedule."""
    clip: float | None = 1.0
    """Bound of x_0 on the way down, None for none."""


def read_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read the config of a network that predicts images.

    Raises:
        ValueError: The config is wrong, its schedule is not possible, or its network does not predict images.
    """
    config = _read_config(path, overrides)
    if config.model.out_channels not in (config.state_channels, 2 * config.state_channels):
        raise ValueError(f"{path}: this network does not predict images; give the config of a UNet")
    try:
        read_trained(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def _read_config(path: Path, overrides: list[str] | None) -> Config:
    if path.name != pipelines.INDEX:
        return weights.read_config(path, CONFIG_CLASSES, overrides)
    if overrides:
        raise ValueError(f"--set: nothing can be overridden in {path}")
    return pipelines.read_config(path, PARTS)


def read_trained(config: Config) -> Trained:
    """Build the schedule that a network works on.

    A VE schedule is in the units of images in [-1, 1], so its sigmas are twice the published ones.

    Raises:
        ValueError: The config's schedule is not possible.
    """
    return _TRAINED[config.diffusion.process](config)


def _trained_ve(config: Config) -> Trained:
    diffusion = config.diffusion
    schedule = make_ve_schedule(2 * diffusion.sigma_min, 2 * diffusion.sigma_max, diffusion.num_timesteps)
    if diffusion.prediction == "score":
        return Trained(schedule, "score", from_unit_range)
    vp = _vp_schedule(config)
    return Trained(schedule, "eps", lambda network: as_ve(network, vp, diffusion.prediction), diffusion.clip)


def _trained_edm(config: Config) -> Trained:
    diffusion = config.diffusion
    schedule = make_karras_schedule(diffusion.sigma_min, diffusion.sigma_max, diffusion.num_timesteps)

    def adapt(network: Model) -> Model:
        return precondition(network, diffusion.preconditioning, diffusion.sigma_min)

    return Trained(schedule, "x0", adapt, diffusion.clip)


def _trained_vp_sde(config: Config) -> Trained:
    diffusion = config.diffusion
    ends = diffusion.image_range or (-1.0, 1.0)
    schedule = VPSDE(diffusion.beta, diffusion.t_min, diffusion.t_max, diffusion.num_timesteps, ends)
    return Trained(schedule, "score", schedule.adapt, diffusion.clip)


def _trained_vp(config: Config) -> Trained:
    diffusion = config.diffusion
    scale = 1000 / diffusion.num_timesteps

    def rescaled(network: Model) -> Model:
        return lambda x_t, t: network(x_t, t.double() * scale)

    adapt = rescaled if diffusion.rescale_timesteps else lambda network: network
    return Trained(_vp_schedule(config), diffusion.prediction, adapt, diffusion.clip)


_TRAINED = {"vp": _trained_vp, "ve": _trained_ve, "edm": _trained_edm, "vp_sde": _trained_vp_sde}


def trained_alphas(config: Config) -> Tensor | None:
    """Return alphas_cumprod of the table that a network was trained on, None where it had no betas."""
    has_betas = config.diffusion.schedule is not None or config.diffusion.trained_betas is not None
    return _vp_schedule(config).alphas_cumprod if has_betas else None


def _vp_schedule(config: Config) -> NoiseSchedule:
    diffusion = config.diffusion
    if diffusion.trained_betas is not None:
        schedule = NoiseSchedule(torch.tensor(diffusion.trained_betas, dtype=torch.float64))
    else:
        ends = diffusion.beta_start, diffusion.beta_end
        schedule = make_schedule(diffusion.schedule, diffusion.num_timesteps, *ends)
    return schedule.without_last_signal() if diffusion.rescale_betas_zero_snr else schedule


def complete(method: M, config: Config) -> M:
    """Return settings with what a network implies in place of what was not said.

    Raises:
        ValueError: A sampler of consistency models, for another network.
    """
    scale = getattr(config, "guidance_scale", _GLIDE_SCALE if config.told_text else 1.0)
    spacing = KARRAS if _knows_all(config) else method.spacing
    if isinstance(method, settings.Translate) and method.t0 and spacing != KARRAS:
        spacing = settings.Edit.spacing  # of an edit from there
    implied: dict[str, object] = {"respace_type": spacing, "guidance_scale": scale}
    says_steps = bool(method.respace_steps or method.respace_type not in (None, *settings.COUNTED))
    if isinstance(method, settings.Edit):
        return _complete_edit(method, config, implied, says_steps)
    in_latents = isinstance(config, pipelines.PipelineConfig)
    implied["solver"] = "ddim" if in_latents or method.inversion else "heun"
    if in_latents and method.solver in (None, "ddim"):
        implied |= {"inversion": "fixed_point", "respace_steps": None if method.calls else _TEXT_STEPS}
    elif not says_steps:
        implied["calls"] = _TRANSLATION_CALLS
    return _filled(method, implied)


def _complete_edit(
    edit: settings.Edit, config: Config, implied: dict[str, object], says_steps: bool
) -> settings.Edit:
    implied = {"sampler": _usual_sampler(edit, config), **implied}
    if edit.sampler == CONSISTENCY != implied["sampler"]:
        others = ", ".join(name for name in settings.SAMPLERS if name != CONSISTENCY)
        raise ValueError(f"--sampler {CONSISTENCY}: this network is no consistency model; give {others}")
    if (edit.t0 or edit.sigma0) and not says_steps:
        implied["calls"] = _usual_calls(config)
    elif _knows_all(config):
        implied["respace_steps"] = _KARRAS_STEPS
    elif isinstance(config, pipelines.PipelineConfig):
        implied["respace_steps"] = _TEXT_STEPS
    elif edit.auto_t0 and not says_steps:
        implied["respace_steps"] = _SEARCH_STEPS
    edit = _filled(edit, implied)
    if edit.calls and edit.guidance_scale != 1 and not (edit.guidance_interval or config.told_text):
        return replace(edit, guidance_interval=_GUIDED)
    return edit


def _filled(method: M, implied: dict[str, object]) -> M:
    """Return settings with these in place of what was not said."""
    return replace(method, **{name: x for name, x in implied.items() if getattr(method, name) is None})


def _knows_all(config: Config) -> bool:
    """Whether a network is told the noise itself, of which it knows any."""
    return config.diffusion.process in ("edm", "vp_sde")


def _usual_sampler(edit: settings.Edit, config: Config) -> str:
    """Return the sampler of an edit where nothing is said."""
    if isinstance(config, pipelines.PipelineConfig):
        return config.sampler
    if config.diffusion.preconditioning == CONSISTENCY:
        return CONSISTENCY
    return "ddpm" if edit.var_type or edit.corrector_steps else "sde-dpm-solver++"


def _usual_calls(config: Config) -> int:
    """Return the network evaluations of an edit from a t0 or sigma0 where nothing is said."""
    if config.diffusion.preconditioning == CONSISTENCY:
        return _CONSISTENCY_CALLS
    if getattr(config, "few_calls", False):
        return _DISTILLED_CALLS
    return _TEXT_CALLS if config.told_text else _EDIT_CALLS


def read_timesteps(method: settings.Method, trained: Trained, default_steps: int | None) -> list[float]:
    """Choose the timesteps that the settings keep.

    Args:
        method: The settings, complete.
        trained: What the network was trained on.
        default_steps: How many to keep where neither --respace_steps nor the --respace_type itself
            says so; None for all.

    Raises:
        ValueError: The respacing is not possible.
    """
    name, schedule = method.respace_type, trained.schedule
    num_timesteps = schedule.num_timesteps
    if isinstance(method, settings.Translate) and method.t0:
        every = Process(schedule, range(num_timesteps), "x0")
        num_timesteps = every.level_at(method.t0)
    num_steps = method.respace_steps or (default_steps if name in settings.COUNTED else None)
    return choose_timesteps(name, schedule, num_timesteps, num_steps)


def choose_timesteps(name: str, schedule: Schedule, num_timesteps: int, num_steps: int | None) -> list[float]:
    """Choose from the first timesteps of a schedule.

    Args:
        name: A --respace_type.
        schedule: What the network was trained with.
        num_timesteps: How many to choose from.
        num_steps: How many to keep, None for all or what the name says.

    Raises:
        ValueError: The respacing is not possible.
    """
    if name != KARRAS:
        return respace(name, num_timesteps, num_steps)
    ends = (level.sigma for level in schedule.levels([0, num_timesteps - 1]))
    return match_timesteps(schedule, karras_sigmas(*ends, num_steps or num_timesteps))


def make_process(edit: settings.Edit, config: Config, trained: Trained, timesteps: list[float]) -> Process:
    """Build the sampler that the settings name.

    Raises:
        ValueError: Options that do not go together, or with this network.
    """
    return _make_sampler(edit, config, trained, timesteps).bounded(trained.clip)


def _make_sampler(edit: settings.Edit, config: Config, trained: Trained, timesteps: list[float]) -> Process:
    clip = trained.prediction != "score"  # as it was published
    if edit.sampler == CONSISTENCY and isinstance(config, pipelines.PipelineConfig):
        return LatentConsistency(trained.schedule, timesteps, trained.prediction, clip)
    given = (trained.schedule, timesteps, trained.prediction)
    if edit.sampler != "ddpm":
        if edit.var_type or edit.corrector_steps:
            raise ValueError("--var_type and --corrector_steps: only for --sampler ddpm")
        return SAMPLERS[edit.sampler](*given, clip_denoised=clip)
    var_type = _choose_variance(edit, config)
    if not edit.corrector_steps:
        return DDPM(*given, var_type, clip)
    if config.diffusion.process != "ve":
        raise ValueError("--corrector_steps: only for a config whose process is ve")
    return PredictorCorrector(*given, var_type, clip, corrector_steps=edit.corrector_steps, snr=edit.snr)


def make_solver(
    translate: settings.Translate, trained: Trained, timesteps: list[float]
) -> tuple[Process, Process]:
    """Build what follows the ODE up and what follows it down, as the options name them."""
    given = (trained.schedule, timesteps, trained.prediction)
    if translate.solver in settings.RECORDED:
        both = DDPM(*given)
    elif translate.solver == "exact":
        both = BDIA(*given, clip_denoised=False)  # what is clipped cannot be undone
    elif translate.solver == "ddim":
        kinds = {"source": SourceInversion, "fixed_point": FixedPointInversion}
        both = kinds.get(translate.inversion, DDIM)(*given)
    else:
        both = Heun(*given)
    both = both.bounded(trained.clip)
    return both, DPMSolver(*given).bounded(trained.clip) if translate.solver == "dpm-solver++" else both


def _choose_variance(edit: settings.Edit, config: Config) -> str:
    var_type = edit.var_type or settings.var_type(config.diffusion.var_type)
    if var_type == "learned_range":
        process = config.diffusion.process
        if process != "vp":  # what lets a network work on it drops its variance
            raise ValueError(
                f"var_type learned_range: not for process {process}; use fixed_small or fixed_large"
            )
        if config.model.out_channels == config.state_channels:
            raise ValueError(
                f"var_type learned_range: this network has {config.model.out_channels} output channels, none "
                "for its variance; use fixed_small or fixed_large"
            )
    return var_type
