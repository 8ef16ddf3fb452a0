"""Diffusion of points: how the small networks of the 2-D and the colour experiments are trained and used."""

import math
from collections.abc import Callable
from copy import deepcopy

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from diffusions import DDIM, Heun, NoiseSchedule, make_schedule, respace
from models.point_mlp import PointMLP, PointMLPConfig

PREDICTION, NUM_TIMESTEPS, EMA_DECAY, WARMUP_STEPS = "v", 1000, 0.999, 100
SAMPLERS = {"heun": Heun, "ddim": DDIM}

Draw = Callable[[int, Generator], Tensor]
"""(N, generator) -> fresh points, float32, shape [N, C]."""


def points_schedule() -> NoiseSchedule:
    """Return the noise that the networks are trained with."""
    return make_schedule("cosine", NUM_TIMESTEPS)


def points_process(num_steps: int, sampler: str = "heun") -> DDIM | Heun:
    """Return the process that translates: evenly spaced timesteps, and never clipped.

    Args:
        num_steps: K, from 1 to 1000.
        sampler: heun, two calls of the network a step, or ddim, one.

    Raises:
        ValueError: Another number of steps.
    """
    timesteps = respace("uniform", NUM_TIMESTEPS, num_steps)
    return SAMPLERS[sampler](points_schedule(), timesteps, PREDICTION, clip_denoised=False)


def v_loss(network: nn.Module, schedule: NoiseSchedule, x_0: Tensor, generator: Generator) -> Tensor:
    """Return the mean squared error of v (Salimans & Ho 2022) at timesteps spread evenly over the points.

    Args:
        network: Predicts v.
        schedule: That it is trained with.
        x_0: Points, shape [B, C].
        generator: Source of noise and timesteps.
    """
    count = len(x_0)
    place = (torch.arange(count) + torch.rand(count, generator=generator)) / count
    t = (place * schedule.num_timesteps).long().clamp(max=schedule.num_timesteps - 1)
    alphas_cumprod = schedule.alphas_cumprod[t].float()[:, None]
    signal, noise = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    eps = torch.randn(x_0.shape, generator=generator)
    return F.mse_loss(network(signal * x_0 + noise * eps, t), signal * eps - noise * x_0)


def train_network(
    draw: Draw,
    config: PointMLPConfig,
    num_steps: int,
    batch: int = 512,
    learning_rate: float = 4e-3,
    seed: int = 0,
) -> tuple[PointMLP, list[float]]:
    """Train a network on the CPU, with Adam and a rate that warms up and falls along half a cosine.

    Args:
        draw: Source of points.
        config: The network.
        num_steps: Steps of the optimizer.
        batch: Points a step.
        learning_rate: The highest.
        seed: Of weights, points, noise and timesteps.

    Returns:
        The moving average of the network, in eval mode, and the loss of each step.
    """
    generator = Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PointMLP(config)
    ema = deepcopy(network)
    schedule = points_schedule()
    optimizer = torch.optim.Adam(network.parameters(), learning_rate, betas=(0.9, 0.99), fused=True)
    losses = []
    for step in range(num_steps):
        cosine = 0.5 + 0.5 * math.cos(math.pi * step / num_steps)
        optimizer.param_groups[0]["lr"] = learning_rate * min(1, (step + 1) / WARMUP_STEPS) * cosine
        loss = v_loss(network, schedule, draw(batch, generator), generator)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
        _update_average(ema, network, step)
    return ema.eval().requires_grad_(False), torch.stack(losses).tolist()


@torch.no_grad()
def _update_average(ema: nn.Module, network: nn.Module, step: int) -> None:
    decay = min(EMA_DECAY, (1 + step) / (10 + step))  # forgets the random start quickly
    torch._foreach_lerp_(list(ema.parameters()), list(network.parameters()), 1 - decay)
