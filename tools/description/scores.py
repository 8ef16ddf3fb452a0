"""The networks that estimate scores: NCSN++ of score_sde, and the MLP-Mixer of galaxygrad."""

import math
from collections.abc import Iterator

from tools.description.fields import Fields, Guess
from tools.description.shapes import Shapes, count, multiples, with_size

_FIRST = 4  # of the numbered modules, behind the embedding and the first convolution
_KINDS = {
    "Dense_0.weight": "R",
    "NIN_0.W": "A",
    "Conv2d_0.weight": "P",
    "Conv_0.weight": "P",
    "weight": "",
}
"""Letters of kinds of modules, by a key, the first that it has: residual blocks, attention, shrunk images."""


def ncsnpp(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of score_sde's NCSN++; see `NETWORKS`."""
    if "sigmas" not in shapes:
        raise ValueError("it has no sigmas, as diffusers saves it; give the folder with its config.json")
    width = shapes["all_modules.0.W"][0]
    down = _modules(shapes).split("P")  # the last with the middle and the way up behind it
    last = len(down) - 1
    starts = [_FIRST + sum(len(part) + 1 for part in down[:i]) for i in range(len(down))]
    widths = [shapes[f"all_modules.{start}.Conv_0.weight"][0] for start in starts]
    num_blocks = down[0].count("R") - 1 if last else (down[0].count("R") - 3) // 2
    attends = ["A" in part for part in down[:last]] + [down[last][1] == "A"]
    convs = [key for key, shape in shapes.items() if key.count(".") == 2 and len(shape) == 4]
    fields = {
        "in_channels": shapes["all_modules.3.weight"][1],
        "out_channels": shapes[max(convs, key=_number)][0],
        "model_channels": width,
        "channel_mult": multiples(widths, width),
        "num_res_blocks": num_blocks,
        "attention_resolutions": attends,
        "num_scales": shapes["sigmas"][0],
    }
    residual = f"all_modules.{starts[1] - 1}.Conv2d_0.weight" in shapes if last else False
    if last:
        fields["progressive"] = "output_skip" if len(convs) > 2 else "none"
        fields["progressive_input"] = "residual" if residual else "input_skip"
    if not residual:
        fields["fir"] = Guess(True, "not told; true is usual; fir of the training")
    fields |= {
        "skip_rescale": Guess(True, "not told; true is usual; skip_rescale of the training"),
        "centered": Guess(
            False, "not told; false is usual; true of a network that takes images in [0, 1] as they are"
        ),
        "scale_by_sigma": Guess(True, "not told; true is usual; scale_by_sigma of the training"),
    }
    yield with_size(fields, image_size, _ncsnpp_size(attends))


def _modules(shapes: Shapes) -> str:
    """Return the kinds of all numbered modules from the first resolution on, a letter each."""
    last = max(_number(key) for key in shapes if key.startswith("all_modules."))
    numbers = range(_FIRST, min(last, len(shapes)) + 1)  # each has a tensor at least
    return "".join(_kind(shapes, f"all_modules.{i}.") for i in numbers)


def _number(key: str) -> int:
    return int(key.split(".")[1])


def _kind(shapes: Shapes, place: str) -> str:
    return next((kind for key, kind in _KINDS.items() if place + key in shapes), "?")


def _ncsnpp_size(attends: list[bool]) -> Guess:
    if sum(attends) == 1:
        return Guess(16 << attends.index(True), "usual, where 16 pixels attend")
    return Guess(2 << len(attends), f"usual for {len(attends)} resolutions")


def mixer(shapes: Shapes, image_size: int | None) -> Iterator[Fields]:
    """Yield the config of galaxygrad's MLP-Mixer; see `NETWORKS`."""
    hidden, channels, patch = shapes["conv_in.weight"][:3]
    num_patches, mix = shapes["blocks.0.patch_mixer.layers.0.weight"][::-1]
    yield {
        "image_size": math.isqrt(num_patches) * patch,
        "in_channels": channels - 1,
        "out_channels": shapes["conv_out.weight"][1],
        "patch_size": patch,
        "hidden": hidden,
        "num_blocks": count(shapes, "blocks"),
        "mix_patches": mix,
        "mix_hidden": shapes["blocks.0.hidden_mixer.layers.0.weight"][0],
        "t_end": Guess(10.0, "not told; 10 is usual; the last time of the training, as t_max below"),
    }
