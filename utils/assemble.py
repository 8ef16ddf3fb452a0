"""What both commands share between their options and their loop: config, process, networks, files."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusions import (
    BDIA,
    DDIM,
    DDPM,
    DPMSolver,
    FixedPointInversion,
    Heun,
    NoiseSchedule,
    PredictorCorrector,
    SourceInversion,
    as_ve,
    classifier_free,
    classifier_gradient,
    from_unit_range,
    make_schedule,
    make_ve_schedule,
    respace,
)
from diffusions.process import Gradient, Model, Process
from diffusions.schedule import Schedule
from models import CONFIG_CLASSES, build_empty
from models.compiled import CompiledNetwork
from models.precision import cast_network
from utils import images, options, recognize
from utils.checkpoint import load_weights, open_checkpoint
from utils.config import Config, class_index, load_config
from utils.launch import Launch
from utils.results import STRIPS, TRAJECTORIES

SAMPLERS: dict[str, Callable[..., Process]] = {
    "ddim": DDIM,
    "dpm-solver++": DPMSolver,
    "sde-dpm-solver++": partial(DPMSolver, stochastic=True),
}
"""What --sampler may name beside ddpm, which has options of its own; the names are those of utils.options."""


@dataclass(frozen=True)
class Trained:
    """What a config says of the process that a network was trained on."""

    schedule: Schedule
    prediction: str
    """What the network means once it is adapted."""
    adapt: Callable[[Model], Model]
    """Lets the network work on this schedule."""


def settle_weights(args: argparse.Namespace) -> None:
    """Turn the sources of weights into files, downloaded where they must be, and find configs not given.

    Raises:
        ValueError: No config is given, implied or found, or the weights cannot be had.
    """
    shelf = recognize.Shelf(CONFIG_CLASSES, build_empty)

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


def read_config(path: Path, overrides: list[str] | None = None) -> Config:
    """Read the config of a network that predicts images.

    Raises:
        ValueError: The config is wrong, or is not that of an image-to-image network.
    """
    config = recognize.read_config(path, CONFIG_CLASSES, overrides)
    if config.model.out_channels not in (config.model.in_channels, 2 * config.model.in_channels):
        raise ValueError(f"{path}: this network does not predict images; give the config of a UNet")
    return config


def read_trained(config: Config) -> Trained:
    """Build the schedule that a network works on.

    A VE schedule is in the units of images in [-1, 1], so its sigmas are twice the published ones.

    Raises:
        ValueError: The config's schedule is not possible.
    """
    diffusion = config.diffusion
    if diffusion.process == "ve":
        schedule = make_ve_schedule(2 * diffusion.sigma_min, 2 * diffusion.sigma_max, diffusion.num_timesteps)
        if diffusion.prediction == "score":
            return Trained(schedule, "score", from_unit_range)
        vp = _vp_schedule(config)
        return Trained(schedule, "eps", lambda network: as_ve(network, vp, diffusion.prediction))
    return Trained(_vp_schedule(config), diffusion.prediction, lambda network: network)


def _vp_schedule(config: Config) -> NoiseSchedule:
    diffusion = config.diffusion
    return make_schedule(
        diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end
    )


def read_timesteps(args: argparse.Namespace, config: Config, default_steps: int | None) -> list[int]:
    """Choose the timesteps that the options keep.

    Args:
        args: The options.
        config: Of the network.
        default_steps: How many to keep where neither --respace_steps nor the --respace_type itself
            says so; None for all.

    Raises:
        ValueError: The respacing is not possible.
    """
    counted = args.respace_type in options.RESPACE_TYPES and args.respace_type != "none"
    num_steps = args.respace_steps or (default_steps if counted else None)
    return respace(args.respace_type, config.diffusion.num_timesteps, num_steps)


def make_process(args: argparse.Namespace, config: Config, trained: Trained, timesteps: list[int]) -> Process:
    """Build the sampler that the options name.

    Raises:
        ValueError: Options that do not go together, or with this network.
    """
    clip = trained.prediction != "score"  # as it was published
    given = (trained.schedule, timesteps, trained.prediction)
    if args.sampler != "ddpm":
        if args.var_type or args.corrector_steps:
            raise ValueError("--var_type and --corrector_steps: only for --sampler ddpm")
        return SAMPLERS[args.sampler](*given, clip_denoised=clip)
    var_type = _choose_variance(args, config)
    if not args.corrector_steps:
        return DDPM(*given, var_type, clip)
    if config.diffusion.process != "ve":
        raise ValueError("--corrector_steps: only for a config whose process is ve")
    return PredictorCorrector(*given, var_type, clip, corrector_steps=args.corrector_steps, snr=args.snr)


def make_solver(args: argparse.Namespace, trained: Trained, timesteps: list[int]) -> tuple[Process, Process]:
    """Build what follows the ODE up and what follows it down, as the options name them."""
    given = (trained.schedule, timesteps, trained.prediction)
    if args.solver == "cycle-diffusion":
        both = DDPM(*given)
    elif args.solver == "exact":
        both = BDIA(*given, clip_denoised=False)  # what is clipped cannot be undone
    elif args.solver == "ddim":
        kinds = {"source": SourceInversion, "fixed_point": FixedPointInversion}
        both = kinds.get(args.inversion, DDIM)(*given)
    else:
        both = Heun(*given)
    return both, DPMSolver(*given) if args.solver == "dpm-solver++" else both


def _choose_variance(args: argparse.Namespace, config: Config) -> str:
    var_type = args.var_type or options.var_type(config.diffusion.var_type)
    if var_type == "learned_range":
        if config.diffusion.process == "ve":
            raise ValueError("var_type learned_range: not for a ve process; use fixed_small or fixed_large")
        if config.model.out_channels == config.model.in_channels:
            raise ValueError(
                f"var_type learned_range: this network has {config.model.out_channels} output channels, none "
                "for its variance; use fixed_small or fixed_large"
            )
    return var_type


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
        return self.trained.adapt(bind_class(self.module, label))


def bind_class(network: nn.Module, label: int | Tensor | None) -> Model:
    """Return a network as a callable of (x_t, t) alone, for a class, one an image [B], or none."""
    if label is None:
        return network
    if isinstance(label, Tensor):
        return lambda x, t: network(x, t, label)
    return lambda x, t: network(x, t, torch.full((len(x),), label, device=x.device))


def load_network(config: Config, weights: Path, launch: Launch) -> Network:
    """Build a network, fill it with published weights, and move it to the device, ready to predict.

    Raises:
        ValueError: The weights are broken, unsafe, or those of another network.
    """
    module = _load(config, weights, launch)
    return Network(config, CompiledNetwork(module) if launch.compiled else module, read_trained(config))


def _load(config: Config, weights: Path, launch: Launch) -> nn.Module:
    network = build_empty(config.model)
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    shelf = recognize.Shelf(CONFIG_CLASSES, build_empty)
    network.load_state_dict(load_weights(weights, expected, shelf.describe), strict=True, assign=True)
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


def check_pair(source: Config, target: Config) -> None:
    """Refuse two networks that cannot translate between one another.

    Raises:
        ValueError: Images of another size or number of channels.
    """
    for key in ("image_size", "in_channels"):
        a, b = getattr(source.model, key), getattr(target.model, key)
        if a != b:
            raise ValueError(f"--config_B: its {key} is {b}, that of --config {a}; they must be equal")


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
        for key in ("image_size", "in_channels"):
            if getattr(away.model, key) != getattr(config.model, key):
                raise ValueError(
                    f"--unconditional: its {key} is {getattr(away.model, key)}, that of the guided network "
                    f"{getattr(config.model, key)}; they must be equal"
                )
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
            classifier = _load(self._classifier, self._args.classifier[1], launch)
            modules.append(classifier)
            scale = self._args.classifier_scale
            gradients = [classifier_gradient(classifier, label, scale) for label in self._classes]
        return list(zip(models, gradients, strict=True)), modules


def _table(config: Config) -> tuple[object, ...]:
    diffusion = config.diffusion
    return diffusion.schedule, diffusion.num_timesteps, diffusion.beta_start, diffusion.beta_end


def find_inputs(args: argparse.Namespace, suffixes: tuple[str, ...] = images.SUFFIXES) -> list[str]:
    """List the inputs.

    Raises:
        ValueError: There are no images, or a result would take the place of a strip.
    """
    names = images.find_images(args.input_dir, args.save_dir, suffixes)
    for flag, folder in (("comparison", STRIPS), ("trajectory", TRAJECTORIES)):
        if getattr(args, flag) and any(name.startswith(f"{folder}/") for name in names):
            raise ValueError(
                f"{args.input_dir}/{folder}: --{flag} saves its strips under this name; rename it"
            )
    return names
