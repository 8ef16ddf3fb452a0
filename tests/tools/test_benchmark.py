"""The benchmark compares networks of the same shape, and computes its table rightly."""

import pytest
import torch

pytest.importorskip("diffusers")

from models import build_model
from models.ddpm_unet import DDPMUNetConfig
from tools.benchmark import build_contenders, diffusers_twin, measure, speedup, to_table

TINY = DDPMUNetConfig(
    image_size=8, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)


def test_twin_has_the_same_tensors():
    with torch.device("meta"):
        networks = build_model(TINY), diffusers_twin(TINY)
    ours, theirs = (sorted(p.numel() for p in network.parameters()) for network in networks)
    assert ours == theirs


def test_contenders_run_in_turn():
    with torch.inference_mode():
        seconds = measure(build_contenders(TINY, batch_size=2), repeats=2)
    assert list(seconds) == ["diffusers float32", "ours float32", "diffusers bfloat16", "ours bfloat16"]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())


def test_table_holds_medians_and_paired_ratios():
    assert speedup([4.0, 9.0, 8.0], [2.0, 3.0, 2.0]) == 3.0
    seconds = {
        "diffusers float32": [4.0, 4.0, 9.0],
        "ours float32": [2.0, 2.0, 3.0],
        "diffusers bfloat16": [2.0, 2.0, 2.0],
        "ours bfloat16": [1.0, 1.0, 1.0],
    }
    lines = to_table(seconds, batch_size=2).splitlines()
    assert lines[2] == "| diffusers float32 | 2.000 | 1.00x | 1.00x |"
    assert lines[3] == "| ours float32 | 1.000 | 2.00x | 2.00x |"
    assert lines[5] == "| ours bfloat16 | 0.500 | 4.00x | 2.00x |"
