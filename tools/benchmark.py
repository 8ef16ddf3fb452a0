"""Times a call of a network: beside diffusers' of the same shape, and beside what the machine can do at all.

Every contender has a process of its own, as its users give it one, and they call in turn, so that a slow
moment of the machine meets all alike: read the ratios.
"""

import argparse
import multiprocessing
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import diffusers
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import CONFIG_CLASSES, build_empty, build_model
from models.compiled import CompiledNetwork
from models.ddpm_unet import DDPMUNetConfig
from models.layers import UNetConfig
from models.precision import cast_network
from utils import jobs
from utils.config import load_config

CONFIG = Path(__file__).resolve().parents[1] / "configs/pesser/pytorch_diffusion/ema_lsun_church.yaml"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CONVOLUTION = (4, 256, 64, 64)
"""Images of the lone 3x3 convolution that stands for what the machine can do, [B, C, H, W]."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """What is timed."""

    kind: str
    """ours, ours compiled, as built (ours, neither cast nor laid out), diffusers, or convolution."""
    dtype: torch.dtype
    keeps: bool = True
    """Its process keeps the memory that it frees, as those of the commands do."""

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        kept = ", freed memory kept" if self.keeps and self.kind == "diffusers" else ""
        return f"{self.kind}, {str(self.dtype).removeprefix('torch.')}{kept}"


BASE = Contender("as built", torch.float32)


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
    config = load_config(args.config, CONFIG_CLASSES).model
    contenders = choose_contenders(config, [DTYPES[key] for key in args.precisions], args.compile)
    gflops = count_gflops(config)
    print(describe_machine(args.device))
    for batch_size in args.batch_sizes:
        seconds, memory = measure(contenders, config, batch_size, args.device, args.repeats)
        title = f"{args.config.stem}, batch of {batch_size} at {config.image_size}x{config.image_size}"
        print(f"\n{title}, {gflops:.0f} GFLOP an image, {args.repeats} calls each.\n")
        print(to_table(seconds, memory, batch_size, gflops), flush=True)


def choose_contenders(config: UNetConfig, dtypes: list[torch.dtype], compiled: bool) -> list[Contender]:
    """List what is compared, in the order of the table; diffusers' where it has the same network."""
    contenders = [BASE]
    for dtype in dtypes:
        if isinstance(config, DDPMUNetConfig):
            contenders += [Contender("diffusers", dtype, keeps) for keeps in (False, True)]
        contenders += [Contender("ours compiled", dtype)] if compiled else []
        contenders += [Contender("ours", dtype), Contender("convolution", dtype)]
    return contenders


def bind(contender: Contender, config: UNetConfig, batch_size: int, device: str) -> Call:
    """Return a call of a contender, waited for."""
    call = _convolution(contender, device) or _network_call(contender, config, batch_size, device)
    if not device.startswith("cuda"):
        return call

    def wait() -> object:
        out = call()
        torch.cuda.synchronize()
        return out

    return wait


def _convolution(contender: Contender, device: str) -> Call | None:
    if contender.kind != "convolution":
        return None
    width = CONVOLUTION[1]
    x, weight = (
        torch.randn(shape, device=device).to(contender.dtype, memory_format=torch.channels_last)
        for shape in (CONVOLUTION, (width, width, 3, 3))
    )
    return lambda: torch.conv2d(x, weight, padding=1)


def _network_call(contender: Contender, config: UNetConfig, batch_size: int, device: str) -> Call:
    theirs = contender.kind == "diffusers"
    network = diffusers_twin(config) if theirs else build_model(config)
    network = randomize(network).eval().to(device)
    x, *conditions = draw_inputs(config, batch_size, device)
    if theirs and contender.dtype != torch.float32:
        network = network.to(contender.dtype).to(memory_format=torch.channels_last)
        x = x.to(contender.dtype, memory_format=torch.channels_last)
    elif contender.kind.startswith("ours"):
        network = cast_network(network, contender.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
    if contender.kind == "ours compiled":
        network = CompiledNetwork(network)
    return lambda: network(x, *conditions)


def draw_inputs(config: UNetConfig, batch_size: int, device: str) -> list[torch.Tensor]:
    """Draw what the network takes: images, timesteps and, where it has classes, labels."""
    x = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size, device=device)
    t = torch.full((batch_size,), 500, device=device)
    classes = getattr(config, "num_classes", None)
    return [x, t] if classes is None else [x, t, torch.zeros_like(t)]


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
    """Fill the weights with noise, the same each time, so that no branch is zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


def measure(
    contenders: list[Contender], config: UNetConfig, batch_size: int, device: str, repeats: int
) -> tuple[dict[Contender, list[float]], dict[Contender, float | None]]:
    """Time the contenders in turn, each in its process.

    Returns:
        Seconds of each call; the peak of each one's memory in MiB, None where that cannot be told.
    """
    with ExitStack() as stack:
        pipes = {}
        for contender in contenders:
            pipe, theirs = multiprocessing.Pipe()
            given = (theirs, contender, config, batch_size, device, torch.get_num_threads())
            process = multiprocessing.get_context("spawn").Process(target=_serve, args=given, daemon=True)
            process.start()
            stack.callback(process.join)
            stack.callback(pipe.send, False)
            theirs.close()
            pipe.recv()  # it is ready: one after the other
            pipes[contender] = pipe
        seconds: dict[Contender, list[float]] = {contender: [] for contender in contenders}
        memory = {}
        for _ in range(repeats):
            for contender, pipe in pipes.items():
                pipe.send(True)
                took, memory[contender] = pipe.recv()
                seconds[contender].append(took)
    return seconds, memory


def _serve(
    pipe: Connection,
    contender: Contender,
    config: UNetConfig,
    batch_size: int,
    device: str,
    num_threads: int,
) -> None:
    """Be one contender: call once to warm up, then whenever asked, and answer with seconds and memory."""
    torch.set_num_threads(num_threads)
    diffusers.logging.set_verbosity_error()
    if contender.keeps:
        jobs.keep_freed_memory()
    call = bind(contender, config, batch_size, device)
    with torch.inference_mode():
        call()
        pipe.send(True)
        while pipe.recv():
            call()  # as one of many, not as the first after those of others
            _forget_peak(device)
            start = time.perf_counter()
            call()
            pipe.send((time.perf_counter() - start, _peak_memory(device)))


def _forget_peak(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif (clear := Path("/proc/self/clear_refs")).exists():
        clear.write_text("5")  # begin a new peak, on Linux


def _peak_memory(device: str) -> float | None:
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated() / 2**20
    if not (status := Path("/proc/self/status")).exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def speedup(slow: list[float], fast: list[float]) -> float:
    """Return the median ratio of the paired times."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def count_gflops(config: UNetConfig) -> float:
    """Count the floating-point operations of a call with one image, products and sums apart, in 1e9."""
    network, inputs = build_empty(config).eval(), draw_inputs(config, 1, "meta")
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() / 1e9


def to_table(
    seconds: dict[Contender, list[float]],
    memory: dict[Contender, float | None],
    batch_size: int,
    gflops: float,
) -> str:
    """Format medians, speedups, share of what a lone convolution reaches, and memory.

    Args:
        seconds: Times of each contender, paired.
        memory: MiB that each held at most.
        batch_size: Images a call.
        gflops: Operations an image, in 1e9.
    """
    lines = [
        "| network | seconds an image | over as built | over diffusers, float32 | over diffusers, same "
        "precision | the same, memory kept | GFLOP/s | share of a lone convolution's | memory, MiB |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for contender, times in seconds.items():
        lone = contender.kind == "convolution"
        dtype = contender.dtype
        theirs = ((torch.float32, False), (dtype, False), (dtype, True))
        rivals = [BASE, *(Contender("diffusers", *rival) for rival in theirs)]
        over = ["" if lone or r not in seconds else f"{speedup(seconds[r], times):.2f}x" for r in rivals]
        each = statistics.median(times) / batch_size
        speed = _convolution_gflops() / statistics.median(times) if lone else gflops / each
        ceiling = seconds.get(Contender("convolution", dtype))
        share = ""
        if ceiling and not lone:
            share = f"{speed * statistics.median(ceiling) / _convolution_gflops():.0%}"
        used = "" if lone or memory[contender] is None else f"{memory[contender]:.0f}"
        cells = [contender.name, "" if lone else f"{each:.3f}", *over, f"{speed:.0f}", share, used]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _convolution_gflops() -> float:
    batch_size, width, *size = CONVOLUTION
    return 2 * batch_size * size[0] * size[1] * width**2 * 9 / 1e9


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
