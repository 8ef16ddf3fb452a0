"""Times a call of a network: beside diffusers' of the same shape, and beside what the machine can do at all.

Everything is measured in turn in one run, so that a slow moment meets all alike: read the ratios.
"""

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
from torch.utils.flop_counter import FlopCounterMode

from models import CONFIG_CLASSES, build_model
from models.ddpm_unet import DDPMUNetConfig
from models.precision import cast_network
from utils.config import load_config

CONFIG = Path(__file__).resolve().parents[1] / "configs/pesser/pytorch_diffusion/ema_lsun_church.yaml"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
BASE = "float32 as built"

Call = Callable[[], object]


def main() -> None:
    """Parse the options, measure, print markdown tables."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.benchmark",
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--config", type=Path, default=CONFIG, help="of the network, which gets random weights")
    add("--batch_sizes", type=int, nargs="+", default=[1], help="a table each")
    add("--precisions", choices=DTYPES, nargs="+", default=["fp32", "bf16"])
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--compile", action="store_true", help="also our networks by torch.compile")
    add("--repeats", type=int, default=5, help="timed calls of each, in turn")
    args = parser.parse_args()
    diffusers.logging.set_verbosity_error()
    config = load_config(args.config, CONFIG_CLASSES).model
    dtypes = [DTYPES[name] for name in args.precisions]
    print(describe_machine(args.device))
    for batch_size in args.batch_sizes:
        networks = build_networks(config, dtypes, args.device, args.compile)
        inputs = draw_inputs(config, batch_size, args.device)
        calls = {name: bind(network, inputs) for name, network in networks.items()}
        gflops = count_gflops(calls[BASE]) / batch_size
        ceilings = {f"convolution {name(dtype)}": convolution(dtype, args.device) for dtype in dtypes}
        with torch.inference_mode():
            seconds = measure({**calls, **{key: call for key, (call, _) in ceilings.items()}}, args.repeats)
            memory = {name: peak_memory(call, args.device) for name, call in calls.items()}
        peak = {
            key: gflops_of / statistics.median(seconds.pop(key)) for key, (_, gflops_of) in ceilings.items()
        }
        size = config.image_size
        print(f"\n{args.config.stem}, batch of {batch_size} at {size}x{size}, {gflops:.0f} GFLOP an image, ")
        print(
            f"{args.repeats} calls each. Alone, " + ", ".join(f"{k} {v:.0f} GFLOP/s" for k, v in peak.items())
        )
        print()
        print(to_table(seconds, batch_size, gflops, peak, memory))


def name(dtype: torch.dtype) -> str:
    """Return the name of a precision."""
    return str(dtype).removeprefix("torch.")


def build_networks(
    config: object, dtypes: list[torch.dtype], device: str, compiled: bool
) -> dict[str, tuple[nn.Module, torch.dtype]]:
    """Build every network with the same kind of random weights, and the type of the images that it takes."""
    plain = randomize(build_model(config)).eval().to(device)
    networks = {BASE: (plain, torch.float32)}
    twin = randomize(diffusers_twin(config)).to(device) if isinstance(config, DDPMUNetConfig) else None
    for dtype in dtypes:
        if twin is not None:
            layout = torch.contiguous_format if dtype == torch.float32 else torch.channels_last
            theirs = copy.deepcopy(twin).to(dtype).to(memory_format=layout)
            networks[f"diffusers {name(dtype)}"] = theirs, dtype
        ours = cast_network(copy.deepcopy(plain), dtype)
        networks[f"ours {name(dtype)}"] = ours, torch.float32
        if compiled:
            networks[f"ours {name(dtype)} compiled"] = torch.compile(ours), torch.float32
    return networks


def draw_inputs(config: object, batch_size: int, device: str) -> list[torch.Tensor]:
    """Draw what the network takes: images, timesteps and, where it has classes, labels."""
    x = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size, device=device)
    t = torch.full((batch_size,), 500, device=device)
    classes = getattr(config, "num_classes", None)
    return [x, t] if classes is None else [x, t, torch.zeros_like(t)]


def bind(network: tuple[nn.Module, torch.dtype], inputs: list[torch.Tensor]) -> Call:
    """Return a call of a network on inputs, waited for."""
    module, dtype = network
    x, *rest = inputs
    low = x if dtype == torch.float32 else x.to(dtype, memory_format=torch.channels_last)

    def call() -> object:
        out = module(low, *rest)
        if x.is_cuda:
            torch.cuda.synchronize()
        return out

    return call


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


def count_gflops(call: Call) -> float:
    """Count the floating-point operations of a call, products and sums apart, in 1e9."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / 1e9


def convolution(dtype: torch.dtype, device: str, width: int = 256, size: int = 64) -> tuple[Call, float]:
    """Return a lone 3x3 convolution of a common shape, and its operations in 1e9."""
    x = torch.randn(4, width, size, size, device=device).to(dtype, memory_format=torch.channels_last)
    weight = torch.randn(width, width, 3, 3, device=device).to(dtype, memory_format=torch.channels_last)

    def call() -> object:
        out = torch.conv2d(x, weight, padding=1)
        if x.is_cuda:
            torch.cuda.synchronize()
        return out

    return call, 2 * 4 * size**2 * width**2 * 9 / 1e9


def peak_memory(call: Call, device: str) -> float | None:
    """Return how much memory a call needs beyond what is held, in MiB; None where that cannot be told."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        call()
        return (torch.cuda.max_memory_allocated() - held) / 2**20
    clear, status = Path("/proc/self/clear_refs"), Path("/proc/self/status")
    try:
        clear.write_text("5")  # begin a new peak, on Linux
        held = _status(status, "VmRSS")
        call()
        return _status(status, "VmHWM") - held
    except OSError:
        return None


def _status(path: Path, key: str) -> float:
    line = next(line for line in path.read_text().splitlines() if line.startswith(key))
    return int(line.split()[1]) / 1024


def to_table(
    seconds: dict[str, list[float]],
    batch_size: int,
    gflops: float,
    peak: dict[str, float],
    memory: dict[str, float | None],
) -> str:
    """Format medians, speedups over diffusers and over our network as built, share of the ceiling, memory.

    Args:
        seconds: Times of each network, paired.
        batch_size: Images a call.
        gflops: Operations an image, in 1e9.
        peak: GFLOP/s of a lone convolution, by 'convolution PRECISION'.
        memory: MiB that a call needs.
    """
    lines = [
        "| network | seconds an image | over float32 as built | over diffusers float32 "
        "| over diffusers, same precision | share of the convolution's speed | memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, times in seconds.items():
        dtype = "float32" if key == BASE else key.split()[1]
        median = statistics.median(times) / batch_size
        rivals = [BASE, "diffusers float32", f"diffusers {dtype}"]
        over = [f"{speedup(seconds[rival], times):.2f}x" if rival in seconds else "" for rival in rivals]
        share = (
            f"{gflops / median / peak[f'convolution {dtype}']:.0%}" if f"convolution {dtype}" in peak else ""
        )
        used = memory[key]
        cells = [key, f"{median:.3f}", *over, share, "" if used is None else f"{used:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_machine(device: str) -> str:
    """Name the processor, the threads and the versions."""
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}."
    if device.startswith("cuda"):
        return f"{torch.cuda.get_device_name()}; {versions}"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.partition(":")[2].strip() for line in info.read_text().splitlines() if "model name" in line
        ]
        cpu = names[0] if names else cpu
    return f"{cpu}, {torch.get_num_threads()} threads; {versions}"


if __name__ == "__main__":
    main()
