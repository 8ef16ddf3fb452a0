"""What the environment says of the program that started this process, and of the others that it started."""

import os

_NUMBERS = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_PORT")
"""What torchrun and accelerate-launch tell their processes."""
_STRANGERS = (
    ("mpiexec", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),
    ("mpiexec", "PMI_SIZE", "PMI_RANK"),
    ("mpiexec", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_RANK"),
    ("srun", "SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),
    ("srun", "SLURM_NTASKS", "SLURM_PROCID"),
)
"""Launchers of another kind; what tells their processes how many they are, and which of them each is."""


def number(name: str, default: int) -> int:
    """Read a number from the environment; what is empty or no number counts as not there."""
    try:
        return int(os.environ.get(name, ""))
    except ValueError:
        return default


def join(sharded: bool) -> int:
    """Return how many processes torchrun or accelerate-launch started; 1 where it was neither.

    Variables that are there and empty are taken away, as torch and accelerate would read them as numbers;
    with --shard those of other launchers too, whose processes then have nothing to do with one another.

    Args:
        sharded: This process does a share of its own.

    Raises:
        ValueError: A variable is no number, or another launcher started several processes.
    """
    for name in _NUMBERS:
        text = os.environ.get(name)
        if text is not None and not text.strip():
            del os.environ[name]
        elif text is not None and (found := number(name, -2)) < 0 and found != -1:
            raise ValueError(
                f"the environment has {name}={text!r}, which is no whole number; a launcher sets it, so "
                "unset it to run without one"
            )
    if "WORLD_SIZE" not in os.environ:
        for launcher, size, rank in _STRANGERS:
            if _is_one_of_several(size, rank):
                _part(launcher, size, rank, sharded)
    return number("WORLD_SIZE", 1)


def _is_one_of_several(size: str, rank: str) -> bool:
    # SLURM_NTASKS counts also tasks that a job's script has yet to start
    return number(size, 1) > 1 and (size != "SLURM_NTASKS" or number(rank, 0) > 0)


def _part(launcher: str, size: str, rank: str, sharded: bool) -> None:
    count = number(size, 1)
    if not sharded:
        raise ValueError(
            f"{launcher} started {count} processes (it set {size}), which do not find one another here: each "
            f"would do all the work. Use torchrun --nproc_per_node {count} or accelerate-launch instead, or "
            f"give each its share: {launcher} ... sh -c 'exec python COMMAND ... --shard ${rank}/{count}'"
        )
    del os.environ[size]
