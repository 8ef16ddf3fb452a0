"""The tensors of NVlabs' ADM (the DhariwalUNet of their EDM) by openai's names, and in their layout."""

import re
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor

from utils.weights.tensor_file import Stored

_PLAIN = {
    "map_layer0": "time_embed.0",
    "map_layer1": "time_embed.2",
    "map_label": "label_emb",
    "out_norm": "out.0",
    "out_conv": "out.2",
}
_RES = {
    "norm0": "in_layers.0",
    "conv0": "in_layers.2",
    "affine": "emb_layers.1",
    "norm1": "out_layers.0",
    "conv1": "out_layers.3",
    "skip": "skip_connection",
}
_ATTENTION = {"norm2": "norm", "qkv": "qkv", "proj": "proj_out"}
_BLOCK = re.compile(r"(?P<half>enc|dec)\.(?P<size>\d+)x\d+_(?P<kind>conv|down|up|in|block)(?P<number>\d*)")
_FIRST = ("conv", "down", "up", "in")
"""What comes before the blocks of its resolution."""
MARK = "map_layer0.weight"
"""A key that every network of NVlabs' EDM has."""
_WITHOUT_USE = re.compile(r"(.*\.)?resample_filter|map_augment\..*")
_NORM = re.compile(r"norm\d?\.weight$|out_norm\.weight$")
_HEAD_CHANNELS, _LEAST_CHANNELS = 64, 128


def is_adm(keys: Iterable[str]) -> bool:
    """Whether keys, without the wrapper's prefix, are those of a DhariwalUNet."""
    return {"map_layer0.weight", "map_layer1.weight", "out_norm.weight", "out_conv.weight"} <= set(keys)


def check_groups(named: Mapping[str, Stored]) -> None:
    """Refuse a DhariwalUNet whose norms have groups of four channels, fewer groups than ours of `adm`.

    Raises:
        ValueError: It has fewer than 128 channels somewhere; the message is without the file's name.
    """
    least = min(stored.shape[0] for key, stored in named.items() if _NORM.search(key) and stored.shape)
    if least < _LEAST_CHANNELS:
        raise ValueError(
            f"a DhariwalUNet of {least} channels, whose norms have {least // 4} groups; such networks are "
            f"run from {_LEAST_CHANNELS} channels on, with 32"
        )


def to_adm(named: Mapping[str, Stored]) -> dict[str, Stored]:
    """Give the tensors of a DhariwalUNet the names and shapes of openai's UNet.

    Left out is what sampling has no use for: filters, all [1, 1], and the weights of augmentation labels.

    Args:
        named: By NVlabs' keys, without the prefix `model.` of the preconditioning around the network.

    Returns:
        By openai's keys, for a network of num_head_channels 64 in the new order of attention; what has
        no counterpart keeps its name.
    """
    modules = _PLAIN | dict(_module_pairs(named))
    renamed = {}
    for key, stored in named.items():
        if not _WITHOUT_USE.fullmatch(key):
            module, _, end = key.rpartition(".")
            renamed[f"{modules[module]}.{end}" if module in modules else key] = _to_adm(key, stored)
    return renamed


def _module_pairs(keys: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield NVlabs' and openai's name of every module below the blocks that keys name."""
    keys = set(keys)
    found = {match[0]: match for key in keys if (match := _BLOCK.match(key))}
    num_in = num_out = 0
    last = ""  # output block, with the numbers of its layers so far
    for name, match in sorted(found.items(), key=lambda item: _place(item[1])):
        attends = f"{name}.qkv.weight" in keys
        if match["half"] == "enc":
            place, num_in = f"input_blocks.{num_in}", num_in + 1
            layers = (f"{place}.0", f"{place}.1")
        elif match["kind"] == "in":
            layers = ("middle_block.0" if match["number"] == "0" else "middle_block.2", "middle_block.1")
        elif match["kind"] == "up":
            layers = (last, "")
        else:
            place, num_out = f"output_blocks.{num_out}", num_out + 1
            layers = (f"{place}.0", f"{place}.1")
            last = f"{place}.{2 if attends else 1}"
        if match["kind"] == "conv":
            yield name, layers[0]
        for theirs, ours in _RES.items():
            yield f"{name}.{theirs}", f"{layers[0]}.{ours}"
        for theirs, ours in _ATTENTION.items() if attends else ():
            yield f"{name}.{theirs}", f"{layers[1]}.{ours}"


def _place(match: re.Match) -> tuple:
    """Order blocks as data passes them: down to the smallest resolution and up again."""
    down = match["half"] == "enc"
    size = int(match["size"])
    return (not down, -size if down else size, match["kind"] not in _FIRST, int(match["number"] or 0))


def _to_adm(key: str, stored: Stored) -> Stored:
    if key == "map_label.weight":
        return Stored(torch.Size(stored.shape[::-1]), lambda: stored.read().T)
    if key.endswith((".qkv.weight", ".qkv.bias")):
        shape = stored.shape[:-1] if key.endswith("weight") else stored.shape
        return Stored(shape, lambda: _qkv_outermost(stored.read()).reshape(shape))
    if key.endswith(".proj.weight"):
        return Stored(stored.shape[:-1], lambda: stored.read().reshape(stored.shape[:-1]))
    return stored


def _qkv_outermost(rows: Tensor) -> Tensor:
    """Bring rows ordered (head, channel, q/k/v) into the order (q/k/v, head, channel)."""
    num_heads = max(len(rows) // 3 // _HEAD_CHANNELS, 1)  # each of more channels where 64 leaves a rest
    return rows.unflatten(0, (num_heads, -1, 3)).movedim(2, 0).flatten(0, 2)
