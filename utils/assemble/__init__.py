"""What joins the rooms: a process, networks, and the methods on a batch; as a run, or from Python."""

from utils.assemble.edit_plan import plan_edit
from utils.assemble.editor import Editor
from utils.assemble.networks import load_network
from utils.assemble.processes import (
    SAMPLERS,
    read_config,
    read_trained,
    trained_alphas,
)
from utils.assemble.translate_plan import plan_translation
from utils.assemble.translator import Translator

__all__ = [
    "SAMPLERS",
    "Editor",
    "Translator",
    "load_network",
    "plan_edit",
    "plan_translation",
    "read_config",
    "read_trained",
    "trained_alphas",
]
