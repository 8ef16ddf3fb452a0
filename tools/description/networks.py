"""From the shapes of a network's tensors to the model section of its config.

Each family yields the sections that come into question, the likeliest first: how many blocks a
resolution has is not always told by one tensor, but by which of them gives all tensors.
"""

import re
from collections.abc import Callable, Iterator, Sequence

from tools.description.fields import Fields, Guess
from tools.description.nvlabs import edm2_unet, song_unet
from tools.description.scores import mixer, ncsnpp
from tools.description.shapes import Shapes, count, multiples, unet, with_size

_BLOCKS = (2, 3, 1, *range(4, 33))
"""Residual blocks a resolution, the usual ones first; no network has more."""


def adm(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield configs of openai's UNet; see `NETWORKS`."""
    for shared, attending, size in _encoders(shapes, image_size):
        fields = shared | {"out_channels": shapes["out.2.weight"][0]}
        if "label_emb.weight" in shapes:
            fields["num_classes"] = shapes["label_emb.weight"][0]
        yield with_size(fields, size) | _heads(fields, attending)


def adm_classifier(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield configs of openai's noisy classifier; see `NETWORKS`."""
    positions = shapes.get("out.2.positional_embedding")
    last = "out.3.weight" if positions is None else "out.2.c_proj.weight"
    for shared, attending, size in _encoders(shapes, image_size):
        if positions is not None:  # one for each at the coarsest resolution, and one for their mean
            size = round((positions[1] - 1) ** 0.5) << len(shared["channel_mult"]) - 1
        fields = shared | {"pool": "adaptive" if positions is None else "attention"}
        heads = _heads(fields, attending, per_head=positions is not None)
        yield with_size(fields | {"out_channels": shapes[last][0]}, size) | heads


def _encoders(shapes: Shapes, image_size: int | None) -> Iterator[tuple[dict, list[int], int | None]]:
    """Yield what ways down of ADM may be, the widths that attend, and the size of images where given."""
    total = 1 + max(int(found[1]) for key in shapes if (found := re.match(r"input_blocks\.(\d+)\.", key)))
    for num_blocks in _BLOCKS:
        first = range(1, total, num_blocks + 1)  # of each resolution
        convs = [shapes.get(f"input_blocks.{i}.0.in_layers.2.weight") for i in first]
        if total % (num_blocks + 1) or None in convs:
            continue
        attends = [f"input_blocks.{i}.1.qkv.weight" in shapes for i in first]
        widths, between = [conv[0] for conv in convs], num_blocks + 1
        fields = unet(shapes, "input_blocks.0.0.weight", "time_embed.0.weight", widths, num_blocks)
        fields["attention_resolutions"] = attends
        fields["use_scale_shift_norm"] = _shifts(shapes, "input_blocks.1.0", widths[0])
        if len(widths) > 1 and f"input_blocks.{between}.0.in_layers.2.weight" in shapes:
            fields["resblock_updown"] = True
        elif len(widths) > 1:
            fields["conv_resample"] = f"input_blocks.{between}.0.op.weight" in shapes
        if len(shapes["middle_block.1.qkv.weight"]) == 4:
            fields["use_conv2d_attention"] = True
        attending = [width for width, on in zip(widths, attends, strict=True) if on]
        yield fields, [*attending, widths[-1]], image_size


def _shifts(shapes: Shapes, block: str, width: int) -> bool:
    return shapes[f"{block}.emb_layers.1.weight"][0] == 2 * width


def _heads(fields: Fields, widths: Sequence[int], per_head: bool = False) -> dict[str, Guess]:
    """Guess the heads of an ADM network, which no tensor tells, from the programs that train such ones."""
    later = fields.get("resblock_updown", False) or per_head
    new = fields.get("use_conv2d_attention", False)
    why = "not told; {} is usual; num_heads or num_head_channels as the network was trained"
    if later and not any(width % 64 for width in widths):
        heads = {"num_head_channels": Guess(64, why.format("64 of guided-diffusion"))}
    elif per_head:
        heads = {"num_head_channels": Guess(min(widths), why.format("64 of guided-diffusion"))}
    elif any(width % 4 for width in widths):
        heads = {"num_heads": Guess(1, why.format("4 of improved-diffusion, where 4 divides the channels,"))}
    else:
        heads = {"num_heads": Guess(4, why.format("4 of improved-diffusion"))}
    order = "not told; false is usual in openai's diffusion programs, true in consistency_models"
    return heads | {"use_new_attention_order": Guess(new, order)}


def lucidrains_unet(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of lucidrains' UNet; see `NETWORKS`."""
    levels = count(shapes, "downs")
    width, (first, channels) = shapes["time_mlp.3.weight"][0] // 4, shapes["init_conv.weight"][:2]
    convs = [shapes[f"downs.{i}.3.{'1.' if i < levels - 1 else ''}weight"] for i in range(levels)]
    fields = {
        "in_channels": channels,
        "out_channels": shapes["final_conv.weight"][0],
        "model_channels": width,
        "channel_mult": multiples([conv[0] for conv in convs], width),
        "attention_resolutions": [f"downs.{i}.2.to_out.weight" in shapes for i in range(levels)],
        "num_heads": shapes["mid_attn.mem_kv"][1],
        "num_head_channels": shapes["mid_attn.mem_kv"][3],
    }
    if first != width:
        fields["init_channels"] = first
    if "time_mlp.0.weights" in shapes:
        fields["fourier_features"] = 2 * shapes["time_mlp.0.weights"][0]
    if channels in (2, 6):  # the images twice, of one or three channels
        fields |= {"in_channels": channels // 2, "self_condition": True}
    yield with_size(fields, image_size)


def ddpm_unet(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of the UNet of DDPM; see `NETWORKS`."""
    levels = range(count(shapes, "down"))
    widths, blocks = (
        [shapes[f"down.{i}.block.0.conv1.weight"][0] for i in levels],
        count(shapes, "down.0.block"),
    )
    fields = unet(shapes, "conv_in.weight", "temb.dense.0.weight", widths, blocks)
    fields["attention_resolutions"] = [f"down.{i}.attn.0.q.weight" in shapes for i in levels]
    fields["out_channels"] = shapes["conv_out.weight"][0]
    if len(widths) > 1:
        fields["conv_resample"] = "down.0.downsample.conv.weight" in shapes
    yield with_size(fields, image_size)


def xyf_unet(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of xyfJASON's UNet without classes; see `NETWORKS`."""
    why = "not told; 1 is usual; as the network was trained"
    yield with_size(_xyf(shapes) | {"num_heads": Guess(1, why)}, image_size)


def xyf_adagn(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of xyfJASON's UNet with classes; see `NETWORKS`."""
    fields = _xyf(shapes) | {"num_classes": shapes["class_embed.weight"][0]}
    width = min(mult * fields["model_channels"] for mult in fields["channel_mult"])
    why = "not told; 64 is usual, where it divides the channels; as the network was trained"
    yield with_size(fields | {"num_head_channels": Guess(64 if not width % 64 else width, why)}, image_size)


def _xyf(shapes: Shapes) -> dict:
    levels = range(count(shapes, "down_blocks"))
    # the finest resolution on the way up has one block more than any on the way down, and no other
    blocks = sum(f"up_blocks.{len(levels) - 1}.{j}.blk1.2.weight" in shapes for j in range(200)) - 1
    widths = [shapes[f"down_blocks.{i}.0.blk1.2.weight"][0] for i in levels]
    fields = unet(shapes, "first_conv.weight", "time_embed.1.weight", widths, blocks)
    fields["attention_resolutions"] = [f"down_blocks.{i}.1.q.weight" in shapes for i in levels]
    return fields | {"out_channels": shapes["last_conv.2.weight"][0]}


NETWORKS: dict[str, Callable[[Shapes, int | None], Iterator[Fields]]] = {
    "adm": adm,
    "adm_classifier": adm_classifier,
    "ddpm_unet": ddpm_unet,
    "edm2_unet": edm2_unet,
    "lucidrains_unet": lucidrains_unet,
    "mixer": mixer,
    "ncsnpp": ncsnpp,
    "song_unet": song_unet,
    "xyf_adagn": xyf_adagn,
    "xyf_unet": xyf_unet,
}
"""By family: from shapes, and the size of images where it is known, to model sections without a name."""
