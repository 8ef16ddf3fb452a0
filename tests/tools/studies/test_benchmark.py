"""The benchmark compares networks of the same shape, and computes its table rightly."""

import pytest
import torch

pytest.importorskip("diffusers")

from models import build_model
from models.adm import ADMConfig
from models.ddpm_unet import DDPMUNetConfig
from tests.commands.command_case import MODEL
from tools.studies.benchmark import measure, speedup, to_table
from tools.studies.contenders import (
    BASE,
    CONVOLUTION,
    Contender,
    bind,
    choose_contenders,
    convolution_gflops,
    count_gflops,
    diffusers_twin,
)

TINY = DDPMUNetConfig(
    image_size=8, model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_resolutions=(4,)
)
OURS, LONE = Contender("ours", torch.float32), Contender("convolution", torch.float32)
THEIRS, THEIRS_KEPT = (Contender("diffusers", torch.float32, keeps) for keeps in (False, True))


def test_twin_has_the_same_tensors():
    with torch.device("meta"):
        networks = build_model(TINY), diffusers_twin(TINY)
    ours, theirs = (sorted(p.numel() for p in network.parameters()) for network in networks)
    assert ours == theirs


def test_contenders_are_all_precisions_of_both():
    contenders = choose_contenders(TINY, [torch.float32, torch.bfloat16], compiled=True)
    assert [contender.name for contender in contenders] == [
        "as built, float32",
        *("diffusers, float32", "diffusers, float32, freed memory kept"),
        *("ours compiled, float32", "ours, float32", "convolution, float32"),
        *("diffusers, bfloat16", "diffusers, bfloat16, freed memory kept"),
        *("ours compiled, bfloat16", "ours, bfloat16", "convolution, bfloat16"),
    ]


def test_as_built_and_as_cast_are_the_same_network():
    with torch.inference_mode():
        results = [bind(contender, TINY, 2, "cpu")() for contender in (BASE, OURS)]
        low = bind(Contender("diffusers", torch.bfloat16), TINY, 2, "cpu")().sample
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-4)
    assert low.dtype == torch.bfloat16


def test_a_network_with_classes_is_measured_without_a_rival():
    config = ADMConfig(**{key: tuple(v) if isinstance(v, list) else v for key, v in MODEL.items()})
    contenders = choose_contenders(config, [torch.float32], compiled=False)
    assert contenders == [BASE, OURS, LONE]
    contenders = contenders[1:]  # each is a process
    seconds, memory = measure(contenders, config, batch_size=1, device="cpu", repeats=2)
    assert all(len(seconds[contender]) == 2 and min(seconds[contender]) > 0 for contender in contenders)
    assert all(memory[contender] > 50 for contender in contenders)
    assert count_gflops(config) > 0.01


def test_operations_of_a_convolution_are_counted_as_torch_counts_them():
    with torch.device("meta"), torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        width = CONVOLUTION[1]
        torch.conv2d(torch.empty(CONVOLUTION), torch.empty(width, width, 3, 3), padding=1)
    assert counter.get_total_flops() == convolution_gflops() * 1e9


def test_table_holds_medians_and_paired_ratios():
    assert speedup([4.0, 9.0, 8.0], [2.0, 3.0, 2.0]) == 3.0
    seconds = {
        BASE: [4.0, 4.0, 4.0],
        THEIRS: [6.0, 6.0, 9.0],
        THEIRS_KEPT: [4.0, 4.0, 9.0],
        OURS: [2.0, 2.0, 3.0],
        LONE: [0.2, 0.1, 0.1],
    }
    memory = dict.fromkeys(seconds, 7.0) | {OURS: None}
    lines = to_table(seconds, memory, 2, 100.0).splitlines()
    peak = convolution_gflops() / 0.1
    assert (
        lines[3]
        == f"| diffusers, float32 | 3.000 | 0.67x | 1.00x | 1.00x | 0.67x | 33 | {33.3 / peak:.0%} | 7 |"
    )
    assert (
        lines[5] == f"| ours, float32 | 1.000 | 2.00x | 3.00x | 3.00x | 2.00x | 100 | {100 / peak:.0%} |  |"
    )
    assert lines[6] == f"| convolution, float32 |  |  |  |  |  | {peak:.0f} |  |  |"
