"""From files of more than 8 bits to arrays of numbers, and back."""

from utils.arrays import fits, npy, png16, tiff
from utils.arrays.icc_curves import read_curves
from utils.arrays.refused import RefusedError

__all__ = ["RefusedError", "fits", "npy", "png16", "read_curves", "tiff"]
