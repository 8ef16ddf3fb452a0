"""From folders of files to tensors, and from tensors back to files."""

from utils.images.inputs import PICTURES, WITH_PAIRS, Inputs, check_least, find_inputs, look_at, read_pair
from utils.images.labels import BY_FOLDER, Prompt, differs, read_classes, read_prompts
from utils.images.latents import LATENT_SUFFIX, Latents, encode_latent
from utils.images.map_values import read_mask, read_strengths
from utils.images.maps import PAIR_SUFFIX, Maps, Masks, find_masks, find_strengths, mask_tensor
from utils.images.paths import LATENTS, SHEETS, STRIPS, TRAJECTORIES, find_images, result_names
from utils.images.region_inputs import RegionInputs
from utils.images.regions import Marked, Regions
from utils.images.saving import PNG, RESULTS, Saving

__all__ = [
    "BY_FOLDER",
    "LATENTS",
    "LATENT_SUFFIX",
    "PAIR_SUFFIX",
    "PICTURES",
    "PNG",
    "RESULTS",
    "SHEETS",
    "STRIPS",
    "TRAJECTORIES",
    "WITH_PAIRS",
    "Inputs",
    "Latents",
    "Maps",
    "Marked",
    "Masks",
    "Prompt",
    "RegionInputs",
    "Regions",
    "Saving",
    "check_least",
    "differs",
    "encode_latent",
    "find_images",
    "find_inputs",
    "find_masks",
    "find_strengths",
    "look_at",
    "mask_tensor",
    "read_classes",
    "read_mask",
    "read_pair",
    "read_prompts",
    "read_strengths",
    "result_names",
]
