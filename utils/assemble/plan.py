"""A plan of a run: everything checked, nothing loaded; it can be said, or started."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import nn

from utils import codecs, images, jobs, quote, settings, sources
from utils.config import Config
from utils.running import INPUT, Running
from utils.sampling import Chosen

_NUMBERS = (*codecs.NUMBERS, ".tif", ".tiff")
"""Suffixes of files that may hold numbers of which --range says what is black and white."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a command would do."""

    title: str
    """Name of the method."""
    network: settings.Network
    method: settings.Edit | settings.Translate
    running: Running
    chosen: Chosen
    config: Config
    timesteps: list[float]
    items: list[jobs.Item]
    reader: images.Inputs | images.Latents
    folders: tuple[str, ...]
    """Those of the results of an item, below save_dir."""
    num_calls: int
    """Network evaluations for an item, as far as they can be told before."""
    lines: list[str]
    """What --dry_run says."""
    parameters: dict[str, object]
    """What the files record of the method."""
    build: Callable[[jobs.Launch], tuple[jobs.Sampler, list[nn.Module]]] = field(repr=False)
    """Loads the networks, and returns the method on a batch."""
    conditions: dict[str, int | str] | None = None
    """What the network is told of each input by its relative path, where inputs may differ by it."""

    def describe(self) -> str:
        """Say what a run would do."""
        return "\n".join(self.lines)

    def start(self, command: str = "") -> jobs.Run:
        """Load the networks, and take the folder of the results and what is missing there.

        Args:
            command: The line that asked for this, which the run records.

        Raises:
            ValueError: Weights that are wrong, or a folder that cannot be used.
        """
        running = self.running
        launch = jobs.start(running.cpu, running.precision, running.compile, bool(running.shard))
        known, method = self._load(launch)
        if self.method.tiles:  # its --micro_batch is of tiles
            running = replace(running, micro_batch=1)
        run = jobs.Run(
            *(running, launch, self.items, self.reader, method, known),
            self._writer(known["weights"].removeprefix("sha256 ")),
            calls_per_item=self.num_calls,
            told=self._tell(command),
            conditions=self.conditions,
        )
        run.prepare()
        return run

    def _load(self, launch: jobs.Launch) -> tuple[dict[str, object], jobs.Method]:
        """Return what makes this run this run, and the method, with its networks loaded.

        Raises:
            ValueError: Weights that are wrong, or a folder of results that is another run's.
        """
        options = self.network.deciding() | self.method.deciding() | self.running.deciding()
        facts = self.config, self.timesteps, str(launch.dtype)
        if self.running.save_dir.exists():  # where it is another's, that is said before networks are loaded
            known = jobs.run_settings(options, self.chosen.files(), *facts)
            jobs.check(self.running, launch, known)
            return known, jobs.Method(self.build, launch)
        with ThreadPoolExecutor(1) as pool:  # to hash gigabytes takes as long as half of loading them
            hashed = pool.submit(jobs.run_settings, options, self.chosen.files(), *facts)
            method = jobs.Method(self.build, launch)
            return hashed.result(), method

    def _tell(self, command: str) -> jobs.Told:
        weights = quote.without_secrets(self.network.weights)
        parts = (self.network, self.method, self.running)
        given = {name: x for part in parts for name, x in part.changed().items() if name in part.deciding()}
        given = {"input_dir": self.running.input_dir} | given
        return jobs.Told(
            title=self.title,
            named={"config": self.chosen.main.config.name, "weights": weights},
            given={name: _in_words(x) for name, x in given.items() if name not in ("config", "weights")},
            command=command,
        )

    def _writer(self, weights_sha256: str) -> jobs.Writer:
        method, config = self.method, self.chosen.main.config
        recorded = record(self.title, self.network, config, method, weights_sha256)
        recorded |= self.parameters
        return jobs.Writer(
            comparison=method.comparison,
            parameters=None if self.running.no_metadata else recorded,
            folders=self.folders,
            trajectory=bool(method.trajectory),
            latents=getattr(method, "save_latents", False),
            previews=not self.running.no_report,
        )


def find_saving(
    method: settings.Method, running: Running, config: Config, names: list[str] = ()
) -> images.Saving:
    """Return how results are saved.

    Raises:
        ValueError: Black and white are said of numbers where there are none.
    """
    found = images.Saving(running.format, running.bits, find_ends(method, config), running.channels == INPUT)
    if (
        method.range
        and running.format != "npy"
        and not any(name.lower().endswith(_NUMBERS) for name in names)
    ):
        raise ValueError(
            f"--range: only for inputs of {' '.join(_NUMBERS)}, of which there are none, and --format npy; "
            "pictures of 8 and 16 bits say themselves what is black and white"
        )
    return found


def find_ends(method: settings.Method, config: Config) -> codecs.Ends | None:
    """Return which values are black and white in files of numbers; None where nothing says so."""
    found = method.range or config.diffusion.image_range
    return (float(found[0]), float(found[1])) if found else None


def _in_words(value: object) -> object:
    """Return the value of an option in terms of JSON, as people write it."""
    if isinstance(value, tuple):
        return [_in_words(part) for part in value]
    return quote.without_secrets(str(value)) if isinstance(value, str | Path) else value


def record(
    title: str,
    network: settings.Network,
    config: Path,
    method: settings.Method,
    weights_sha256: str,
) -> dict[str, object]:
    """Return what the files record of either method.

    Args:
        title: Name of the method.
        network: As it was asked for.
        config: File of the config that it has.
        method: What is made with it.
        weights_sha256: Of their file, as many are called model.safetensors.
    """
    changed = {"set": list(network.overrides)} if network.overrides else {}
    changed |= {"size": method.size} if method.size else {}
    changed |= {"tiles": True} if method.tiles else {}
    changed |= {"range": list(method.range)} if method.range else {}
    return {
        "program": settings.PROGRAM,
        "method": title,
        "config": config.name,
        **changed,
        "weights": sources.parse(network.weights, network.weights_dir).label,
        "weights_sha256": weights_sha256,
        "seed": method.seed,
        **({} if method.noise_by == "name" else {"noise_by": method.noise_by}),
        "respace_type": method.respace_type,
        "fit": method.fit,
    }
