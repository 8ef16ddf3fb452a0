"""The tensors of diffusers' UNet2DModel by their published names, and back."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

_OLD_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}  # before 2023

_LEAVES = {
    "ddpm_unet": {
        "res": {
            "norm1": "norm1",
            "conv1": "conv1",
            "temb_proj": "time_emb_proj",
            "norm2": "norm2",
            "conv2": "conv2",
            "nin_shortcut": "conv_shortcut",
        },
        "attn": {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"},
    },
    "ncsnpp": {
        "res": {
            "GroupNorm_0": "norm1",
            "Conv_0": "conv1",
            "Dense_0": "time_emb_proj",
            "GroupNorm_1": "norm2",
            "Conv_1": "conv2",
            "Conv_2": "conv_shortcut",
        },
        "attn": {
            "GroupNorm_0": "group_norm",
            "NIN_0": "to_q",
            "NIN_1": "to_k",
            "NIN_2": "to_v",
            "NIN_3": "to_out.0",
        },
        "skip": {"Conv_0": ""},
    },
}

Module = tuple[str, str, str]
"""Published prefix, prefix of diffusers, and kind: res, attn, skip or plain."""


@dataclass(frozen=True)
class Structure:
    """What decides the names of a UNet's tensors."""

    num_levels: int
    num_res_blocks: int
    """Of each level on the way down; one more on the way up."""
    attention_levels: frozenset[int]
    """Counted from the finest."""

    @classmethod
    def of(cls, keys: Iterable[str]) -> "Structure":
        """Read it off the keys of diffusers."""
        found = [re.match(r"down_blocks\.(\d+)\.(resnets|attentions)\.(\d+)\.", key) for key in keys]
        blocks = {(int(m[1]), m[2], int(m[3])) for m in found if m}
        return cls(
            len({level for level, _, _ in blocks}),
            sum(level == 0 and kind == "resnets" for level, kind, _ in blocks),
            frozenset(level for level, kind, _ in blocks if kind == "attentions"),
        )


def modern(key: str) -> str:
    """Return today's name of a key that diffusers once wrote otherwise."""
    if key == "time_proj.W":
        return "time_proj.weight"
    head, block, tail = key.rpartition(".attentions.")
    number, _, rest = tail.partition(".")
    layer, _, leaf = rest.partition(".")
    return f"{head}{block}{number}.{_OLD_NAMES[layer]}.{leaf}" if layer in _OLD_NAMES else key


def key_pairs(family: str, structure: Structure) -> dict[str, str]:
    """Return the key of diffusers for each published key that the network may have.

    Args:
        family: ddpm_unet or ncsnpp.
        structure: Of the network.

    Returns:
        Mapping in the published order. A shortcut is named for every block, also for those without.
    """
    modules = _ddpm_modules if family == "ddpm_unet" else _ncsnpp_modules
    pairs = {}
    for published, theirs, kind in modules(structure):
        for leaf, name in _LEAVES[family].get(kind, {"": ""}).items():
            for end in ("weight", "bias"):
                ours = {"weight": "W", "bias": "b"}[end] if leaf.startswith("NIN") else end
                pairs[_join(published, leaf, ours)] = _join(theirs, name, end)
    if family == "ncsnpp":
        del pairs["all_modules.0.weight"], pairs["all_modules.0.bias"]
        pairs = {"all_modules.0.W": "time_proj.weight", **pairs}
    return pairs


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)


def _ddpm_modules(structure: Structure) -> Iterator[Module]:
    last = structure.num_levels - 1
    yield "temb.dense.0", "time_embedding.linear_1", "plain"
    yield "temb.dense.1", "time_embedding.linear_2", "plain"
    yield "conv_in", "conv_in", "plain"
    for level in range(last + 1):
        yield from _ddpm_level(structure, f"down.{level}", f"down_blocks.{level}", level, 0)
        if level < last:
            yield f"down.{level}.downsample.conv", f"down_blocks.{level}.downsamplers.0.conv", "plain"
    yield "mid.block_1", "mid_block.resnets.0", "res"
    yield "mid.attn_1", "mid_block.attentions.0", "attn"
    yield "mid.block_2", "mid_block.resnets.1", "res"
    for level in range(last + 1):  # diffusers counts them from the coarsest
        yield from _ddpm_level(structure, f"up.{level}", f"up_blocks.{last - level}", level, 1)
        if level > 0:
            yield f"up.{level}.upsample.conv", f"up_blocks.{last - level}.upsamplers.0.conv", "plain"
    yield "norm_out", "conv_norm_out", "plain"
    yield "conv_out", "conv_out", "plain"


def _ddpm_level(structure: Structure, ours: str, theirs: str, level: int, more: int) -> Iterator[Module]:
    for i in range(structure.num_res_blocks + more):
        yield f"{ours}.block.{i}", f"{theirs}.resnets.{i}", "res"
    if level in structure.attention_levels:
        for i in range(structure.num_res_blocks + more):
            yield f"{ours}.attn.{i}", f"{theirs}.attentions.{i}", "attn"


def _ncsnpp_modules(structure: Structure) -> Iterator[Module]:
    for i, (theirs, kind) in enumerate(_ncsnpp_in_order(structure)):
        yield f"all_modules.{i}", theirs, kind


def _ncsnpp_in_order(structure: Structure) -> Iterator[tuple[str, str]]:
    last = structure.num_levels - 1
    yield "time_proj", "plain"
    yield "time_embedding.linear_1", "plain"
    yield "time_embedding.linear_2", "plain"
    yield "conv_in", "plain"
    for level in range(last + 1):
        block = f"down_blocks.{level}"
        for i in range(structure.num_res_blocks):
            yield f"{block}.resnets.{i}", "res"
            if level in structure.attention_levels:
                yield f"{block}.attentions.{i}", "attn"
        if level < last:
            yield f"{block}.resnet_down", "res"
            yield f"{block}.skip_conv", "skip"
    yield "mid_block.resnets.0", "res"
    yield "mid_block.attentions.0", "attn"
    yield "mid_block.resnets.1", "res"
    for level in reversed(range(last + 1)):
        block = f"up_blocks.{last - level}"
        for i in range(structure.num_res_blocks + 1):
            yield f"{block}.resnets.{i}", "res"
        if level in structure.attention_levels:
            yield f"{block}.attentions.0", "attn"
        yield f"{block}.skip_norm" if level else "conv_norm_out", "plain"
        yield f"{block}.skip_conv" if level else "conv_out", "plain"
        if level:
            yield f"{block}.resnet_up", "res"
