"""The mathematics: schedules, respacing, samplers, and the two methods built on them."""

from diffusions.bdia import BDIA
from diffusions.consistency import Consistency, LatentConsistency
from diffusions.cycle_diffusion import cycle_translate, record_noise, replay_noise
from diffusions.ddib import decode, encode, translate
from diffusions.ddim import DDIM
from diffusions.ddpm import DDPM
from diffusions.dpm_solver import DPMSolver
from diffusions.flow_edit import flow_edit, follow_denoised, record_denoised
from diffusions.guidance import classifier_free, classifier_free_at_once, classifier_gradient
from diffusions.heun import Heun
from diffusions.interval import EVERYWHERE, Within, is_within
from diffusions.inversion import FixedPointInversion, SourceInversion
from diffusions.pairs import carry_latent
from diffusions.preconditioning import precondition
from diffusions.respacing import karras_sigmas, match_timesteps, respace
from diffusions.schedule import NoiseSchedule, make_schedule
from diffusions.sdedit import distance, edit, edit_within, levels_walked
from diffusions.ve import (
    PredictorCorrector,
    as_ve,
    from_unit_range,
    make_karras_schedule,
    make_ve_schedule,
)
from diffusions.vp_sde import VPSDE

__all__ = [
    "BDIA",
    "DDIM",
    "DDPM",
    "EVERYWHERE",
    "VPSDE",
    "Consistency",
    "DPMSolver",
    "FixedPointInversion",
    "Heun",
    "LatentConsistency",
    "NoiseSchedule",
    "PredictorCorrector",
    "SourceInversion",
    "Within",
    "as_ve",
    "carry_latent",
    "classifier_free",
    "classifier_free_at_once",
    "classifier_gradient",
    "cycle_translate",
    "decode",
    "distance",
    "edit",
    "edit_within",
    "encode",
    "flow_edit",
    "follow_denoised",
    "from_unit_range",
    "is_within",
    "karras_sigmas",
    "levels_walked",
    "make_karras_schedule",
    "make_schedule",
    "make_ve_schedule",
    "match_timesteps",
    "precondition",
    "record_denoised",
    "record_noise",
    "replay_noise",
    "respace",
    "translate",
]
