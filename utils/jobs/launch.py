"""Where this process runs: its place among the others, its device, its precision, its progress bar."""

import os
import shutil
import sys
import time
from dataclasses import dataclass

import torch
from accelerate import PartialState
from tqdm import tqdm

from utils import launchers
from utils.jobs import allocator
from utils.log import log, once

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_LINE_EVERY_S = 30.0
_COMPILERS = (os.environ.get("CXX", "c++"), "g++", "clang++", "cl")


@dataclass(frozen=True)
class Launch:
    """One process of a run."""

    rank: int
    world_size: int
    device: torch.device
    dtype: torch.dtype
    """Of the network's convolutions and linear layers."""
    compiled: bool = False
    """Networks are compiled."""

    @property
    def micro_batch(self) -> int:
        """Images a network call, where the user does not say."""
        return 16 if self.device.type == "cuda" else 4


def start(cpu: bool, precision: str, compiled: bool = False, sharded: bool = False) -> Launch:
    """Join the processes that a launcher started, or run alone.

    Args:
        cpu: Stay on the CPU.
        precision: 'fp32', 'bf16', 'fp16', or 'auto' for what `accelerate launch` asked for.
        compiled: Compile networks, as also where `accelerate launch` asked for it.
        sharded: Do a share of the work that no other process does, whatever started them.

    Raises:
        ValueError: The launcher started several processes that cannot see one another, or asked for
            a precision that the networks do not have; or there is nothing to compile with.
    """
    asked = launchers.join(sharded)
    compiled = compiled or _follow_backend()
    if compiled and not any(map(shutil.which, _COMPILERS)):
        raise ValueError(
            f"--compile: found no C++ compiler ({', '.join(_COMPILERS)}); install one, or leave out "
            "--compile, or the launcher's --dynamo_backend"
        )
    state = PartialState(cpu=cpu)
    if state.num_processes != asked:
        raise ValueError(
            f"the launcher started {asked} processes, but each of them believes that it is alone and would "
            "do all the work; on a machine without a GPU add --cpu to this command's own flags"
        )
    if precision == "auto":
        precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").replace("no", "fp32")
        if precision not in _DTYPES:
            raise ValueError(f"the launcher's mixed precision is {precision}; allowed are no, bf16 and fp16")
    if state.is_main_process:
        _hint_more_gpus(state)
    if state.device.type == "cpu":
        allocator.keep_freed_memory()
        if not computes_natively(precision):
            once(f"note: this CPU has no instructions for {precision}: fp32 may be far faster here")
    return Launch(state.process_index, state.num_processes, state.device, _DTYPES[precision], compiled)


def _follow_backend() -> bool:
    """Return whether `accelerate launch` asked for the backend that --compile has; say where for another."""
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no").lower()
    if backend not in ("", "no", "inductor"):
        once(f"note: the launcher's dynamo backend {backend} is not followed: --compile knows inductor alone")
    return backend == "inductor"


def computes_natively(precision: str) -> bool:
    """Whether the CPU has instructions for a precision, or is of a kind that does not say."""
    has = torch.cpu.get_capabilities()
    names = {"fp32": (), "bf16": ("avx512_bf16", "amx_bf16"), "fp16": ("avx512_fp16", "amx_fp16")}[precision]
    return not names or has.get("architecture") != "x86_64" or any(has.get(name) for name in names)


def finish() -> None:
    """Leave the group of processes, without waiting for the others."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _hint_more_gpus(state: PartialState) -> None:
    gpus = torch.cuda.device_count() if state.device.type == "cuda" else 0
    if state.num_processes == 1 and gpus > 1:
        log.info(f"using 1 of {gpus} GPUs; `accelerate launch --multi_gpu` in place of `python` uses all")


class Progress:
    """Progress of one process in images: a bar on a terminal, a line now and then elsewhere.

    Only rank 0 shows it. It advances with every network call, so that it moves inside an image too.
    """

    def __init__(self, num_images: int, calls_per_image: int, rank: int):
        self._calls_per_image = calls_per_image
        self.num_calls = 0
        """Network evaluations so far, counted by the image."""
        self._total, self._done, self._last = num_images, 0.0, time.monotonic()
        self._start = self._last
        self._quiet = rank != 0
        on_terminal = sys.stderr.isatty() and not self._quiet
        layout = "{percentage:3.0f}%|{bar}| {n:.1f}/{total} images [{elapsed}<{remaining}]"
        self._bar = tqdm(total=num_images, bar_format=layout) if on_terminal else None

    def network_called(self, batch_size: int) -> None:
        """Count one network call on a batch."""
        self.num_calls += batch_size
        self._advance(batch_size / self._calls_per_image)

    def skipped(self, num_images: int) -> None:
        """Count images that needed no network call."""
        self._advance(float(num_images))

    def _advance(self, images: float) -> None:
        self._done += images
        if self._bar is not None:
            self._bar.update(min(images, self._total - self._bar.n))
        elif not self._quiet and time.monotonic() - self._last > _LINE_EVERY_S:
            self._last = time.monotonic()
            left = max(0.0, (self._last - self._start) * (self._total / self._done - 1))
            log.info(f"{self._done:.1f} of {self._total} images, about {left:.0f} s left")

    def close(self) -> None:
        """Take the bar away."""
        if self._bar is not None:
            self._bar.close()
