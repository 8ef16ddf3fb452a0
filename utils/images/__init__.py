"""From folders of files to tensors, and from tensors back to files."""

from utils.images.decoder import WHITE, Convert, decode, decode_bytes, reading, to_rgb
from utils.images.formats import SUFFIXES
from utils.images.inputs import WITH_PAIRS, Inputs, check_least, find_inputs, look_at, read_pair
from utils.images.labels import differs, read_classes
from utils.images.latents import LATENT_SUFFIX, Latents, encode_latent
from utils.images.map_values import read_mask, read_strengths
from utils.images.maps import PAIR_SUFFIX, Maps, Masks, find_masks, find_strengths, mask_tensor
from utils.images.marks import make_mark, mark_options
from utils.images.original import Original, as_stored
from utils.images.paths import LATENTS, SHEETS, STRIPS, TRAJECTORIES, find_images, result_names
from utils.images.pictures import encode_apng, encode_png, fit, to_image, to_tensor
from utils.images.region_inputs import RegionInputs
from utils.images.regions import Marked, Regions
from utils.images.strips import column, cut_strip, labelled_strip, strip

__all__ = [
    "LATENTS",
    "LATENT_SUFFIX",
    "PAIR_SUFFIX",
    "SHEETS",
    "STRIPS",
    "SUFFIXES",
    "TRAJECTORIES",
    "WHITE",
    "WITH_PAIRS",
    "Convert",
    "Inputs",
    "Latents",
    "Maps",
    "Marked",
    "Masks",
    "Original",
    "RegionInputs",
    "Regions",
    "as_stored",
    "check_least",
    "column",
    "cut_strip",
    "decode",
    "decode_bytes",
    "differs",
    "encode_apng",
    "encode_latent",
    "encode_png",
    "find_images",
    "find_inputs",
    "find_masks",
    "find_strengths",
    "fit",
    "labelled_strip",
    "look_at",
    "make_mark",
    "mark_options",
    "mask_tensor",
    "read_classes",
    "read_mask",
    "read_pair",
    "read_strengths",
    "reading",
    "result_names",
    "strip",
    "to_image",
    "to_rgb",
    "to_tensor",
]
