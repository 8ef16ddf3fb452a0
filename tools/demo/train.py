"""Train the demo's next network: longer, on more parameters, without the held-out views.

It has no last step: the learning rate falls as 1 / sqrt(step), and two averages are kept from which one of
any length is formed afterwards (Karras et al., arXiv:2312.02696). Interrupt it at any time: the same
command goes on from the last checkpoint with what an undisturbed run would have seen.
"""

import argparse
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.utils import save_image

from diffusions import DDIM, NoiseSchedule, decode, respace
from models import CONFIG_CLASSES, build_model
from tools.demo import fruits
from tools.parser import make_parser
from utils.config import Config, load_config
from utils.jobs import computes_natively
from utils.sampling import read_trained

LENGTHS = (0.05, 0.10)
"""Of the two averages: standard deviation of their weights over the steps, as a share of all steps."""
WARMUP_STEPS, SMALL_SIZE, LABEL_DROPOUT = 200, 32, 0.15
LOG_SIGMA_MEAN, LOG_SIGMA_STD = -0.4, 1.5
"""Of the noise levels trained on, in units of images in [-1, 1]: most where shape and texture form."""


class Told(nn.Module):
    """The network, told also how the pictures of a batch were changed; without it, it is as it is shipped."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network
        width = network.time_embed[-1].out_features
        self.told = nn.Linear(fruits.NUM_TOLD, width, bias=False)  # nothing changed: nothing added
        nn.init.zeros_(self.told.weight)

    def forward(self, x: Tensor, t: Tensor, y: Tensor, told: Tensor) -> Tensor:
        """Predict v from noisy images [B, 3, H, W], timesteps [B], labels [B] and changes [B, NUM_TOLD]."""
        emb = self.network.embed(t) + self.network.label_emb(y) + self.told(told)
        return self.network.predict(x, emb)


@dataclass
class Run:
    """Everything that a checkpoint keeps."""

    told: Told
    averages: list[nn.Module]
    """Of the network inside, one a length."""
    optimizer: torch.optim.Optimizer
    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    """[step, mean loss of the hundred steps before it]"""

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        temporary = path.with_suffix(".tmp")
        state = {
            "told": self.told.state_dict(),
            "averages": [average.state_dict() for average in self.averages],
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "losses": self.losses,
        }
        torch.save(state, temporary)
        temporary.replace(path)

    def load(self, path: Path) -> None:
        """Go on from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.told.load_state_dict(state["told"])
        for average, values in zip(self.averages, state["averages"], strict=True):
            average.load_state_dict(values)
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], state["losses"]


def start(config: Config, device: torch.device) -> Run:
    """Build a random network, its averages and its optimizer."""
    torch.manual_seed(0)
    told = Told(build_model(config.model)).to(device, memory_format=torch.channels_last)
    averages = []
    for _ in LENGTHS:
        average = build_model(config.model).to(device, memory_format=torch.channels_last).eval()
        average.load_state_dict(told.network.state_dict())
        averages.append(average)
    optimizer = torch.optim.AdamW(told.parameters(), betas=(0.9, 0.99), fused=True)
    return Run(told, averages, optimizer)


def exponent(length: float) -> float:
    """Return the gamma of an average by powers whose weights spread over `length` of all steps (eq. 123)."""
    return float(np.roots([1, 7, 16 - length**-2, 12 - length**-2]).real.max())


@torch.no_grad()
def update_averages(run: Run) -> None:
    """Move each average towards the network by 1 - (1 - 1 / step) ** (gamma + 1) (eq. 127)."""
    for average, length in zip(run.averages, LENGTHS, strict=True):
        weight = 1 - (1 - 1 / run.step) ** (exponent(length) + 1)
        torch._foreach_lerp_(list(average.parameters()), list(run.told.network.parameters()), weight)


def draw_timesteps(schedule: NoiseSchedule, n: int, generator: torch.Generator) -> Tensor:
    """Draw timesteps [n] whose log sigma is normal: one from each n-th, for less noise in the loss."""
    fraction = (torch.randperm(n, generator=generator) + torch.rand(n, generator=generator)) / n
    log_sigma = LOG_SIGMA_MEAN + LOG_SIGMA_STD * torch.special.ndtri(fraction.clamp(1e-6, 1 - 1e-6))
    levels = (1 / schedule.alphas_cumprod - 1).log() / 2
    return torch.searchsorted(levels, log_sigma.double()).clamp(max=schedule.num_timesteps - 1)


def draw_batch(
    pictures: fruits.Fruits, schedule: NoiseSchedule, null_class: int, size: int, n: int, step: int
) -> tuple[Tensor, ...]:
    """Draw the batch of a step: x_0 and noise [n, 3, size, size], timesteps, labels [n], changes.

    The batch depends on the step alone, so a resumed run sees what an undisturbed one would have.
    """
    generator = torch.Generator().manual_seed(step)
    index = torch.randint(len(pictures.images), (n,), generator=generator)
    x_0, told = fruits.augment(pictures.images[index], size, generator)
    dropped = torch.rand(n, generator=generator) < LABEL_DROPOUT
    y = torch.where(dropped, null_class, pictures.labels[index])
    t = draw_timesteps(schedule, n, generator)
    return x_0, torch.randn(x_0.shape, generator=generator), t, y, told


def autocast(device: torch.device) -> torch.autocast:
    """Compute in bfloat16 where the device does so faster than in float32."""
    fast = device.type != "cpu" or computes_natively("bf16")
    return torch.autocast(device.type, torch.bfloat16, enabled=fast)


def train_step(run: Run, predict: nn.Module, schedule: NoiseSchedule, batch: tuple[Tensor, ...]) -> Tensor:
    """Take one step on the v-prediction loss (Salimans and Ho, arXiv:2202.00512); return the loss."""
    x_0, eps, t, y, told = batch
    alphas_cumprod = schedule.alphas_cumprod.to(x_0.device)[t].float()[:, None, None, None]
    signal, noise = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    with autocast(x_0.device):
        output = predict(signal * x_0 + noise * eps, t, y, told)
    loss = F.mse_loss(output.float(), signal * eps - noise * x_0)
    run.optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(run.told.parameters(), 1.0)
    run.optimizer.step()
    return loss.detach()


def learning_rate(step: int, highest: float, constant_steps: int) -> float:
    """Warm up linearly, stay, then fall as 1 / sqrt(step)."""
    return highest * min(1, (step + 1) / WARMUP_STEPS) / max(1, step / constant_steps) ** 0.5


@torch.inference_mode()
def save_samples(network: nn.Module, config: Config, schedule: NoiseSchedule, size: int, path: Path) -> None:
    """Sample every class and 8 unconditional pictures with 25 DDIM steps, as a sheet."""
    timesteps = respace("uniform-linspace", schedule.num_timesteps, 25)
    device = next(network.parameters()).device
    y = torch.tensor([*range(len(config.classes)), *[config.null_class] * 8], device=device)
    noise = torch.randn(len(y), 3, size, size, generator=torch.Generator().manual_seed(0))
    process = DDIM(schedule, timesteps, config.diffusion.prediction)
    x = decode(process, lambda x, t: network(x, t, y), noise.to(device))
    save_image(x / 2 + 0.5, path, nrow=8, padding=0)


def save_averages(run: Run, save_dir: Path) -> None:
    """Write both averages in float16, to form others from later."""
    for average, length in zip(run.averages, LENGTHS, strict=True):
        values = {key: value.half().contiguous() for key, value in average.state_dict().items()}
        save_file(values, save_dir / f"average_{length:.2f}_{run.step:07d}.safetensors")


def train(args: argparse.Namespace) -> None:
    """Train to the step asked for, with checkpoints, averages and samples on the way."""
    config = load_config(args.config, CONFIG_CLASSES)
    assert config.diffusion.prediction == "v", "the loss is that of v-prediction"
    schedule = read_trained(config).schedule
    pictures = fruits.read(args.data)
    assert pictures.names == config.classes, "the config names other classes than the data"
    pictures = pictures.part(~fruits.held_out(pictures.sources))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    run = start(config, device)
    state = args.save_dir / "state.pt"
    if state.exists():
        run.load(state)
    args.save_dir.mkdir(parents=True, exist_ok=True)
    predict = run.told if args.eager else torch.compile(run.told)
    recent, since = [], time.monotonic()
    while run.step < args.steps:
        size = SMALL_SIZE if run.step < args.small_steps else config.model.image_size
        batch = draw_batch(pictures, schedule, config.null_class, size, args.batch, run.step)
        for group in run.optimizer.param_groups:
            group["lr"] = learning_rate(run.step, args.learning_rate, args.constant_steps)
        recent.append(train_step(run, predict, schedule, tuple(part.to(device) for part in batch)))
        run.step += 1
        update_averages(run)
        if run.step % 100 == 0:
            run.losses.append([run.step, torch.stack(recent).mean().item()])
            pace = (time.monotonic() - since) / len(recent)
            print(f"step {run.step}, loss {run.losses[-1][1]:.4f}, {pace:.2f} s a step", flush=True)
            recent, since = [], time.monotonic()
        if run.step % args.save_every == 0 or run.step == args.steps:
            run.save(state)
        if run.step % args.average_every == 0 or run.step == args.steps:
            save_averages(run, args.save_dir)
            save_samples(
                run.averages[0], config, schedule, size, args.save_dir / f"samples_{run.step:07d}.png"
            )


def main() -> None:
    """Read the options and train."""
    parser = make_parser(__doc__, __spec__)
    add = parser.add_argument
    add("--data", type=Path, required=True, help="train.npz, see weights/README.md")
    add("--config", type=Path, default=Path("configs/demo/fruits64.yaml"), help="network and diffusion")
    add("--save_dir", type=Path, default=Path("runs/fruits64"), help="checkpoint, averages, samples")
    add("--steps", type=int, default=40000, help="where to stop; a later call may go further")
    add("--small_steps", type=int, default=6000, help="of them, the first ones on 32x32")
    add("--constant_steps", type=int, default=6000, help="until the learning rate begins to fall")
    add("--batch", type=int, default=32, help="pictures a step")
    add("--learning_rate", type=float, default=1e-3, help="highest, after the warm-up")
    add("--eager", action="store_true", help="do not compile the network, as where there is no C++ compiler")
    add("--save_every", type=int, default=250, help="steps between checkpoints")
    add("--average_every", type=int, default=1000, help="steps between averages and samples")
    train(parser.parse_args())


if __name__ == "__main__":
    main()
