"""What Editor and Translator share: a network that is loaded once, and pictures as people have them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from PIL import Image
from torch import Tensor, nn

from utils import codecs, images, jobs, option, settings
from utils.config import Config
from utils.running import Place
from utils.sampling import Chosen, Network, Sizing, Trained, load_network, read_config, read_trained, settle

Picture = str | Path | Image.Image
"""The path of a file, or an image of Pillow."""
Callback = Callable[[int, int | None], None]
"""Told of each step before it is made: how many were, and of how many; None where that is not known."""
Build = Callable[[jobs.Launch], tuple[jobs.Sampler, list[nn.Module]]]
Done = tuple[list[jobs.Result], torch.dtype]
"""The results of an item, and the precision that they were computed in."""


@dataclass(frozen=True)
class Loaded:
    """A network on its device, and how it was asked for."""

    asked: settings.Network
    chosen: Chosen
    config: Config
    trained: Trained
    launch: jobs.Launch
    micro_batch: int
    network: Network

    @classmethod
    def load(cls, weights: str | Path, given: dict[str, Any]) -> "Loaded":
        """Load a network.

        Args:
            weights: As --weights.
            given: Options of the network and of where it runs; others are left alone.

        Raises:
            ValueError: Wrong options, or weights that cannot be had or are wrong.
        """
        asked = option.make(settings.Network, {**given, "weights": str(weights)})
        place = option.make(Place, given)
        chosen = settle(asked)
        config = read_config(chosen.main.config, asked.overrides)
        launch = jobs.start(place.cpu, place.precision, place.compile)
        size = place.micro_batch if isinstance(place.micro_batch, int) else launch.micro_batch
        network = load_network(config, chosen.main.weights, launch)
        return cls(asked, chosen, config, read_trained(config), launch, size, network)

    @cached_property
    def weights_sha256(self) -> str:
        """The hash of the weights' file, which is read for it once."""
        return jobs.content_hash(self.chosen.main.weights)

    def choose(self, method: settings.Method) -> Chosen:
        """Find the other networks that the settings of a call name."""
        return settle(self.asked, method, main=self.chosen.main)

    def on(self, launch: jobs.Launch) -> Network:
        """Return the network as a launch wants it: the one that is there, or loaded again in float32."""
        same = launch.dtype == self.launch.dtype
        return self.network if same else load_network(self.config, self.chosen.main.weights, launch)

    def to_tensor(self, picture: Image.Image | codecs.Original, fit: str, sizing: Sizing) -> Tensor:
        """Bring a picture to the size of its result: [C, H, W] in [-1, 1].

        Raises:
            ValueError: It keeps its size, and is too small.
        """
        if sizing.size is None:
            images.check_least(picture.size, sizing.least)
        channels = self.config.channels
        if isinstance(picture, codecs.Original):
            return codecs.to_float(picture, sizing.size, fit, channels)
        return codecs.to_tensor(codecs.fit(picture, sizing.size, fit), channels)

    def batches(self, rows: Sequence[dict[str, Tensor]], sizing: Sizing) -> list[slice]:
        """Return the rows that are done together: as many as fit, of one shape; by tiles each alone."""
        most = 1 if sizing.tiled else self.micro_batch
        found: list[slice] = []
        for i, row in enumerate(rows):
            last = found[-1] if found else slice(0, 0)
            if last.stop - last.start in (0, most) or not jobs.stack_together(rows[last.start], row):
                found.append(slice(i, i + 1))
            else:
                found[-1] = slice(last.start, i + 1)
        return found

    @torch.inference_mode()
    def run(
        self,
        build: Build,
        items: Sequence[jobs.Item],
        rows: Sequence[dict[str, Tensor]],
        batches: Sequence[slice],
    ) -> list[Done]:
        """Do items in micro-batches, each as the commands do it.

        Args:
            build: Gives the method on a batch, see `jobs.Method`.
            items: What is done.
            rows: The tensors of each.
            batches: Which of them are done together.

        Returns:
            The results of each, on the CPU.

        Raises:
            ValueError: An item has no result; the message says why.
        """
        method, done = jobs.Method(build, self.launch), []
        for part in batches:
            batch = {key: torch.stack([row[key] for row in rows[part]]) for key in rows[part.start]}
            done += method(list(items[part]), batch)
        for item, (results, _) in zip(items, done, strict=True):
            for result in results:
                if problem := result.why_none():
                    raise ValueError(f"{item.name}: {problem}")
        return done


class OnLoaded:
    """A method from Python: a network that is loaded once, and options that every call starts from."""

    kind: ClassVar[type[settings.Method]]

    def __init__(self, loaded: Loaded, options: dict[str, Any]):
        """
        Args:
            loaded: The network; see `load`.
            options: Those of every call, by name.
        """
        self._loaded, self._options = loaded, options

    @classmethod
    def load(cls, weights: str | Path, **options: Any) -> Self:
        """Load a network, downloaded where it must be.

        Args:
            weights: A published name, a file, a diffusers folder or an address.
            **options: Those of the method's command by their names, without what reads and writes folders.
                `precision="bf16"`, `cpu=True` and `micro_batch=8` say how it runs; those of the method are
                the defaults of the calls.

        Raises:
            ValueError: Options that are not allowed, or weights that cannot be had or are wrong.
        """
        option.refuse_unknown(options, (settings.Network, cls.kind, Place))
        own = {name: value for name, value in options.items() if name in option.names_of(cls.kind)}
        cls._check(own)  # before the weights are read
        return cls(Loaded.load(weights, options), own)

    @classmethod
    def _check(cls, options: dict[str, Any]) -> None:
        """Refuse options of the calls that no call can mend."""

    @property
    def config(self) -> Config:
        """The config of the network; of DDIB that of A."""
        return self._loaded.config


def open_picture(picture: Picture, convert: codecs.Convert = codecs.to_rgb) -> Image.Image:
    """Read a picture of 8 bits, or take it as it is, in the mode that `convert` gives.

    Raises:
        ValueError: A file that is no picture, or a broken one, or a map that may mean several things.
    """
    if isinstance(picture, Image.Image):
        return convert(picture, [])
    try:
        with codecs.reading(Path(picture), convert=convert) as image:
            return image.copy()
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from None


def open_stored(
    picture: Picture | codecs.Original, ends: codecs.Ends | None, convert: codecs.Convert = codecs.to_rgb
) -> Image.Image | codecs.Original:
    """Read a picture as `open_picture` does or, from a file of more than 8 bits, as it is stored.

    One that was read so is returned as it is.

    Raises:
        ValueError: A file that is no picture, or a broken one, or numbers without `ends`.
    """
    if isinstance(picture, codecs.Original):
        return picture
    if isinstance(picture, Image.Image):
        return convert(picture, [])
    try:
        with codecs.reading_stored(Path(picture), None, convert, ends) as found:
            return found if isinstance(found, codecs.Original) else found.copy()
    except ValueError as error:
        raise ValueError(f"{picture}: {error}") from None


def name_pictures(pictures: Sequence[Picture], names: Sequence[str] | None) -> list[str]:
    """Return the name of each picture, on which its noise depends: of its file, else its number.

    Raises:
        ValueError: Names were given, but not one for each.
    """
    if names is None:
        return [Path(x).name if isinstance(x, str | Path) else f"{i}.png" for i, x in enumerate(pictures)]
    if len(names) != len(pictures):
        raise ValueError(f"{len(names)} names for {len(pictures)} pictures; give one for each")
    return list(names)


class Counter:
    """Counts the steps of a call, over its micro-batches, for a callback."""

    def __init__(self, callback: Callback, num_steps: int | None):
        self._callback, self._num_steps, self._done = callback, num_steps, 0

    def __call__(self) -> None:
        """Count a step, before it is made."""
        self._callback(self._done, self._num_steps)
        self._done += 1
