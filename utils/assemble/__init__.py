"""What joins the rooms, for the commands and tools: a process, networks, and the methods on a batch."""

from utils.assemble.editor import Editor, choose_levels, describe_levels, edit_parameters
from utils.assemble.guidance import Guidance
from utils.assemble.networks import (
    Swap,
    check_same_images,
    load_network,
    settle_weights,
    unconditional_label,
)
from utils.assemble.processes import (
    SAMPLERS,
    make_process,
    make_solver,
    read_config,
    read_timesteps,
    read_trained,
)
from utils.assemble.returning import describe_loss
from utils.assemble.translator import Side, Translator

__all__ = [
    "SAMPLERS",
    "Editor",
    "Guidance",
    "Side",
    "Swap",
    "Translator",
    "check_same_images",
    "choose_levels",
    "describe_levels",
    "describe_loss",
    "edit_parameters",
    "load_network",
    "make_process",
    "make_solver",
    "read_config",
    "read_timesteps",
    "read_trained",
    "settle_weights",
    "unconditional_label",
]
