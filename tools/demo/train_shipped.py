"""Train the demo weights that are shipped: a class-conditional ADM on 64x64 fruit, in two hours on two cores.

Most of the steps run on 32x32 pictures, which cost a quarter and teach colours, shapes and classes; the
rest on 64x64. Interrupt it at any time: the same command goes on from the last checkpoint.
"""

import argparse
import json
import math
import time
from dataclasses import dataclass, field
from pathlib import Path

import matplotlib.pyplot as plt
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from diffusions import DDIM, NoiseSchedule, decode, respace
from models import CONFIG_CLASSES, build_model
from tools.demo import fruits
from tools.demo.judge import augment
from tools.demo.train import autocast
from tools.parser import make_parser
from utils.config import Config, load_config
from utils.files import write_atomically
from utils.sampling import read_trained
from utils.weights import load_weights

WARMUP_STEPS, SMALL_SIZE = 200, 32


@dataclass
class Run:
    """Everything that a checkpoint keeps."""

    network: nn.Module
    ema: nn.Module
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    """[step, mean loss of the hundred steps before it]"""

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        parts = {name: getattr(self, name).state_dict() for name in ("network", "ema", "optimizer")}
        torch.save({**parts, "step": self.step, "losses": self.losses}, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        for name in ("network", "ema", "optimizer"):
            getattr(self, name).load_state_dict(state[name])
        self.step, self.losses = state["step"], state["losses"]


def start(config: Config, weights: Path | None, learning_rate: float, device: torch.device) -> Run:
    """Build a network, random or from weights, its moving average and its optimizer."""
    torch.manual_seed(0)
    network = build_model(config.model).to(device, memory_format=torch.channels_last)
    if weights:
        shapes = {key: tensor.shape for key, tensor in network.state_dict().items()}
        network.load_state_dict(load_weights(weights, shapes))
    ema = build_model(config.model).to(device, memory_format=torch.channels_last).eval()
    ema.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), learning_rate, betas=(0.9, 0.99), fused=True)
    return Run(network, ema, optimizer)


def draw_batch(
    pictures: fruits.Fruits, args: argparse.Namespace, config: Config, step: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Draw the batch of a step: x_0 and noise [B, 3, S, S], timesteps [B], labels [B].

    The batch depends on the step alone, so a resumed run sees what an undisturbed one would have.
    """
    generator = torch.Generator().manual_seed(step)
    n, num_timesteps = args.batch, config.diffusion.num_timesteps
    index = torch.randint(len(pictures.images), (n,), generator=generator)
    x_0 = augment(
        pictures.images[index], SMALL_SIZE if step < args.small_steps else config.model.image_size, generator
    )
    dropped = torch.rand(n, generator=generator) < args.label_dropout
    y = torch.where(dropped, config.null_class, pictures.labels[index])
    # one timestep from each n-th of the range: the same distribution, with less noise in the loss
    fraction = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    t = (fraction * num_timesteps).long().clamp(max=num_timesteps - 1)
    return x_0, torch.randn(x_0.shape, generator=generator), t, y


def train_step(run: Run, predict: nn.Module, schedule: NoiseSchedule, batch: tuple[Tensor, ...]) -> Tensor:
    """Take one step on the v-prediction loss (Salimans and Ho, arXiv:2202.00512); return the loss."""
    x_0, eps, t, y = batch
    alphas_cumprod = schedule.alphas_cumprod.to(x_0.device)[t].float()[:, None, None, None]
    signal, noise = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    with autocast(x_0.device):
        output = predict(signal * x_0 + noise * eps, t, y)
    loss = F.mse_loss(output.float(), signal * eps - noise * x_0)
    run.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(run.network.parameters(), 1.0)
    run.optimizer.step()
    return loss.detach()


def update_ema(run: Run, decay: float) -> None:
    """Move the average towards the network; quickly at first, so that it forgets the random start."""
    decay = min(decay, (1 + run.step) / (10 + run.step))
    with torch.no_grad():
        torch._foreach_lerp_(list(run.ema.parameters()), list(run.network.parameters()), 1 - decay)


def learning_rate(step: int, args: argparse.Namespace) -> float:
    """Warm up linearly, then fall to 0 along half a cosine."""
    cosine = 0.5 + 0.5 * math.cos(math.pi * step / args.steps)
    return args.learning_rate * min(1, (step + 1) / WARMUP_STEPS) * cosine


@torch.inference_mode()
def save_samples(run: Run, config: Config, schedule: NoiseSchedule, size: int, path: Path) -> None:
    """Sample every class and 8 unconditional pictures with 25 DDIM steps, as a sheet."""
    timesteps = respace("uniform-linspace", schedule.num_timesteps, 25)
    y = torch.tensor([*range(len(config.classes)), *[config.null_class] * 8])
    noise = torch.randn(len(y), 3, size, size, generator=torch.Generator().manual_seed(0))
    device = next(run.ema.parameters()).device
    process = DDIM(schedule, timesteps, config.diffusion.prediction)
    x = decode(process, lambda x, t: run.ema(x, t, y.to(device)), noise.to(device))
    save_image(x / 2 + 0.5, path, nrow=8, padding=0)


def save_weights(network: nn.Module, path: Path) -> None:
    """Write a network as it is shipped."""
    save_file({key: tensor.contiguous() for key, tensor in network.state_dict().items()}, path)


def save_curve(losses: list[list[float]], path: Path) -> None:
    """Draw the loss over the steps."""
    figure, axes = plt.subplots(figsize=(6, 3), layout="constrained")
    axes.plot(*zip(*losses, strict=True))
    axes.set(xlabel="step", ylabel="mean squared error of v", yscale="log")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def train(args: argparse.Namespace) -> None:
    """Train to the last step, with a checkpoint, losses and samples on the way."""
    config = load_config(args.config, CONFIG_CLASSES)
    assert config.diffusion.prediction == "v", "the loss below is that of v-prediction"
    schedule = read_trained(config).schedule
    pictures = fruits.read(args.data)
    assert pictures.names == config.classes, "the config names other classes than the data"
    if args.classes:
        kept = torch.tensor([pictures.names.index(name) for name in args.classes])
        pictures = pictures.part(torch.isin(pictures.labels, kept).numpy())
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = start(config, args.weights, args.learning_rate, device)
    state = args.save_dir / "state.pt"
    if state.exists():
        run.load(state)
    args.save_dir.mkdir(parents=True, exist_ok=True)
    predict = run.network if args.eager else torch.compile(run.network)
    recent, since = [], time.monotonic()
    while run.step < args.steps:
        batch = draw_batch(pictures, args, config, run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, args)
        recent.append(train_step(run, predict, schedule, tuple(part.to(device) for part in batch)))
        run.step += 1
        update_ema(run, args.ema_decay)
        if run.step % 100 == 0:
            run.losses.append([run.step, torch.stack(recent).mean().item()])
            pace = (time.monotonic() - since) / len(recent)
            print(f"step {run.step}, loss {run.losses[-1][1]:.4f}, {pace:.2f} s a step", flush=True)
            recent, since = [], time.monotonic()
        if run.step % args.save_every == 0 or run.step == args.steps:
            run.save(state)
            write_atomically(args.save_dir / "losses.json", json.dumps(run.losses).encode())
            save_samples(
                run, config, schedule, batch[0].shape[-1], args.save_dir / f"samples_{run.step:06d}.png"
            )
    save_weights(run.ema, args.save_dir / "fruits64.safetensors")
    save_curve(run.losses, args.save_dir / "loss.png")


def main() -> None:
    """Read the options and train."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--config", type=Path, default=Path("configs/demo/fruits64.yaml"), help="network and diffusion")
    add("--classes", nargs="+", help="train on these classes only")
    add("--weights", type=Path, help="train these further, with a learning rate that warms up anew")
    add("--save_dir", type=Path, default=Path("runs/fruits64"), help="checkpoint, losses, samples, weights")
    add("--steps", type=int, default=7000, help="all steps")
    add("--small_steps", type=int, default=4000, help="of them, the first ones on 32x32")
    add("--batch", type=int, default=32, help="pictures a step")
    add("--learning_rate", type=float, default=1e-3, help="highest, after the warm-up")
    add("--label_dropout", type=float, default=0.15, help="share of pictures with the null label")
    add("--ema_decay", type=float, default=0.999, help="of the moving average that becomes the weights")
    add("--eager", action="store_true", help="do not compile the network, as where there is no C++ compiler")
    add("--save_every", type=int, default=500, help="steps between checkpoints")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
