"""Times a call of a network: beside diffusers' of the same shape, and beside what the machine can do at all.

Every contender has a process of its own, as its users give it one, and they call in turn, so that a slow
moment of the machine meets all alike: read the ratios.
"""

import multiprocessing
import platform
import statistics
import time
from contextlib import ExitStack
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path

import torch

from models import CONFIG_CLASSES
from models.layers import UNetConfig
from tools.parser import make_parser
from tools.studies.contenders import (
    BASE,
    DTYPES,
    Contender,
    bind,
    choose_contenders,
    convolution_gflops,
    count_gflops,
)
from utils import jobs
from utils.config import load_config

CONFIG = Path(__file__).resolve().parents[2] / "configs/pesser/pytorch_diffusion/ema_lsun_church.yaml"


def main() -> None:
    """Parse the options, measure, print markdown tables."""
    parser = make_parser(__doc__, __spec__)
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
        speed = convolution_gflops() / statistics.median(times) if lone else gflops / each
        ceiling = seconds.get(Contender("convolution", dtype))
        share = ""
        if ceiling and not lone:
            share = f"{speed * statistics.median(ceiling) / convolution_gflops():.0%}"
        used = "" if lone or memory[contender] is None else f"{memory[contender]:.0f}"
        cells = [contender.name, "" if lone else f"{each:.3f}", *over, f"{speed:.0f}", share, used]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def describe_machine(device: str) -> str:
    """Name the processor, the threads and the versions."""
    versions = f"torch {torch.__version__}, diffusers {version('diffusers')}."
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
