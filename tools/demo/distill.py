"""Distil the demo's network into a consistency model: edits in one, two or four calls.

A network of v is a consistency model as it is: x_0 = signal x_t - noise v is x_t itself where there is no
noise (Lu & Song, arXiv:2410.11081). Begun from the trained network, each step shows it a picture at two
noise levels, with the same noise, and asks for the same x_0 at both; the levels come nearer to one another
as training goes on (Song & Dhariwal, arXiv:2310.14189; Geng et al., arXiv:2406.14548). Interrupt it at any
time: the same command goes on from the last checkpoint with what an undisturbed run would have seen.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from diffusions import NoiseSchedule
from diffusions.consistency import Consistency
from diffusions.respacing import respace
from models import CONFIG_CLASSES, build_empty, build_model
from tools.demo import fruits
from tools.demo.train import LABEL_DROPOUT, autocast, draw_timesteps, learning_rate
from tools.parser import make_parser
from utils.config import Config, load_config
from utils.sampling import read_trained
from utils.weights import Shelf, load_weights

EMA_DECAY = 0.999
SOFTNESS = 0.00054
"""Of the loss around 0, times the root of the number of values (Song & Dhariwal, eq. 8)."""


@dataclass
class Run:
    """Everything that a checkpoint keeps."""

    network: nn.Module
    average: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    """[step, mean loss of the hundred steps before it]"""

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        parts = {name: getattr(self, name).state_dict() for name in ("network", "average", "optimizer")}
        torch.save({**parts, "step": self.step, "losses": self.losses}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("network", "average", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.losses = state["step"], state["losses"]


def start(config: Config, weights: Path) -> Run:
    """Build the trained network twice, to go on from and as its average, and an optimizer."""
    state = load_weights(weights, Shelf(CONFIG_CLASSES, build_empty).shapes(config.model))
    networks = [build_model(config.model).to(memory_format=torch.channels_last) for _ in range(2)]
    for network in networks:
        network.load_state_dict(state)
    optimizer = torch.optim.AdamW(networks[0].parameters(), betas=(0.9, 0.99), fused=True)
    return Run(networks[0], networks[1].eval(), optimizer)


def lower(schedule: NoiseSchedule, t: Tensor, share: float) -> Tensor:
    """Return the timesteps below t, [B], whose sigma is a share smaller, -1 for no noise at all."""
    sigmas = (1 / schedule.alphas_cumprod - 1).sqrt()
    return torch.minimum(torch.searchsorted(sigmas, sigmas[t] * (1 - share), right=True) - 1, t - 1)


def gap(step: int, halved_every: int) -> float:
    """Return how much smaller the lower sigma of a pair is: half, then a quarter, ... of the higher one."""
    return 0.5 ** (1 + step // halved_every)


def x_0_of(
    network: nn.Module, x_0: Tensor, eps: Tensor, levels: tuple[Tensor, Tensor], t: Tensor, y: Tensor
) -> Tensor:
    """Return what a network makes of a picture at a level: signal and noise, [B, 1, 1, 1] each."""
    signal, noise = levels
    x_t = signal * x_0 + noise * eps
    with autocast(x_t.device):
        v = network(x_t, t, y)
    return signal * x_t - noise * v.float()


def loss_of(run: Run, schedule: NoiseSchedule, batch: tuple[Tensor, ...], share: float) -> Tensor:
    """Return how far x_0 of the higher level is from that of the lower one (pseudo-Huber, over the gap)."""
    x_0, eps, t, y = batch
    below = lower(schedule, t, share)
    clean = (below < 0)[:, None, None, None]
    high, low = (_levels(schedule, x) for x in (t, below.clamp(min=0)))
    with torch.no_grad():
        target = torch.where(clean, x_0, x_0_of(run.network, x_0, eps, low, below.clamp(min=0), y))
    found = x_0_of(run.network, x_0, eps, high, t, y)
    softness = SOFTNESS * found[0].numel() ** 0.5
    distance = ((found - target).square().flatten(1).sum(1) + softness**2).sqrt() - softness
    sigma_high, sigma_low = (noise / signal for signal, noise in (high, low))
    apart = (sigma_high - torch.where(clean, 0, sigma_low)).flatten()
    return (distance / apart.clamp(min=1e-3)).mean()


def _levels(schedule: NoiseSchedule, t: Tensor) -> tuple[Tensor, Tensor]:
    alphas = schedule.alphas_cumprod[t].float()[:, None, None, None]
    return alphas.sqrt(), (1 - alphas).sqrt()


def draw_batch(
    pictures: fruits.Fruits, schedule: NoiseSchedule, null_class: int, size: int, n: int, step: int
) -> tuple[Tensor, ...]:
    """Draw the batch of a step: x_0 and noise [n, 3, size, size], timesteps and labels [n].

    It depends on the step alone, so a resumed run sees what an undisturbed one would have.
    """
    generator = torch.Generator().manual_seed(step)
    index = torch.randint(len(pictures.images), (n,), generator=generator)
    x_0, _ = fruits.augment(pictures.images[index], size, generator, change=False)
    dropped = torch.rand(n, generator=generator) < LABEL_DROPOUT
    y = torch.where(dropped, null_class, pictures.labels[index])
    t = draw_timesteps(schedule, n, generator)
    return x_0, torch.randn(x_0.shape, generator=generator), t, y


def train_step(run: Run, schedule: NoiseSchedule, batch: tuple[Tensor, ...], share: float) -> float:
    """Take one step, move the average, and return the loss."""
    loss = loss_of(run, schedule, batch, share)
    run.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    with torch.no_grad():
        pairs = list(run.average.parameters()), list(run.network.parameters())
        torch._foreach_lerp_(*pairs, 1 - min(EMA_DECAY, (1 + run.step) / (10 + run.step)))
    return loss.item()


@torch.inference_mode()
def save_samples(network: nn.Module, config: Config, schedule: NoiseSchedule, path: Path) -> None:
    """Sample every class and 8 without one in one, two and four calls, as a sheet."""
    y = torch.tensor([*range(len(config.classes)), *[config.null_class] * 8])
    side = config.model.image_size

    def draw() -> Tensor:
        return torch.randn(len(y), 3, side, side, generator=generator)

    sheets = []
    for calls in (1, 2, 4):
        timesteps = respace("uniform-trailing", schedule.num_timesteps, calls)
        process = Consistency(schedule, timesteps, config.diffusion.prediction)
        generator, x = torch.Generator().manual_seed(0), None
        for level in range(calls, 0, -1):
            x = draw() if x is None else x
            x = process.step(lambda x, t: network(x, t, y), x, level, level - 1, draw)
        sheets.append(x)
    save_image(torch.cat(sheets).clamp(-1, 1) / 2 + 0.5, path, nrow=len(y), padding=0)


def train(args: argparse.Namespace) -> None:
    """Train to the step asked for, with checkpoints and samples on the way."""
    config = load_config(args.config, CONFIG_CLASSES)
    assert config.diffusion.prediction == "v", "only a network of v is the identity without noise"
    schedule = read_trained(config).schedule
    pictures = fruits.read(args.data)
    assert pictures.names == config.classes, "the config names other classes than the data"
    pictures = pictures.part(~fruits.held_out(pictures.sources))
    run, state = start(config, args.weights), args.save_dir / "state.pt"
    if state.exists():
        run.load(state)
    args.save_dir.mkdir(parents=True, exist_ok=True)
    recent, since = [], time.monotonic()
    while run.step < args.steps:
        batch = draw_batch(
            pictures, schedule, config.null_class, config.model.image_size, args.batch, run.step
        )
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, args.learning_rate, args.steps)
        recent.append(train_step(run, schedule, batch, gap(run.step, args.halved_every)))
        run.step += 1
        if run.step % 100 == 0:
            run.losses.append([run.step, sum(recent) / len(recent)])
            pace = (time.monotonic() - since) / len(recent)
            print(f"step {run.step}, loss {run.losses[-1][1]:.4f}, {pace:.2f} s a step", flush=True)
            recent, since = [], time.monotonic()
        if run.step % args.save_every == 0 or run.step == args.steps:
            run.save(state)
            save_samples(run.average, config, schedule, args.save_dir / f"samples_{run.step:06d}.png")
    values = {key: value.half().contiguous() for key, value in run.average.state_dict().items()}
    save_file(values, args.save_dir / "fruits64_consistency.safetensors")


def main() -> None:
    """Read the options and train."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--config", type=Path, default=Path("configs/demo/fruits64.yaml"), help="network and diffusion")
    add("--weights", type=Path, default=Path("weights/fruits64.safetensors"), help="to begin from")
    add("--save_dir", type=Path, default=Path("runs/consistency"), help="checkpoint, samples, weights")
    add("--steps", type=int, default=4000, help="where to stop; a later call may go further")
    add("--halved_every", type=int, default=600, help="steps until the levels of a pair come twice as near")
    add("--batch", type=int, default=32, help="pictures a step")
    add("--learning_rate", type=float, default=3e-4, help="highest, after the warm-up")
    add("--save_every", type=int, default=250, help="steps between checkpoints and samples")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
