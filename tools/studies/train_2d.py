"""Train the weights of DDIB's 2-D experiments, one small network a domain, in a few minutes on two cores."""

import time
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from models.point_mlp import PointMLP, PointMLPConfig
from tools.parser import make_parser
from tools.studies.domains_2d import DOMAINS
from tools.studies.points import train_network
from utils.files import write_atomically

WEIGHTS = Path("weights/points2d.safetensors")
CONFIG = PointMLPConfig()


def train_domain(name: str, num_steps: int) -> dict[str, Tensor]:
    """Train the network of one domain; return its state dict, each key after the domain's name and a dot."""
    since = time.monotonic()
    network, losses = train_network(DOMAINS[name].sample, CONFIG, num_steps)
    last = losses[-max(1, num_steps // 10) :]
    print(f"{name}: loss {sum(last) / len(last):.4f}, {time.monotonic() - since:.0f} s", flush=True)
    return {f"{name}.{key}": tensor for key, tensor in network.state_dict().items()}


def load_networks(path: Path) -> dict[str, PointMLP]:
    """Read the networks of a weights file, by the name of their domain.

    Raises:
        ValueError: The file holds other tensors than those of six networks.
    """
    tensors = load_file(path)
    networks = {}
    for name in DOMAINS:
        prefix = f"{name}."
        state = {key.removeprefix(prefix): t for key, t in tensors.items() if key.startswith(prefix)}
        network = PointMLP(CONFIG)
        try:
            network.load_state_dict(state)
        except RuntimeError as error:
            raise ValueError(f"{path}: not what tools.studies.train_2d writes: {name}: {error}") from None
        networks[name] = network.eval().requires_grad_(False)
    return networks


def main(argv: list[str] | None = None) -> None:
    """Read the options and train."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--weights", type=Path, default=WEIGHTS, help="file to write, all networks in one")
    add("--steps", type=int, default=8000, help="of the optimizer, on 512 fresh points each")
    add("--processes", type=int, default=2, help="domains that are trained at the same time, a core each")
    args = parser.parse_args(argv)
    if args.steps < 1 or args.processes < 1:
        parser.error("--steps and --processes must be at least 1")
    train = partial(train_domain, num_steps=args.steps)
    with ProcessPoolExecutor(args.processes, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        parts = list(pool.map(train, DOMAINS))
    write_atomically(args.weights, save({key: tensor for part in parts for key, tensor in part.items()}))


if __name__ == "__main__":
    main()
