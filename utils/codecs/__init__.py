"""From picture files to pixels, and back."""

from utils.codecs.decoder import (
    IN_FLIGHT,
    WHITE,
    Convert,
    Timing,
    decode,
    decode_bytes,
    frames,
    look,
    open_file,
    read_timing,
    reading,
    to_rgb,
)
from utils.codecs.depth import is_deep, to_8_bits
from utils.codecs.effort import MAX_PIXELS
from utils.codecs.formats import SUFFIXES, AnimatedError, RefusedError
from utils.codecs.marks import make_mark, mark_options
from utils.codecs.original import Box, Original, as_stored, cut
from utils.codecs.pictures import Clip, encode_apng, encode_png, fit, to_image, to_tensor
from utils.codecs.strips import column, cut_strip, labelled_strip, strip

__all__ = [
    "IN_FLIGHT",
    "MAX_PIXELS",
    "SUFFIXES",
    "WHITE",
    "AnimatedError",
    "Box",
    "Clip",
    "Convert",
    "Original",
    "RefusedError",
    "Timing",
    "as_stored",
    "column",
    "cut",
    "cut_strip",
    "decode",
    "decode_bytes",
    "encode_apng",
    "encode_png",
    "fit",
    "frames",
    "is_deep",
    "labelled_strip",
    "look",
    "make_mark",
    "mark_options",
    "open_file",
    "read_timing",
    "reading",
    "strip",
    "to_8_bits",
    "to_image",
    "to_rgb",
    "to_tensor",
]
