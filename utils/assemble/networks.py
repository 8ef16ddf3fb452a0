"""From config and weights to networks on their device."""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusions.process import Model
from models import CONFIG_CLASSES, build_empty
from models.compiled import CompiledNetwork
from models.precision import cast_network
from utils import weights
from utils.assemble.processes import Trained, read_trained, trained_alphas
from utils.config import Config
from utils.jobs import Launch
from utils.weights import load_weights, open_checkpoint


def settle_weights(args: argparse.Namespace) -> None:
    """Turn the sources of weights into files, downloaded where they must be, and find configs not given.

    Raises:
        ValueError: No config is given, implied or found, or the weights cannot be had.
    """
    shelf = weights.Shelf(CONFIG_CLASSES, build_empty)

    def find(path: Path, hint: str) -> Path:
        return shelf.find(open_checkpoint(path), hint)

    for end in ("", "_B"):
        if source := getattr(args, f"weights{end}", None):
            found = source.settle(getattr(args, f"config{end}"), find, fetch=not args.dry_run)
            setattr(args, f"config{end}", found[0])
            setattr(args, f"weights{end}", found[1])
    for flag in ("unconditional", "classifier"):
        if given := getattr(args, flag, None):
            setattr(args, flag, list(given[1].settle(given[0], find, fetch=not args.dry_run)))


def unconditional_label(config: Config) -> int | None:
    """Return the label for use without a class: the null label, or None where no label is needed.

    Raises:
        ValueError: The network always needs a class.
    """
    model = config.model
    if getattr(model, "num_classes", None) is None or config.null_class is not None:
        return config.null_class
    if getattr(model, "label_optional", False):
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

    def model(self, label: int | Tensor | None) -> Model:
        """Return the network as a callable of (x_t, t) alone, for a class, one an image [B], or none."""
        network = self.module
        if label is None:
            return self.trained.adapt(network)
        if isinstance(label, Tensor):
            return self.trained.adapt(lambda x, t: network(x, t, label))
        return self.trained.adapt(lambda x, t: network(x, t, torch.full((len(x),), label, device=x.device)))


def load_network(config: Config, weights: Path, launch: Launch) -> Network:
    """Build a network, fill it with published weights, and move it to the device, ready to predict.

    Raises:
        ValueError: The weights are broken, unsafe, or those of another network.
    """
    module = load_module(config, weights, launch)
    return Network(config, CompiledNetwork(module) if launch.compiled else module, read_trained(config))


def load_module(config: Config, weights: Path, launch: Launch) -> nn.Module:
    """Do what `load_network` does for any network, as a classifier; it is not compiled."""
    network = build_empty(config.model)
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    shelf = weights.Shelf(CONFIG_CLASSES, build_empty)
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
        if not self._target:
            return
        for module in away:
            module.to("cpu")
        for module in here:
            module.to(self._device)


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
    for key in ("image_size", "in_channels"):
        a, b = getattr(config.model, key), getattr(other.model, key)
        if a != b:
            raise ValueError(f"{flag}: its {key} is {a}, that of {whose} {b}; they must be equal")
