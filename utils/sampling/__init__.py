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
    CONSISTENCY,
    SAMPLERS,
    Trained,
    complete,
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
from utils.sampling.tick import Tick, ticking

__all__ = [
    "CONSISTENCY",
    "SAMPLERS",
    "Chosen",
    "Guidance",
    "Guide",
    "Network",
    "Retrying",
    "Sizing",
    "Swap",
    "Tick",
    "Trained",
    "check_place",
    "check_same_images",
    "choose_levels",
    "complete",
    "describe_levels",
    "describe_loss",
    "find_network",
    "find_sizes",
    "find_sizing",
    "load_network",
    "make_process",
    "make_solver",
    "move",
    "name_level",
    "read_config",
    "read_timesteps",
    "read_trained",
    "settle",
    "start_timesteps",
    "ticking",
    "trained_alphas",
    "unconditional_label",
]
