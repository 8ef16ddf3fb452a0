"""From options and config to the process that images are noised and denoised by."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from torch import Tensor

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    DPMSolver,
    FixedPointInversion,
    Heun,
    NoiseSchedule,
    PredictorCorrector,
    SourceInversion,
    as_ve,
    from_unit_range,
    make_schedule,
    make_ve_schedule,
    respace,
)
from diffusions.process import Model, Process
from diffusions.schedule import Schedule
from models import CONFIG_CLASSES
from utils import settings, weights
from utils.config import Config

SAMPLERS: dict[str, Callable[..., Process]] = {
    "ddim": DDIM,
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
    config = weights.read_config(path, CONFIG_CLASSES, overrides)
    if config.model.out_channels not in (config.model.in_channels, 2 * config.model.in_channels):
        raise ValueError(f"{path}: this network does not predict images; give the config of a UNet")
    try:
        read_trained(config)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return config


def read_trained(config: Config) -> Trained:
    """Build the schedule that a network works on.

    A VE schedule is in the units of images in [-1, 1], so its sigmas are twice the published ones.

    Raises:
        ValueError: The config's schedule is not possible.
    """
    diffusion = config.diffusion
    if diffusion.process == "ve":
        schedule = make_ve_schedule(2 * diffusion.sigma_min, 2 * diffusion.sigma_max, diffusion.num_timesteps)
        if diffusion.prediction == "score":
            return Trained(schedule, "score", from_unit_range)
        vp = _vp_schedule(config)
        return Trained(
            schedule, "eps", lambda network: as_ve(network, vp, diffusion.prediction), diffusion.clip
        )
    return Trained(_vp_schedule(config), diffusion.prediction, lambda network: network, diffusion.clip)


def trained_alphas(config: Config) -> Tensor | None:
    """Return alphas_cumprod of the table that a network was trained on, None where it had no betas."""
    return None if config.diffusion.schedule is None else _vp_schedule(config).alphas_cumprod


def _vp_schedule(config: Config) -> NoiseSchedule:
    diffusion = config.diffusion
    return make_schedule(
        diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end
    )


def read_timesteps(method: settings.Method, config: Config, default_steps: int | None) -> list[int]:
    """Choose the timesteps that the settings keep.

    Args:
        method: The settings.
        config: Of the network.
        default_steps: How many to keep where neither --respace_steps nor the --respace_type itself
            says so; None for all.

    Raises:
        ValueError: The respacing is not possible.
    """
    counted = method.respace_type in settings.RESPACE_TYPES and method.respace_type != "none"
    num_steps = method.respace_steps or (default_steps if counted else None)
    return respace(method.respace_type, config.diffusion.num_timesteps, num_steps)


def make_process(edit: settings.Edit, config: Config, trained: Trained, timesteps: list[int]) -> Process:
    """Build the sampler that the settings name.

    Raises:
        ValueError: Options that do not go together, or with this network.
    """
    return _make_sampler(edit, config, trained, timesteps).bounded(trained.clip)


def _make_sampler(edit: settings.Edit, config: Config, trained: Trained, timesteps: list[int]) -> Process:
    clip = trained.prediction != "score"  # as it was published
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
    translate: settings.Translate, trained: Trained, timesteps: list[int]
) -> tuple[Process, Process]:
    """Build what follows the ODE up and what follows it down, as the options name them."""
    given = (trained.schedule, timesteps, trained.prediction)
    if translate.solver == "cycle-diffusion":
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
        if config.diffusion.process == "ve":
            raise ValueError("var_type learned_range: not for a ve process; use fixed_small or fixed_large")
        if config.model.out_channels == config.model.in_channels:
            raise ValueError(
                f"var_type learned_range: this network has {config.model.out_channels} output channels, none "
                "for its variance; use fixed_small or fixed_large"
            )
    return var_type
