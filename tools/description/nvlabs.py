"""The networks of NVlabs/edm and edm2, whose keys name the size of every resolution."""

import math
import re
from collections.abc import Iterable, Iterator

from tools.description.fields import Fields, Guess
from tools.description.shapes import Shapes, multiples, with_size

_FIRST = re.compile(r"enc\.(\d+)x\1_conv\.weight")
_FILTERS = {2: [1, 1], 4: [1, 3, 3, 1]}
_HEADS = "not told; 64 is usual, where it divides the channels; channels_per_head of the training"


def named_size(keys: Iterable[str]) -> int | None:
    """Return the size of images that keys without a prefix name, None where they do not."""
    return next((int(found[1]) for key in keys if (found := _FIRST.fullmatch(key))), None)


def song_unet(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of EDM's SongUNet; see `NETWORKS`."""
    names = _resolutions(shapes)
    width, channels = shapes[f"enc.{names[0]}_conv.weight"][:2]
    fields = {
        "in_channels": channels,
        "out_channels": shapes[f"dec.{names[0]}_aux_conv.weight"][0],
        "model_channels": width,
        "channel_mult": multiples([shapes[f"enc.{name}_block0.conv1.weight"][0] for name in names], width),
        "num_res_blocks": _num_blocks(shapes, names),
        "attention_resolutions": [f"enc.{name}_block0.qkv.weight" in shapes for name in names],
    }
    if "map_label.weight" in shapes:
        fields["num_classes"] = shapes["map_label.weight"][1]
    fields["embedding"] = "fourier" if "map_noise.freqs" in shapes else "positional"
    fields["channel_mult_noise"] = shapes["map_layer0.weight"][1] // width
    if "map_augment.weight" in shapes:
        fields["augment_dim"] = shapes["map_augment.weight"][1]
    yield with_size(fields | _between(shapes, names), named_size(shapes))


def _between(shapes: Shapes, names: list[str]) -> dict:
    """Return what is told of the changes of size, of which there are none with one resolution."""
    if len(names) == 1:
        return {}
    taps = shapes[f"enc.{names[1]}_down.conv0.resample_filter"][-1]
    if taps not in _FILTERS:
        raise ValueError(f"its resample_filter has {taps} taps; allowed are [1, 1] and [1, 3, 3, 1]")
    kinds = {"residual": f"enc.{names[1]}_aux_residual.weight", "skip": f"enc.{names[1]}_aux_skip.weight"}
    return {
        "resample_filter": _FILTERS[taps],
        "encoder_type": next((kind for kind, key in kinds.items() if key in shapes), "standard"),
        "decoder_type": "skip" if f"dec.{names[1]}_aux_norm.weight" in shapes else "standard",
    }


def edm2_unet(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of EDM2's UNet; see `NETWORKS`.

    No tensor tells model_channels, but it counts only by its multiples: any that divides all widths will do.
    """
    names = _resolutions(shapes)
    widths = [shapes[f"enc.{name}_block0.conv_res1.weight"][0] for name in names]
    emb, noise = shapes["emb_noise.weight"]
    width = math.gcd(emb, noise, *widths)
    fields = {
        "in_channels": shapes[f"enc.{names[0]}_conv.weight"][1] - 1,
        "out_channels": shapes["out_conv.weight"][0],
        "model_channels": width,
        "channel_mult": multiples(widths, width),
        "num_res_blocks": _num_blocks(shapes, names),
        "attention_resolutions": [f"enc.{name}_block0.attn_qkv.weight" in shapes for name in names],
    }
    if "emb_label.weight" in shapes:
        fields["num_classes"] = shapes["emb_label.weight"][1]
    if noise != widths[0]:
        fields["channel_mult_noise"] = noise // width
    if emb != max(widths):
        fields["channel_mult_emb"] = emb // width
    attending = [n for n, on in zip(widths, fields["attention_resolutions"], strict=True) if on]
    shared = math.gcd(*attending, widths[-1])
    fields["num_head_channels"] = Guess(64 if not shared % 64 else shared, _HEADS)
    yield with_size(fields, named_size(shapes))


def _resolutions(shapes: Shapes) -> list[str]:
    """Return what the keys call the resolutions, from the finest down."""
    sizes = {int(found[1]) for key in shapes if (found := re.match(r"enc\.(\d+)x\1_block0\.", key))}
    return [f"{size}x{size}" for size in sorted(sizes, reverse=True)]


def _num_blocks(shapes: Shapes, names: list[str]) -> int:
    blocks = re.compile(rf"enc\.{names[0]}_block(\d+)\.")
    return len({found[1] for key in shapes if (found := blocks.match(key))})
