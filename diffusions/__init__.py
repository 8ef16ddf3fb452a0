"""The mathematics: schedules, respacing, samplers, and the two methods built on them."""

from diffusions.ddib import decode, encode, translate
from diffusions.ddim import DDIM
from diffusions.ddpm import DDPM
from diffusions.respacing import respace
from diffusions.schedule import NoiseSchedule, make_schedule
from diffusions.sdedit import edit

__all__ = [
    "DDIM",
    "DDPM",
    "NoiseSchedule",
    "decode",
    "edit",
    "encode",
    "make_schedule",
    "respace",
    "translate",
]
