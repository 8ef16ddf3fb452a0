"""From a config to what samples: processes and levels, networks, guidance."""

from utils.sampling.guidance import Guidance, Guide
from utils.sampling.levels import choose_levels, describe_levels, name_level
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
    complete,
    counts_below_start,
    make_process,
    make_solver,
    read_config,
    read_timesteps,
    read_trained,
    start_timesteps,
    trained_alphas,
)
from utils.sampling.returning import describe_loss
from utils.sampling.sizing import Retrying, Sizing, check_place, find_sizes, find_sizing
from utils.sampling.spaces import PixelSpace
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
    "Swap",
    "TextGuidance",
    "TextGuide",
    "Tick",
    "Trained",
    "check_place",
    "check_same_images",
    "choose_levels",
    "complete",
    "counts_below_start",
    "describe_levels",
    "describe_loss",
    "find_network",
    "find_sizes",
    "find_sizing",
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
    "start_timesteps",
    "tell",
    "ticking",
    "trained_alphas",
    "unconditional_label",
]
