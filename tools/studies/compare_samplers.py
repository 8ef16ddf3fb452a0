"""Measure how far samplers with few calls are from DDPM with all steps, as distributions of edits.

For each guide, edits with many seeds are a sample of the distribution that a sampler makes of it. Two
samples are compared by their energy distance (Szekely & Rizzo 2013), 2 E|X - Y| - E|X - X'| - E|Y - Y'|
with the root mean square difference of two pictures as |.|: it is 0 only for equal distributions,
needs no features of a trained network, and its unbiased estimate, which is 0 on average for equal
distributions and then as often negative, needs no choice but the number of seeds.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

from diffusions import DDPM, edit, respace
from tools.parser import make_parser
from utils import codecs, images, jobs, sampling
from utils.jobs import ImageNoise

SAMPLERS = {"ddpm": DDPM, **sampling.SAMPLERS}
CONTENDERS = [
    *("ddpm:100", "ddpm:50", "ddpm:20", "ddpm:10", "ddpm:5"),
    *("sde-dpm-solver++:50", "sde-dpm-solver++:20", "sde-dpm-solver++:10", "sde-dpm-solver++:5"),
    *("ddim:20", "ddim:10", "dpm-solver++:20", "dpm-solver++:10"),
]


def energy_distance(x: Tensor, y: Tensor) -> float:
    """Return the unbiased estimate for two samples, shape [N, ...] and [M, ...]."""
    x, y = (part.flatten(1).double() / part[0].numel() ** 0.5 for part in (x, y))
    within = [torch.cdist(part, part).sum() / (len(part) * (len(part) - 1)) for part in (x, y)]
    return (2 * torch.cdist(x, y).mean() - within[0] - within[1]).item()


@torch.inference_mode()
def sample_edits(
    network, sampler: str, guides: Tensor, names: list[str], t0: float, calls: int, seeds: range
):
    """Edit every guide with every seed: [guides, seeds, C, H, W]; `calls` network calls each."""
    trained = network.trained
    steps = min(trained.schedule.num_timesteps, round(calls / t0))
    timesteps = respace("uniform-trailing", trained.schedule.num_timesteps, steps)
    process = SAMPLERS[sampler](trained.schedule, timesteps, trained.prediction)
    model = network.model(network.config.null_class)
    batches = []
    for seed in seeds:
        noise = ImageNoise(seed, [(name, 0) for name in names], guides.shape[1:], guides.device)
        batches.append(edit(process, model, guides, process.level_at(t0), noise))
    return torch.stack(batches, dim=1)


def build_parser() -> argparse.ArgumentParser:
    """Return the command line."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--config", type=Path, default=Path("configs/demo/fruits64.yaml"), help="network")
    add("--weights", type=Path, default=Path("weights/fruits64.safetensors"), help="its weights")
    add("--guides", type=Path, default=Path("assets/strokes"), help="folder of guides")
    add("--num_guides", type=int, default=8, help="how many of them, in order")
    add("--seeds", type=int, default=16, help="edits of each guide")
    add("--t0", type=float, default=0.5, help="where the edits start")
    add("--contenders", nargs="+", default=CONTENDERS, help="SAMPLER:CALLS")
    return parser


def read_guides(folder: Path, names: list[str], size: int) -> Tensor:
    """Read pictures as a run would, [N, 3, size, size] on [-1, 1]."""
    decoded = [codecs.fit(codecs.decode(folder / name), size, "crop") for name in names]
    return torch.stack([codecs.to_tensor(image, 3) for image in decoded])


def main() -> None:
    """Read the options, sample, print the table."""
    args = build_parser().parse_args()
    config = sampling.read_config(args.config)
    place = jobs.start(cpu=False, precision="fp32")
    network = sampling.load_network(config, args.weights, place)
    names = images.find_images(args.guides, Path("out"))[:: 20 // args.num_guides][: args.num_guides]
    guides = read_guides(args.guides, names, config.model.image_size).to(place.device)
    guides = guides.contiguous(memory_format=torch.channels_last)
    everything = round(args.t0 * network.trained.schedule.num_timesteps)

    def sample(sampler: str, calls: int, first_seed: int) -> Tensor:
        seeds = range(first_seed, first_seed + args.seeds)
        return sample_edits(network, sampler, guides, names, args.t0, calls, seeds)

    reference = sample("ddpm", everything, 1000)
    print(
        f"| sampler | calls | seconds an image | energy distance to ddpm with {everything} | standard error |"
    )
    print("|---|---|---|---|---|", flush=True)
    for contender in args.contenders:
        sampler, _, calls = contender.partition(":")
        start = time.perf_counter()
        edits = sample(sampler, int(calls), 0)
        seconds = (time.perf_counter() - start) / (len(guides) * args.seeds)
        values = torch.tensor([energy_distance(a, b) for a, b in zip(edits, reference, strict=True)])
        error = values.std() / len(values) ** 0.5
        print(f"| {sampler} | {calls} | {seconds:.2f} | {values.mean():.4f} | {error:.4f} |", flush=True)


if __name__ == "__main__":
    main()
