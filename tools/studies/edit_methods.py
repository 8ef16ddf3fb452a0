"""The methods of editing that are compared: those of the commands, and others that did not win."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from diffusions import (
    DDPM,
    classifier_free,
    cycle_translate,
    decode,
    edit,
    encode,
    flow_edit,
    levels_walked,
    respace,
)
from diffusions.process import Model, Noise, Process
from tools.studies.leaning import MIXES, lean
from utils import sampling


class Task(NamedTuple):
    """What a method is given: pictures, classes, noise, how far and how long."""

    network: sampling.Network
    trained: sampling.Trained
    pictures: Tensor
    sources: Tensor
    targets: Tensor
    noise: Noise
    mask: Tensor | None
    """What may change, [B, 1, H, W]; None for everything."""
    t0: float
    calls: int
    scale: float

    def source(self) -> Model:
        """The network, told what the pictures are."""
        return self.network.model(self.sources)

    def target(self) -> Model:
        """The network, told what results are to be, or nothing with a scale of 0."""
        nothing = self.network.model(self.network.config.null_class)
        if self.scale == 0:
            return nothing
        towards = self.network.model(self.targets)
        return towards if self.scale == 1 else classifier_free(towards, nothing, self.scale)

    @property
    def calls_per_step(self) -> int:
        """Of the target."""
        return 1 if self.scale in (0, 1) else 2

    def process(
        self, kind: Callable[..., Process], num_steps: int, spacing: str = "uniform-trailing"
    ) -> Process:
        """Place levels below t0."""
        schedule = self.trained.schedule
        top = round(self.t0 * schedule.num_timesteps)
        timesteps = sampling.choose_timesteps(spacing, schedule, top, max(1, num_steps))
        return kind(schedule, timesteps, self.trained.prediction)


def sdedit(
    task: Task,
    sampler: str = "sde-dpm-solver++",
    spacing: str = "uniform-trailing",
    repeats: int = 1,
    resample: int = 1,
    mix: str | None = None,
) -> Tensor:
    """SDEdit; `mix` is a way to lean."""
    kind = {"ddpm": DDPM, **sampling.SAMPLERS}[sampler]
    budget = task.calls // task.calls_per_step // repeats
    if sampler == "heun":
        budget = (budget + 1) // 2
    process = next(
        made
        for steps in range(budget, 0, -1)
        if len(levels_walked(made := task.process(kind, steps, spacing), steps, resample)) <= budget
    )
    target = task.target()
    if mix:
        nothing = task.network.model(task.network.config.null_class)
        towards = task.network.model(task.targets)
        target = lean(towards, nothing, task.trained.schedule, MIXES[mix], task.scale)
    return edit(
        *(process, target, task.pictures, process.num_steps, task.noise),
        mask=task.mask,
        repeats=repeats,
        resample=resample,
    )


def low(x: Tensor, factor: int) -> Tensor:
    """Return what stays of pictures that are made smaller and larger again."""
    small = F.interpolate(x, scale_factor=1 / factor, mode="bicubic", antialias=True, align_corners=False)
    return F.interpolate(small, size=x.shape[-2:], mode="bicubic", align_corners=False)


def ilvr(task: Task, factor: int = 8, until: float = 0.2) -> Tensor:
    """SDEdit whose low frequencies are those of the guide down to t0 `until` (Choi et al. 2021)."""
    process = task.process(sampling.SAMPLERS["sde-dpm-solver++"], task.calls // task.calls_per_step)
    level = process.num_steps
    x = process.diffuse(task.pictures, level, task.noise())
    step = process.start(task.target(), task.noise)
    for k in range(level, 0, -1):
        x = step(x, k, k - 1)
        if k > 1 and process.t0_at(k - 1) > until:
            x = x + low(process.diffuse(task.pictures, k - 1, task.noise()) - x, factor)
    return x


def restart(task: Task, low_t0: float = 0.1, times: int = 2) -> Tensor:
    """ODE down to t0 `low_t0`, `times` times, noised up between; then to the end (Xu et al. 2023)."""
    budget = task.calls // task.calls_per_step
    below = max(2, budget // 6)
    steps = (budget - below) // times
    schedule = task.trained.schedule
    top, bottom = (round(t * schedule.num_timesteps) for t in (task.t0, low_t0))
    lower = sampling.choose_timesteps("uniform-trailing", schedule, bottom, below)
    upper = [bottom + t for t in respace("uniform-trailing", top - bottom, steps)]
    process = sampling.SAMPLERS["dpm-solver++"](schedule, [*lower, *upper], task.trained.prediction)
    x = process.diffuse(task.pictures, process.num_steps, task.noise())
    for i in range(times):
        if i:
            x = process.renoise(x, below, process.num_steps, task.noise())
        step = process.start(task.target(), task.noise)
        for k in range(process.num_steps, below, -1):
            x = step(x, k, k - 1)
    for k in range(below, 0, -1):
        x = step(x, k, k - 1)
    return x


def flow(task: Task) -> Tensor:
    """FlowEdit."""
    process = task.process(DDPM, task.calls // (1 + task.calls_per_step))
    return flow_edit(process, task.source(), task.target(), task.pictures, task.noise)


def replayed(task: Task, independent: bool = False) -> Tensor:
    """CycleDiffusion, or edit-friendly inversion, from a start level."""
    process = task.process(DDPM, task.calls // (1 + task.calls_per_step))
    return cycle_translate(process, task.source(), task.target(), task.pictures, task.noise, independent)


def ddib(task: Task, solver: str = "heun", spacing: str = "quad90") -> Tensor:
    """DDIB; t0 counts for nothing."""
    per_step = {"heun": 2, "ddim": 1}[solver]
    steps = task.calls // (per_step * (1 + task.calls_per_step))
    schedule = task.trained.schedule
    timesteps = sampling.choose_timesteps(spacing, schedule, schedule.num_timesteps, steps)
    process = sampling.SAMPLERS[solver](schedule, timesteps, task.trained.prediction)
    return decode(process, task.target(), encode(process, task.source(), task.pictures))


METHODS: dict[str, Callable[..., Tensor]] = {
    "sdedit": sdedit,
    "ddpm": partial(sdedit, sampler="ddpm"),
    "ddim": partial(sdedit, sampler="ddim"),
    "heun": partial(sdedit, sampler="heun"),
    "karras": partial(sdedit, spacing="karras"),
    "quad": partial(sdedit, spacing="quad"),
    "linspace": partial(sdedit, spacing="uniform-linspace"),
    "twice": partial(sdedit, repeats=2),
    **{f"resample{times}": partial(sdedit, resample=times) for times in (2, 4, 8)},
    **{name: partial(sdedit, mix=name) for name in MIXES},
    "ilvr8": ilvr,
    "ilvr4": partial(ilvr, factor=4),
    "restart": restart,
    "flow": flow,
    "cycle-diffusion": replayed,
    "edit-friendly": partial(replayed, independent=True),
    "ddib": ddib,
}


def find(name: str) -> Callable[[Task], Tensor]:
    """Return a method by its name.

    Raises:
        SystemExit: There is none.
    """
    if name not in METHODS:
        raise SystemExit(f"no method {name!r}; choose of {', '.join(METHODS)}")
    return METHODS[name]
