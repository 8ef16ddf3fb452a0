"""From a file or folder of weights to a config and a state dict, without running a line of it."""

from utils.weights.checkpoint import (
    Checkpoint,
    check_fits,
    describe_mismatch,
    is_of_schedule,
    load_weights,
    open_checkpoint,
    read_weights,
)
from utils.weights.diffusers_folder import WEIGHTS, find_weights
from utils.weights.diffusers_keys import modern
from utils.weights.diffusers_scheduler import read_diffusion
from utils.weights.diffusers_writer import write_folder
from utils.weights.edm_networks import describe_pickle
from utils.weights.json_file import build, read_json
from utils.weights.recognize import CONFIGS, Shelf, known_networks, read_config
from utils.weights.tensor_file import Stored, load_tensors, open_tensors

__all__ = [
    "CONFIGS",
    "WEIGHTS",
    "Checkpoint",
    "Shelf",
    "Stored",
    "build",
    "check_fits",
    "describe_mismatch",
    "describe_pickle",
    "find_weights",
    "is_of_schedule",
    "known_networks",
    "load_tensors",
    "load_weights",
    "modern",
    "open_checkpoint",
    "open_tensors",
    "read_config",
    "read_diffusion",
    "read_json",
    "read_weights",
    "write_folder",
]
