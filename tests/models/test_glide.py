"""GLIDE's networks against the numbers recorded from openai's program, and their published tensors."""

import gzip
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import build_empty
from models.glide import GLIDE, GLIDEConfig

GOLDEN = Path(__file__).resolve().parents[1] / "golden"


def config_of(raw: dict, upsampler: bool) -> GLIDEConfig:
    """Translate openai's arguments."""
    return GLIDEConfig(
        image_size=raw["image_size"],
        in_channels=6 if upsampler else 3,
        out_channels=6,
        model_channels=raw["num_channels"],
        channel_mult=tuple(raw["channel_mult"]),
        num_res_blocks=raw["num_res_blocks"],
        attention_resolutions=tuple(raw["image_size"] // factor for factor in raw["attention_ds"]),
        num_head_channels=raw["num_head_channels"],
        text_context=raw["text_ctx"],
        text_channels=raw["xf_width"],
        text_layers=raw["xf_layers"],
        text_heads=raw["xf_heads"],
        vocabulary=raw["n_vocab"],
        upsampler=upsampler,
    )


@pytest.mark.parametrize("name", ["base", "upsample"])
@pytest.mark.parametrize(
    ("dtype", "recorded", "limit"), [(torch.float64, "f64", 1e-9), (torch.float32, "f32", 5e-5)]
)
def test_outputs_are_the_recorded_ones(name, dtype, recorded, limit):
    facts = json.loads((GOLDEN / f"unet/glide_{name}.json").read_text())
    tensors = load_file(GOLDEN / f"unet/glide_{name}.safetensors")
    scales = {torch.int8: facts["int8_weight_scale"]}
    weights = {
        key.removeprefix("weights."): tensor.float() * scales.get(tensor.dtype, 1)
        for key, tensor in tensors.items()
        if key.startswith("weights.")
    }
    network = GLIDE(config_of(facts["config"], upsampler=name == "upsample"))
    network.load_state_dict(weights, strict=True)
    network = network.to(dtype).eval()
    small = [tensors["in0.low_res"].to(dtype)] if name == "upsample" else []
    with torch.inference_mode():
        states = network.read(tensors["in0.tokens"], tensors["in0.mask"])
        out = network(tensors["in0.x"].to(dtype), tensors["in0.t"], states, *small)
    assert out.dtype == dtype
    assert (out - tensors[f"out.0.{recorded}"]).abs().max() < limit  # measured 2e-14 and 2e-5


@pytest.mark.parametrize("name", ["base", "upsample"])
def test_tensors_are_those_of_the_published_file(name):
    with gzip.open(GOLDEN / f"manifests/glide_{name}.json.gz", "rt") as file:
        manifest = json.load(file)
    network = build_empty(config_of(manifest["config"], upsampler=name == "upsample"))
    found = {key: list(tensor.shape) for key, tensor in network.state_dict().items()}
    assert found == {key: shape for key, shape, _ in manifest["state_dict"]}
    assert sum(parameter.numel() for parameter in network.parameters()) == manifest["param_count"]
