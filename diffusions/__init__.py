"""The mathematics: schedules, respacing, samplers, and the two methods built on them."""

from diffusions.ddib import decode, encode, translate
from diffusions.ddim import DDIM
from diffusions.ddpm import DDPM
from diffusions.dpm_solver import DPMSolver
from diffusions.guidance import classifier_free, classifier_gradient
from diffusions.respacing import respace
from diffusions.schedule import NoiseSchedule, make_schedule
from diffusions.sdedit import distance, edit, edit_within
from diffusions.ve import PredictorCorrector, as_ve, from_unit_range, make_ve_schedule

__all__ = [
    "DDIM",
    "DDPM",
    "DPMSolver",
    "NoiseSchedule",
    "PredictorCorrector",
    "as_ve",
    "classifier_free",
    "classifier_gradient",
    "decode",
    "distance",
    "edit",
    "edit_within",
    "encode",
    "from_unit_range",
    "make_schedule",
    "make_ve_schedule",
    "respace",
    "translate",
]
