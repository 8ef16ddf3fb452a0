"""From config and weights to networks on their device."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from diffusions.process import Model
from diffusions.tiles import Network as Callee
from diffusions.tiles import Tiles, padded
from models import CONFIG_CLASSES, build_empty
from models.compiled import CompiledNetwork
from models.precision import cast_network
from utils import settings, sources
from utils.config import Config
from utils.jobs import Launch
from utils.log import once
from utils.pipelines import INDEX, PipelineConfig, find_files, is_pipeline, load_part
from utils.sampling.processes import Trained, read_config, read_trained, trained_alphas
from utils.sampling.readers import Reader, make_reader
from utils.sampling.spaces import PIXELS, PixelSpace, load_space
from utils.weights import Shelf, check_fits, load_weights, open_checkpoint


class Files(NamedTuple):
    """A network on disk."""

    config: Path
    weights: Path
    """A file or a diffusers folder; one of no file where nothing was to be fetched."""


class Chosen(NamedTuple):
    """The networks that settings name, found on disk."""

    main: Files
    other: Files | None = None
    """That decodes, of DDIB between two networks."""
    unconditional: Files | None = None
    classifier: Files | None = None
    upsample: Files | None = None
    """That makes the results of SDEdit larger."""

    def files(self) -> dict[str, Path | list[Path] | None]:
        """Return the files by the options that named them."""
        found = {"weights": self.main.weights}
        if self.other:
            found |= {"config_B": self.other.config, "weights_B": self.other.weights}
        named = {
            "unconditional": self.unconditional,
            "classifier": self.classifier,
            "upsample": self.upsample,
        }
        return found | {name: list(files) for name, files in named.items() if files}


def settle(
    network: settings.Network,
    method: settings.Method | None = None,
    fetch: bool = True,
    main: Files | None = None,
) -> Chosen:
    """Find the networks that settings name: download what is not on disk, and find configs not given.

    Args:
        network: The one.
        method: May name others.
        fetch: Download; else the weights may be a path of no file.
        main: The one, where it was found before.

    Raises:
        ValueError: No config is given, implied or found, or the weights cannot be had.
    """
    shelf = Shelf(CONFIG_CLASSES, build_empty)

    def find(path: Path, hint: str) -> Path:
        return path / INDEX if is_pipeline(path) else shelf.find(open_checkpoint(path), hint)

    def one(config: Path | None, weights: str) -> Files:
        return Files(*sources.parse(weights, network.weights_dir).settle(config, find, fetch))

    def of_words(words: tuple[str, ...]) -> Files | None:
        return one(Path(words[0]) if len(words) == 2 else None, words[-1]) if words else None

    main = main or one(network.config, network.weights)
    if method is None:
        return Chosen(main)
    weights_B = getattr(method, "weights_B", None)
    other = one(method.config_B, weights_B) if weights_B else None
    upsample = of_words(getattr(method, "upsample", ()))
    return Chosen(main, other, of_words(method.unconditional), of_words(method.classifier), upsample)


def find_network(network: settings.Network, method: settings.Method, fetch: bool) -> tuple[Chosen, Config]:
    """Find the networks that settings name, and read the config of the one, before anything is loaded.

    Args:
        network: The one.
        method: May name others.
        fetch: As for `settle`.

    Raises:
        ValueError: As `settle`; or the config is wrong, or the weights on disk are not those of it.
    """
    chosen = settle(network, method, fetch)
    config = read_config(chosen.main.config, network.overrides)
    if isinstance(config, PipelineConfig):
        find_files(chosen.main.weights)
    elif chosen.main.weights.exists():
        shelf = Shelf(CONFIG_CLASSES, build_empty)
        check_fits(chosen.main.weights, shelf.shapes(config.model), shelf.describe)
    return chosen, config


def unconditional_label(config: Config) -> int | None:
    """Return the label for use without a class: the null label, or None where no label is needed.

    Raises:
        ValueError: The network always needs a class.
    """
    model = config.model
    if getattr(model, "num_classes", None) is None or config.null_class is not None:
        return config.null_class
    if getattr(model, "label_optional", False):
        if config.diffusion.process == "edm":
            once(
                f"warning: without a class; NVlabs trained networks of {model.num_classes} classes with one "
                "for every picture, so nothing is known of what this makes; name one"
            )
        return None
    raise ValueError(
        f"this network always needs one of its {model.num_classes} classes, its config names no "
        "null_class; name a class, or give the config and weights of an unconditional network"
    )


@dataclass(frozen=True)
class Network:
    """A network on its device, ready to predict."""

    config: Config
    module: nn.Module
    trained: Trained
    tiles: Tiles | None = None
    """What larger pictures are cut into, None to run on them as they are."""
    space: PixelSpace = PIXELS
    """Where it works."""
    reader: Reader | None = None
    """Reads texts for it, None for a network that is told none."""

    def by(self, tiles: Tiles | None) -> "Network":
        """Return it for pictures that are cut into tiles, or for such as they are."""
        return replace(self, tiles=tiles, space=self.space.by_tiles() if tiles else self.space)

    def model(self, told: tuple[Tensor, ...] | Tensor | int | None) -> Model:
        """Return the network as a callable of (x_t, t) alone.

        Args:
            told: What it is told of each image, each [B, ...]; a class an image [B], one, or none.
        """
        network = at_any_size(self.module, self.config.model, self.tiles)
        if told is None:
            return self.trained.adapt(network)
        if isinstance(told, int):
            return self.trained.adapt(
                lambda x, t: network(x, t, torch.full((len(x),), told, device=x.device))
            )
        facts = told if isinstance(told, tuple) else (told,)
        return self.trained.adapt(lambda x, t: network(x, t, *facts))


def at_any_size(network: Callee, model: Any, tiles: Tiles | None) -> Callee:
    """Return a network, or what is called like one, for pictures of the sizes that `Sizing` allows.

    Args:
        network: The one.
        model: The config of it, or of what it calls.
        tiles: What to cut pictures into, None to run it on them as they are.
    """
    return padded(network, size_multiple(model) or model.image_size) if tiles is None else tiles.over(network)


def size_multiple(model: Any) -> int | None:
    """Return what heights and widths are multiples of, by the config of a network; None for its own alone."""
    return getattr(model, "size_multiple", None)


def load_network(config: Config, weights: Path, launch: Launch) -> Network:
    """Build a network, fill it with published weights, and move it to the device, ready to predict.

    Raises:
        ValueError: The weights are broken, unsafe, or those of another network.
    """
    module = load_module(config, weights, launch)
    reader = make_reader(config, weights, module, launch)
    module = CompiledNetwork(module) if launch.compiled else module
    return Network(
        config, module, read_trained(config), space=load_space(config, weights, launch), reader=reader
    )


@torch.inference_mode(False)  # a classifier's gradient needs ordinary weights, wherever they are loaded
def load_module(config: Config, weights: Path, launch: Launch) -> nn.Module:
    """Do what `load_network` does for any network, as a classifier; it is not compiled."""
    network = build_empty(config.model)
    if isinstance(config, PipelineConfig):
        load_part(network, weights / "unet")
        return cast_network(network.to(launch.device), launch.dtype)
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    shelf = Shelf(CONFIG_CLASSES, build_empty)
    state = load_weights(weights, expected, shelf.describe, trained_alphas(config))
    network.load_state_dict(state, strict=True, assign=True)
    return cast_network(network.to(launch.device), launch.dtype)


class Swap:
    """Keeps on the device only the networks that are at work: those that encode, or those that decode."""

    def __init__(self, device: torch.device, source: list[nn.Module], target: list[nn.Module]):
        """
        Args:
            device: Where they work.
            source: Networks that encode.
            target: Networks that decode; empty to leave all where they are.
        """
        self._device, self._source, self._target = device, source, target

    def to_source(self) -> None:
        """Bring the networks that encode."""
        self._move(self._target, self._source)

    def to_target(self) -> None:
        """Bring the networks that decode."""
        self._move(self._source, self._target)

    def _move(self, away: list[nn.Module], here: list[nn.Module]) -> None:
        if self._target:
            move(away, torch.device("cpu"))
            move(here, self._device)


@torch.inference_mode(False)  # see `load_module`
def move(modules: list[nn.Module], device: torch.device) -> None:
    """Bring networks to a device."""
    for module in modules:
        module.to(device)


def check_same_images(flag: str, config: Config, whose: str, other: Config) -> None:
    """Refuse a network that does not work on the images of another.

    Args:
        flag: The option that named it.
        config: Of it.
        whose: What the other is called in the message.
        other: Its config.

    Raises:
        ValueError: Images of another size or number of channels.
    """
    for key in ("image_size", "channels", "factor"):
        a, b = getattr(config, key), getattr(other, key)
        if a != b:
            raise ValueError(f"{flag}: its {key} is {a}, that of {whose} {b}; they must be equal")
