"""From a config to what samples: processes and levels, networks, guidance."""

from utils.sampling.budget import decoding_calls, edit_calls, encoding_calls, translation_timesteps
from utils.sampling.guidance import Guidance, Guide
from utils.sampling.networks import (
    Chosen,
    Network,
    Swap,
    check_same_images,
    find_network,
    load_network,
    move,
    settle,
    unconditional_label,
)
from utils.sampling.processes import (
    SAMPLERS,
    Trained,
    choose_timesteps,
    complete,
    make_process,
    make_solver,
    read_config,
    read_timesteps,
    read_trained,
    trained_alphas,
)
from utils.sampling.returning import describe_loss
from utils.sampling.sizing import Retrying, Sizing, check_place, find_sizes, find_sizing
from utils.sampling.spaces import PixelSpace
from utils.sampling.starts import Start, describe_starts, find_starts, name_level
from utils.sampling.texts import TextGuidance, TextGuide, make_guidance, refuse_text, tell
from utils.sampling.tick import Tick, ticking

__all__ = [
    "SAMPLERS",
    "Chosen",
    "Guidance",
    "Guide",
    "Network",
    "PixelSpace",
    "Retrying",
    "Sizing",
    "Start",
    "Swap",
    "TextGuidance",
    "TextGuide",
    "Tick",
    "Trained",
    "check_place",
    "check_same_images",
    "choose_timesteps",
    "complete",
    "decoding_calls",
    "describe_loss",
    "describe_starts",
    "edit_calls",
    "encoding_calls",
    "find_network",
    "find_sizes",
    "find_sizing",
    "find_starts",
    "load_network",
    "make_guidance",
    "make_process",
    "make_solver",
    "move",
    "name_level",
    "read_config",
    "read_timesteps",
    "read_trained",
    "refuse_text",
    "settle",
    "tell",
    "ticking",
    "trained_alphas",
    "translation_timesteps",
    "unconditional_label",
]
