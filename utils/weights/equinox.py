"""Networks that equinox saved: arrays without names, in the order of the network's leaves."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import torch
from torch import Tensor

from utils.sources import Array

_T_END = 10.0
"""What galaxygrad's networks take as their last time, which is the last array of their files."""
_ENDS = 2 * 2 + 2 + 1  # arrays beside those of the blocks: two convolutions, the last norm, the last time
_BLOCK = [
    *(f"{mixer}.layers.{layer}" for mixer in ("patch_mixer", "hidden_mixer") for layer in (0, 1)),
    "norm1",
    "norm2",
]
"""Layers of a block, each with a weight and a bias."""

Published = dict[str, tuple[torch.Size, Callable[[], Tensor]]]
"""Shape of each tensor and what reads it, by state-dict key."""


def to_published(arrays: Sequence[Array], read: Callable[[Array], Tensor]) -> Published:
    """Name the arrays of an MLP-Mixer of galaxygrad, and turn them as torch has them.

    Args:
        arrays: All of a file.
        read: Returns the numbers of an array.

    Raises:
        ValueError: They are of another network; the message is without the file's name.
    """
    num_blocks, rest = divmod(len(arrays) - _ENDS, 2 * len(_BLOCK))
    if rest or num_blocks < 1 or arrays[-1].shape != ():
        raise ValueError(_stranger(arrays))
    named = dict(zip(_names(num_blocks), arrays[:-1], strict=True))
    if any(not _has_form(key, array.shape) for key, array in named.items()):
        raise ValueError(_stranger(arrays))
    t_end = float(read(arrays[-1]))
    if t_end != _T_END:
        raise ValueError(
            f"its network takes times up to {t_end:g}, and of those that equinox saved only such up to "
            f"{_T_END:g} are read; save its state dict as .safetensors and give t_end in a config"
        )
    return {key: (_shape(key, array), partial(_turned, key, array, read)) for key, array in named.items()}


def _names(num_blocks: int) -> Iterator[str]:
    blocks = [f"blocks.{i}.{layer}" for i in range(num_blocks) for layer in _BLOCK]
    for layer in ("conv_in", "conv_out", *blocks, "norm"):
        yield from (f"{layer}.weight", f"{layer}.bias")


def _has_form(key: str, shape: tuple[int, ...]) -> bool:
    """Whether an array has the dimensions of the tensor that it stands for; the config tells sizes."""
    if key.startswith("conv"):
        return len(shape) == 4 if key.endswith("weight") else len(shape) == 3 and shape[1:] == (1, 1)
    return len(shape) == (1 if ".layers." in key and key.endswith("bias") else 2)


def _shape(key: str, array: Array) -> torch.Size:
    return _turn(key, torch.empty(array.shape, device="meta")).shape


def _turned(key: str, array: Array, read: Callable[[Array], Tensor]) -> Tensor:
    return _turn(key, read(array))


def _turn(key: str, tensor: Tensor) -> Tensor:
    if key == "conv_out.weight":  # equinox has [out, in, k, k], and does not flip its kernels
        return tensor.transpose(0, 1).flip(2, 3).contiguous()
    return tensor.flatten() if key in ("conv_in.bias", "conv_out.bias") else tensor


def _stranger(arrays: Sequence[Array]) -> str:
    first = ", ".join(str(list(array.shape)) for array in arrays[:3])
    return (
        f"{len(arrays)} NumPy arrays without names, the first of the shapes {first}: of networks that "
        "equinox saved only the MLP-Mixer of galaxygrad is known; save the state dict as .safetensors"
    )
