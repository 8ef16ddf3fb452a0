"""Times a call of the DDPM UNet beside diffusers' network of the same shape: python -m tools.benchmark."""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import diffusers
import torch
from torch import nn

from models import MODELS, build_model
from models.ddpm_unet import DDPMUNetConfig
from models.precision import cast_network
from utils.config import load_config

CONFIG = Path(__file__).resolve().parents[1] / "configs/pesser/pytorch_diffusion/ema_lsun_church.yaml"


def main() -> None:
    """Parse the options, measure, print a markdown table."""
    parser = argparse.ArgumentParser(prog="python -m tools.benchmark", description=__doc__)
    parser.add_argument("--config", type=Path, default=CONFIG, help="a config whose model is a ddpm_unet")
    parser.add_argument("--batch_size", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5, help="timed calls of each network, interleaved")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    config = load_config(args.config, {"ddpm_unet": MODELS["ddpm_unet"][0]}).model
    contenders = build_contenders(config, args.batch_size)
    with torch.inference_mode():
        seconds = measure(contenders, args.repeats)
    print(describe_machine())
    print(
        f"Batch of {args.batch_size} at {config.image_size}x{config.image_size}, {args.repeats} calls each.\n"
    )
    print(to_table(seconds, args.batch_size))


def build_contenders(config: DDPMUNetConfig, batch_size: int) -> dict[str, Callable[[], object]]:
    """Build every network with random weights, each as a callable of nothing."""
    x = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size)
    t = torch.full((batch_size,), 500)
    ours, theirs = randomize(build_model(config)), randomize(diffusers_twin(config))
    low = copy.deepcopy(theirs).to(torch.bfloat16).to(memory_format=torch.channels_last)
    x_low = x.to(torch.bfloat16, memory_format=torch.channels_last)
    ours_low = cast_network(copy.deepcopy(ours), torch.bfloat16)
    ours = cast_network(ours, torch.float32)
    return {
        "diffusers float32": lambda: theirs(x, t),
        "ours float32": lambda: ours(x, t),
        "diffusers bfloat16": lambda: low(x_low, t),
        "ours bfloat16": lambda: ours_low(x, t),
    }


def diffusers_twin(config: DDPMUNetConfig) -> nn.Module:
    """Build diffusers' UNet2DModel with the layers of a ddpm_unet, as google/ddpm-* are published."""
    sizes = [config.image_size >> level for level in range(len(config.channel_mult))]
    attends = ["Attn" if size in config.attention_resolutions else "" for size in sizes]
    return diffusers.UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=[mult * config.model_channels for mult in config.channel_mult],
        down_block_types=[f"{attn}DownBlock2D" for attn in attends],
        up_block_types=[f"{attn}UpBlock2D" for attn in reversed(attends)],
        layers_per_block=config.num_res_blocks,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
    ).eval()


def randomize(network: nn.Module) -> nn.Module:
    """Fill the weights with noise, so that no branch is zero."""
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


def measure(contenders: dict[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Time the calls in turn, so that a slow moment of the machine meets all of them alike."""
    for call in contenders.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, call in contenders.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    return seconds


def speedup(slow: list[float], fast: list[float]) -> float:
    """Return the median ratio of the paired times."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def to_table(seconds: dict[str, list[float]], batch_size: int) -> str:
    """Format the medians and the speedups over diffusers, in float32 and in the same precision."""
    lines = [
        "| network | seconds a call and image | over diffusers float32 | over diffusers, same precision |",
        "|---|---|---|---|",
    ]
    for name, times in seconds.items():
        over_float32 = speedup(seconds["diffusers float32"], times)
        over_same = speedup(seconds[f"diffusers {name.split()[1]}"], times)
        median = statistics.median(times) / batch_size
        lines.append(f"| {name} | {median:.3f} | {over_float32:.2f}x | {over_same:.2f}x |")
    return "\n".join(lines)


def describe_machine() -> str:
    """Name the CPU, the threads and the versions."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return (
        f"{cpu}, {torch.get_num_threads()} threads; torch {torch.__version__}, "
        f"diffusers {diffusers.__version__}."
    )


if __name__ == "__main__":
    main()
