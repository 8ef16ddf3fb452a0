"""Times all of sample_sdedit.py, from start to exit, beside the bare network calls that it makes.

The network gets random weights, which are saved first, as a user has them. Command and calls take turns.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from models import CONFIG_CLASSES, build_model
from models.precision import cast_network
from tools.parser import make_parser
from tools.studies.benchmark import CONFIG, describe_machine, speedup
from tools.studies.contenders import DTYPES, draw_inputs, randomize
from utils import jobs
from utils.config import load_config

ROOT = Path(__file__).resolve().parents[2]


def main() -> None:
    """Parse the options, measure, print a markdown table."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--config", type=Path, default=CONFIG, help="of the network")
    add("--images", type=int, default=64, help="inputs of the command")
    add("--calls", type=int, default=20, help="network calls of each")
    add("--micro_batch", type=int, default=4, help="images a network call")
    add("--precision", choices=DTYPES, default="bf16")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--repeats", type=int, default=3, help="runs of both, in turn")
    args = parser.parse_args()
    print(describe_machine(args.device))
    config = load_config(args.config, CONFIG_CLASSES).model
    network = randomize(build_model(config)).eval()
    with tempfile.TemporaryDirectory() as folder:
        given = prepare(Path(folder), network, config.image_size, args)
        jobs.keep_freed_memory()
        network = cast_network(network.to(args.device), DTYPES[args.precision])
        inputs = [part.to(args.device) for part in draw_inputs(config, args.micro_batch, args.device)]
        commands, calls = [], []
        call_network(network, inputs, 1)
        for repeat in range(args.repeats):
            start = time.perf_counter()
            subprocess.run([*given, "--save_dir", Path(folder, f"out{repeat}")], check=True, cwd=ROOT)
            middle = time.perf_counter()
            call_network(network, inputs, args.calls * -(-args.images // args.micro_batch))
            commands.append(middle - start)
            calls.append(time.perf_counter() - middle)
    print(
        "\n| network | images | calls each | a network call | command, s | bare calls, s | command / calls |"
    )
    print("|---|---|---|---|---|---|---|")
    what = f"{args.config.stem}, {args.precision} | {args.images} | {args.calls} | {args.micro_batch} images"
    for command, bare in zip(commands, calls, strict=True):
        print(f"| {what} | {command:.1f} | {bare:.1f} | {command / bare:.3f} |")
    print(f"\nMedian {speedup(commands, calls):.3f}.")


def prepare(folder: Path, network: nn.Module, size: int, args: argparse.Namespace) -> list[str | Path]:
    """Save weights and inputs; return the command without its save_dir."""
    weights, inputs = folder / "weights.safetensors", folder / "in"
    save_file(network.state_dict(), weights)
    inputs.mkdir()
    generator = torch.Generator().manual_seed(0)
    for i in range(args.images):
        pixels = torch.randint(256, (size, size, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(pixels.numpy()).save(inputs / f"{i:03d}.png")
    return [
        *(sys.executable, "sample_sdedit.py", "-c", args.config.absolute(), "--weights", weights),
        *("--input_dir", inputs, "--respace_steps", str(2 * args.calls), "--edit_steps", str(args.calls)),
        *("--micro_batch", str(args.micro_batch), "--precision", args.precision),
        *(["--cpu"] if args.device == "cpu" else []),
    ]


@torch.inference_mode()
def call_network(network: nn.Module, inputs: list[torch.Tensor], times: int) -> None:
    """Call the network so often on the same inputs, and wait for it."""
    x, *conditions = inputs
    x = x.contiguous(memory_format=torch.channels_last)
    for _ in range(times):
        network(x, *conditions)
    if x.is_cuda:
        torch.cuda.synchronize()


if __name__ == "__main__":
    main()
