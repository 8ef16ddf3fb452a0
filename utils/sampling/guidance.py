"""Guidance to a class: by the network without one, or by a classifier."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusions import EVERYWHERE, Within, classifier_free, classifier_gradient, is_within
from diffusions.process import Gradient, Model
from models import CONFIG_CLASSES
from utils import sources
from utils.config import Config, class_index, class_name, load_config
from utils.jobs import Launch
from utils.sampling.networks import (
    Chosen,
    Network,
    at_any_size,
    check_same_images,
    load_module,
    load_network,
    unconditional_label,
)
from utils.sampling.processes import read_config
from utils.settings import Method


class Guidance:
    """What the guidance options ask for: checked before anything is loaded, loaded when it is needed."""

    def __init__(self, method: Method, chosen: Chosen, config: Config, classes: Iterable[str] | None):
        """
        Args:
            method: The settings.
            chosen: The networks that they name.
            config: Of the network that is guided.
            classes: Index or name of each class to lean to; None to lean to none.

        Raises:
            ValueError: Options that do not go together or with the networks.
        """
        self._method, self._chosen, self._config = method, chosen, config
        self.scale, self.classifier_scale = method.guidance_scale, method.classifier_scale
        self._interval = method.guidance_interval or EVERYWHERE
        self._away = self._classifier = None
        if classes is None and (self.scale != 1 or method.classifier):
            raise ValueError("guidance leads to a class; name the class of the results")
        if self.scale != 1:
            self._away = self._check_unconditional(config)
        if method.classifier:
            self._classifier = self._check_classifier(config)
        if classes is None:
            self._label_of(None)
        for name in classes or ():
            self._label_of(name), self._target_of(name)

    def _label_of(self, name: str | None) -> int | None:
        """Return what the network is told for a class; None for nothing."""
        if name is None:
            return unconditional_label(self._config)
        if self._classifier is not None and getattr(self._config.model, "num_classes", None) is None:
            return None
        return class_index(self._config, name)

    def _target_of(self, name: str) -> int | None:
        """Return what the classifier leads to."""
        return None if self._classifier is None else class_index(self._classifier, name)

    def name_of(self, name: str | None) -> str | None:
        """Return the name of a class that was given by index or name; None for none."""
        if name is None or (label := self._label_of(name)) is None:
            return name
        return class_name(self._config, label)

    def _check_unconditional(self, config: Config) -> Config:
        if not self._chosen.unconditional:
            unconditional_label(config)
            return config
        away = read_config(self._chosen.unconditional.config)
        check_same_images("--unconditional", away, "the guided network", config)
        unconditional_label(away)
        if _table(away) != _table(config):
            raise ValueError(
                "--unconditional: trained on another schedule or prediction than the guided network"
            )
        return away

    def _check_classifier(self, config: Config) -> Config:
        classifier = load_config(self._chosen.classifier.config, CONFIG_CLASSES)
        if not hasattr(classifier.model, "pool"):
            raise ValueError(
                f"--classifier {self._chosen.classifier.config}: not a classifier; give an adm_classifier"
            )
        if config.diffusion.process != "vp":
            raise ValueError("--classifier: only for a vp process")
        if classifier.model.image_size != config.model.image_size:
            raise ValueError(
                f"--classifier is for images of {classifier.model.image_size}, the network makes "
                f"{config.model.image_size}"
            )
        return classifier

    def note(self, name: str | None) -> dict[str, object]:
        """Return what a result says of its class."""
        return {"class_label": self.name_of(name)}

    @property
    def configs(self) -> dict[str, Config]:
        """The networks that guide, by the options that named them."""
        found = {"unconditional": self._away if self._chosen.unconditional else None}
        found["classifier"] = self._classifier
        return {name: config for name, config in found.items() if config is not None}

    def calls_at(self, sigma: float) -> int:
        """Count the network evaluations of a prediction at a level, of which an unguided one makes one."""
        leans = self._away is not None and is_within(sigma, self._interval)
        return 1 + leans + (self._classifier is not None)

    @property
    def parameters(self) -> dict[str, object]:
        """What the PNG files record of the guidance."""
        found: dict[str, object] = {}
        if self._away is not None:
            found["guidance_scale"] = self.scale
            if self._method.guidance_interval:
                found["guidance_interval"] = list(self._method.guidance_interval)
        if self._chosen.unconditional:
            found["unconditional"] = _label(self._method.unconditional)
        if self._classifier is not None:
            found |= {
                "classifier": _label(self._method.classifier),
                "classifier_scale": self.classifier_scale,
            }
        return found

    def load(self, network: Network, launch: Launch) -> "Guide":
        """Load what guides.

        Raises:
            ValueError: Weights that are broken, unsafe or those of another network.
        """
        modules, without, classifier = [network.module], None, None
        if self._away is not None:
            away = network
            if self._chosen.unconditional:
                away = load_network(self._away, self._chosen.unconditional.weights, launch)
                away = away.by(network.tiles)
                modules.append(away.module)
            without = away.model(unconditional_label(self._away))
        if self._classifier is not None:
            classifier = load_module(self._classifier, self._chosen.classifier.weights, launch)
            modules.append(classifier)
        return Guide(self, network, launch, without, classifier, modules)

    def lean(self, plain: Model, away: Model) -> Within:
        """Return what leans from one network to another where the options say so."""
        return Within(classifier_free(plain, away, self.scale), plain, self._interval)

    def labels(self, names: list[str | None]) -> tuple[list[int] | None, list[int]]:
        """Return what network and classifier are told for each image; the former may be None."""
        labels = [self._label_of(name) for name in names]
        targets = [] if self._classifier is None else [self._target_of(name) for name in names]
        return None if None in labels else labels, targets


class Bound(NamedTuple):
    """A network that is told the class of each image of a batch."""

    plain: Model
    """Without guidance."""
    guided: Model
    gradient: Gradient | None
    """The classifier's, if any."""


@dataclass(frozen=True)
class Guide:
    """What guides a network, on its device."""

    guidance: Guidance
    network: Network
    launch: Launch
    without: Model | None
    """The network to lean away from."""
    classifier: nn.Module | None
    modules: list[nn.Module]
    """All that will be called."""

    def bind(self, names: list[str | None]) -> Bound:
        """Bind the class of each image of a batch; None for no class."""
        labels, targets = self.guidance.labels(names)
        plain = guided = self.network.model(None if labels is None else self._tensor(labels))
        if self.without is not None:
            guided = self.guidance.lean(plain, self.without)
        if self.classifier is None:
            return Bound(plain, guided, None)
        return Bound(plain, guided, self._gradient(self._tensor(targets)))

    def _gradient(self, labels: Tensor) -> Gradient:
        """Return the classifier's gradient; by tiles, that of each tile, averaged as predictions are."""

        def lead(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
            return classifier_gradient(self.classifier, y, self.guidance.classifier_scale)(x, t)

        led = at_any_size(lead, self.guidance.configs["classifier"].model, self.network.tiles)
        return lambda x, t: led(x, t, labels)

    def _tensor(self, labels: list[int]) -> Tensor:
        return torch.tensor(labels, device=self.launch.device)


def _label(words: tuple[str, ...]) -> str:
    """Return what the weights of [CONFIG] WEIGHTS are called."""
    return sources.parse(words[-1]).label


def _table(config: Config) -> tuple[object, ...]:
    """Return what two networks whose predictions are mixed must have in common."""
    diffusion = config.diffusion
    names = ("process", "schedule", "num_timesteps", "beta_start", "beta_end", "prediction")
    names += ("image_range", "trained_betas", "rescale_betas_zero_snr")
    return tuple(getattr(diffusion, name) for name in names)
