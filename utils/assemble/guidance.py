"""Guidance to a class: by the network without one, or by a classifier."""

import argparse

from torch import nn

from diffusions import classifier_free, classifier_gradient
from diffusions.process import Gradient, Model
from models import CONFIG_CLASSES
from utils.assemble.networks import (
    Network,
    check_same_images,
    load_module,
    load_network,
    unconditional_label,
)
from utils.assemble.processes import read_config
from utils.config import Config, class_index, load_config
from utils.jobs import Launch


class Guidance:
    """What the guidance options ask for: checked before anything is loaded, loaded when it is needed."""

    def __init__(self, args: argparse.Namespace, config: Config, classes: list[str] | None):
        """
        Args:
            args: The options.
            config: Of the network that is guided.
            classes: Index or name of each class to lean to; None to lean to none.

        Raises:
            ValueError: Options that do not go together or with the networks.
        """
        self._args = args
        self._scale = args.guidance_scale
        self._away = self._classifier = None
        has_classes = getattr(config.model, "num_classes", None) is not None
        if classes is None and (self._scale != 1 or args.classifier):
            raise ValueError("guidance leads to a class; name the class of the results")
        if args.unconditional and self._scale == 1:
            raise ValueError("--unconditional has no effect at --guidance_scale 1; give a scale above 1")
        if classes is None:
            self.labels = [unconditional_label(config)]
        elif args.classifier and not has_classes:
            self.labels = [None] * len(classes)
        else:
            self.labels = [class_index(config, name) for name in classes]
        """What the network is told for each class."""
        if self._scale != 1:
            self._away = self._check_unconditional(config)
        if args.classifier:
            self._classifier = self._check_classifier(config)
            self._classes = [class_index(self._classifier, name) for name in classes]

    def _check_unconditional(self, config: Config) -> Config:
        if not self._args.unconditional:
            unconditional_label(config)
            return config
        away = read_config(self._args.unconditional[0])
        check_same_images("--unconditional", away, "the guided network", config)
        unconditional_label(away)
        if away.diffusion.process != config.diffusion.process or (
            _table(away) != _table(config) or away.diffusion.prediction != config.diffusion.prediction
        ):
            raise ValueError(
                "--unconditional: trained on another schedule or prediction than the guided network"
            )
        return away

    def _check_classifier(self, config: Config) -> Config:
        classifier = load_config(self._args.classifier[0], CONFIG_CLASSES)
        if not hasattr(classifier.model, "pool"):
            raise ValueError(
                f"--classifier {self._args.classifier[0]}: not a classifier; give an adm_classifier"
            )
        if config.diffusion.process == "ve":
            raise ValueError("--classifier: only for a vp process")
        if classifier.model.image_size != config.model.image_size:
            raise ValueError(
                f"--classifier is for images of {classifier.model.image_size}, the network makes "
                f"{config.model.image_size}"
            )
        return classifier

    @property
    def calls_per_step(self) -> int:
        """Network evaluations where an unguided sampler makes one."""
        return 1 + (self._away is not None) + (self._classifier is not None)

    @property
    def parameters(self) -> dict[str, object]:
        """What the PNG files record of the guidance."""
        found: dict[str, object] = {}
        if self._away is not None:
            found["guidance_scale"] = self._scale
        if self._args.unconditional:
            found["unconditional"] = self._args.unconditional[1].name
        if self._classifier is not None:
            found |= {
                "classifier": self._args.classifier[1].name,
                "classifier_scale": self._args.classifier_scale,
            }
        return found

    def load(
        self, network: Network, launch: Launch
    ) -> tuple[list[tuple[Model, Gradient | None]], list[nn.Module]]:
        """Load what guides.

        Returns:
            For each class the guided network and the classifier's gradient, if any; every module that
            will be called.

        Raises:
            ValueError: Weights that are broken, unsafe or those of another network.
        """
        models, modules = [network.model(label) for label in self.labels], [network.module]
        gradients: list[Gradient | None] = [None] * len(models)
        if self._away is not None:
            away = network
            if self._args.unconditional:
                away = load_network(self._away, self._args.unconditional[1], launch)
                modules.append(away.module)
            without = away.model(unconditional_label(self._away))
            models = [classifier_free(model, without, self._scale) for model in models]
        if self._classifier is not None:
            classifier = load_module(self._classifier, self._args.classifier[1], launch)
            modules.append(classifier)
            scale = self._args.classifier_scale
            gradients = [classifier_gradient(classifier, label, scale) for label in self._classes]
        return list(zip(models, gradients, strict=True)), modules


def _table(config: Config) -> tuple[object, ...]:
    diffusion = config.diffusion
    return diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end
