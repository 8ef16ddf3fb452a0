"""Measure the ways to encode for DDIB on points in the plane, where the true translation is known.

Two mixtures of Gaussians stand for the domains A and B. Their noise predictors have a closed form, and
the ODE can be followed as finely as one likes, which gives the translation that a solver should find.
For each solver the table has the network evaluations from A to A, and the mean distances of A to A from
the input, of A to B from the true translation, and of A to B to A from the input.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from diffusions import (
    BDIA,
    DDIM,
    FixedPointInversion,
    Heun,
    SourceInversion,
    make_schedule,
    respace,
    translate,
)
from diffusions.prediction import to_x_0
from diffusions.process import Process
from diffusions.schedule import Schedule
from tools.parser import make_parser


@dataclass(frozen=True)
class Mixture:
    """Points around some means, all equally likely, with one standard deviation."""

    means: Tensor
    std: float = 0.15

    def sample(self, count: int, seed: int = 0) -> Tensor:
        """Draw points, float64 [count, 2]."""
        generator = torch.Generator().manual_seed(seed)
        chosen = torch.randint(len(self.means), (count,), generator=generator)
        noise = torch.randn(count, 2, generator=generator, dtype=torch.float64)
        return self.means[chosen] + self.std * noise

    def eps(self, y: Tensor, sigma: float) -> Tensor:
        """Return -sigma grad log p of y = x_0 + sigma eps, [N, 2]: the noise that one must expect in y."""
        variance = self.std**2 + sigma**2
        offsets = y[:, None] - self.means.to(y.dtype)
        weights = torch.softmax(-offsets.square().sum(2) / (2 * variance), dim=1)
        return sigma / variance * (weights[..., None] * offsets).sum(1)

    def follow(self, y: Tensor, source: float, target: float, steps: int = 400) -> Tensor:
        """Follow dy / dsigma = eps(y, sigma) by the classical Runge-Kutta method, in even steps of log sigma.

        Between 0 and 1e-4, where eps is linear in sigma, one step of the midpoint rule is exact enough.
        """
        low = 1e-4
        grid = torch.logspace(math.log10(low), math.log10(max(source, target)), steps + 1).tolist()
        path = [0.0, *grid] if target > source else [*reversed(grid), 0.0]
        for a, b in pairwise(path):
            h = b - a
            first = self.eps(y, a)
            second = self.eps(y + h / 2 * first, a + h / 2)
            if 0 in (a, b):
                y = y + h * second
                continue
            third = self.eps(y + h / 2 * second, a + h / 2)
            y = y + h / 6 * (first + 2 * second + 2 * third + self.eps(y + h * third, b))
        return y


def ring(count: int, radius: float, turn: float) -> Tensor:
    """Return evenly spaced points of a circle, float64 [count, 2]; the first lies at `turn` rounds."""
    angle = 2 * math.pi * (torch.arange(count, dtype=torch.float64) / count + turn)
    return radius * torch.stack([angle.cos(), angle.sin()], dim=1)


A, B = Mixture(ring(6, 0.8, 0.0)), Mixture(torch.cat([ring(4, 0.8, 0.1), torch.zeros(1, 2).double()]))


class Network:
    """A mixture's eps as a network of (x_t, timestep), which counts its calls."""

    def __init__(self, mixture: Mixture, schedule: Schedule):
        self.mixture, self.calls = mixture, 0
        self._levels = schedule.levels(range(schedule.num_timesteps))

    def __call__(self, x_t: Tensor, t: Tensor) -> Tensor:
        self.calls += 1
        signal, noise, _ = self._levels[int(t[0])]
        return self.mixture.eps(x_t / signal, noise / signal)


class Ancestor(DDIM):
    """DDIM that encodes as this project's ancestor did: the image counts as level 1, eps where one leaves."""

    def step(self, model, x_t, source, target, noise=None):
        """Move as DDIM on the way down; on the way up from a level with its eps, to level 1 not at all."""
        if target < source:
            return super().step(model, x_t, source, target, noise)
        if source == 0:
            return x_t
        x_0, eps, _ = self.predict(model, x_t, source, clip=False)
        return self.move(x_0, eps, source, target)


class OneIteration(DDIM):
    """DDIM with one plain fixed-point iteration after each step up."""

    def step(self, model, x_t, source, target, noise=None):
        """Move as DDIM; on the way up, once more with the eps of the state that was reached."""
        reached = super().step(model, x_t, source, target, noise)
        if target < source:
            return reached
        eps = self.predict(model, reached, target, clip=False).eps
        return self.move(to_x_0(eps, x_t, self.levels[source]), eps, source, target)


SOLVERS: list[tuple[str, type[Process], int]] = [
    ("DDIM, ancestor's convention", Ancestor, 100),
    ("DDIM, source convention", SourceInversion, 100),
    ("DDIM, target convention", DDIM, 100),
    ("the same + 1 fixed-point iteration", OneIteration, 100),
    ("DDIM, fixed point", FixedPointInversion, 100),
    ("DDIM, fixed point", FixedPointInversion, 20),
    ("Heun", Heun, 100),
    ("Heun", Heun, 50),
    ("Heun", Heun, 20),
    ("BDIA", BDIA, 100),
    ("BDIA", BDIA, 50),
    ("BDIA", BDIA, 20),
]


class Row(NamedTuple):
    """What is measured of a solver; distances are means over the points."""

    calls: int
    reconstruction: float
    translation: float
    cycle: float


def measure(process: Process, schedule: Schedule, points: Tensor, truth: Tensor) -> Row:
    """Translate points A to A, A to B and back.

    Args:
        process: One that runs both ways, on `schedule`.
        schedule: VP, in whose timesteps the networks are asked.
        points: Of domain A, [N, 2].
        truth: Their translations to B, from `true_translation`, [N, 2].
    """
    network_A, network_B = Network(A, schedule), Network(B, schedule)
    same = translate(process, network_A, network_A, points)
    calls = network_A.calls
    there = translate(process, network_A, network_B, points)
    back = translate(process, network_B, network_A, there)
    distances = [
        (x - y).norm(dim=1).mean().item() for x, y in [(same, points), (there, truth), (back, points)]
    ]
    return Row(calls, *distances)


def true_translation(points: Tensor, sigma: float) -> Tensor:
    """Return where the ODEs lead from A up to a noise level and down to B."""
    return B.follow(A.follow(points, 0.0, sigma), sigma, 0.0)


def main() -> None:
    """Read the options, measure, print the table."""
    parser = make_parser(__doc__, __spec__)
    parser.add_argument("--respacing", default="uniform-linspace", help="which timesteps are kept")
    parser.add_argument("--points", type=int, default=256, help="how many points are translated")
    args = parser.parse_args()
    schedule, points = make_schedule("linear", 1000, 1e-4, 0.02), A.sample(args.points)
    truths: dict[float, Tensor] = {}
    print("| solver | steps | calls | A to A | A to B, from the truth | A to B to A |")
    print("|---|---|---|---|---|---|")
    for name, solver, steps in SOLVERS:
        process = solver(schedule, respace(args.respacing, 1000, steps), clip_denoised=False)
        sigma = process.sigma(steps)
        if sigma not in truths:
            truths[sigma] = true_translation(points, sigma)
        row = measure(process, schedule, points, truths[sigma])
        errors = " | ".join(f"{error:.2g}" for error in row[1:])
        print(f"| {name} | {steps} | {row.calls} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
