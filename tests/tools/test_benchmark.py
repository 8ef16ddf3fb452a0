"""The benchmark compares networks of the same shape, and computes its table rightly."""

import pytest
import torch

pytest.importorskip("diffusers")

from models import build_model
from models.adm import ADMConfig
from models.ddpm_unet import DDPMUNetConfig
from tests.commands.command_case import MODEL
from tools.benchmark import (
    BASE,
    bind,
    build_networks,
    convolution,
    count_gflops,
    diffusers_twin,
    draw_inputs,
    measure,
    speedup,
    to_table,
)

TINY = DDPMUNetConfig(
    image_size=8, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)


def test_twin_has_the_same_tensors():
    with torch.device("meta"):
        networks = build_model(TINY), diffusers_twin(TINY)
    ours, theirs = (sorted(p.numel() for p in network.parameters()) for network in networks)
    assert ours == theirs


def test_contenders_run_in_turn():
    networks = build_networks(TINY, [torch.float32, torch.bfloat16], "cpu", compiled=False)
    inputs = draw_inputs(TINY, 2, "cpu")
    calls = {key: bind(network, inputs) for key, network in networks.items()}
    with torch.inference_mode():
        seconds = measure(calls, repeats=2)
    assert list(seconds) == [
        BASE,
        *("diffusers float32", "ours float32", "diffusers bfloat16", "ours bfloat16"),
    ]
    assert all(len(times) == 2 and min(times) > 0 for times in seconds.values())
    with torch.inference_mode():
        x = calls["ours float32"]()
        torch.testing.assert_close(calls[BASE](), x, rtol=1e-4, atol=1e-4)


def test_a_network_with_classes_is_measured_without_a_rival():
    config = ADMConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in MODEL.items()})
    networks = build_networks(config, [torch.float32], "cpu", compiled=False)
    assert list(networks) == [BASE, "ours float32"]
    calls = [bind(network, draw_inputs(config, 1, "cpu")) for network in networks.values()]
    assert count_gflops(calls[0]) > 0.01


def test_operations_of_a_convolution_are_counted_as_torch_counts_them():
    call, gflops = convolution(torch.float32, "cpu", width=8, size=8)
    assert count_gflops(call) == pytest.approx(gflops)


def test_table_holds_medians_and_paired_ratios():
    assert speedup([4.0, 9.0, 8.0], [2.0, 3.0, 2.0]) == 3.0
    seconds = {
        BASE: [4.0, 4.0, 4.0],
        "diffusers float32": [4.0, 4.0, 9.0],
        "ours float32": [2.0, 2.0, 3.0],
        "diffusers bfloat16": [2.0, 2.0, 2.0],
        "ours bfloat16": [1.0, 1.0, 1.0],
    }
    peak = {"convolution float32": 50.0, "convolution bfloat16": 400.0}
    memory = dict.fromkeys(seconds, 7.0) | {"ours float32": None}
    lines = to_table(seconds, 2, 100.0, peak, memory).splitlines()
    assert lines[3] == "| diffusers float32 | 2.000 | 1.00x | 1.00x | 1.00x | 100% | 7 |"
    assert lines[4] == "| ours float32 | 1.000 | 2.00x | 2.00x | 2.00x | 200% |  |"
    assert lines[6] == "| ours bfloat16 | 0.500 | 4.00x | 4.00x | 2.00x | 50% | 7 |"
