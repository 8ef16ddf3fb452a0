"""From the settings of DDIB to a plan."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from diffusions import match_timesteps
from diffusions.process import Process
from utils import images, jobs, log, quote, settings, sources
from utils.assemble.plan import Plan, find_saving
from utils.assemble.translate_batch import Side, Target, TranslateBatch
from utils.config import Config, class_name
from utils.running import Running
from utils.sampling import (
    Chosen,
    Guidance,
    Network,
    Retrying,
    Sizing,
    Swap,
    TextGuidance,
    Trained,
    check_place,
    check_same_images,
    complete,
    decoding_calls,
    describe_loss,
    encoding_calls,
    find_network,
    find_sizes,
    find_sizing,
    load_network,
    make_guidance,
    make_solver,
    move,
    read_config,
    read_trained,
    refuse_text,
    tell,
    translation_timesteps,
    unconditional_label,
)
from utils.settings import Translate

TITLE = "DDIB"


@dataclass(frozen=True)
class Ends:
    """What the settings of a translation amount to: both ends, and what leads to B."""

    translate: Translate
    chosen: Chosen
    config: Config
    config_B: Config
    timesteps: list[float]
    up: tuple[Process, Process]
    """Encoder and decoder of A."""
    down: tuple[Process, Process]
    """Those of B."""
    guidance: Guidance | TextGuidance
    sizing: Sizing

    @property
    def folders(self) -> dict[str, str | images.Prompt | None]:
        """Return the folder of each result, and its class or prompt: one folder for each of several."""
        classes, prompts = self.translate.class_B, self.translate.prompt_B
        if len(prompts) > 1:
            return {f"prompt_{i}": images.Prompt(text) for i, text in enumerate(prompts)}
        if len(classes) > 1:
            return {f"to_{name}": name for name in classes}
        return {"": (*classes, *map(images.Prompt, prompts), None)[0]}

    @property
    def space(self) -> dict[str, object]:
        """What a saved latent has to match."""
        main = self.chosen.main
        names = {"config": main.config.name, "weights": main.weights.name}
        tiles = {"tiles": self.translate.tiles or None}  # files of before say nothing of tiles
        return names | {"timesteps": self.timesteps, "solver": self.translate.solver} | tiles

    @property
    def of_text(self) -> dict[str, object]:
        """What a latent is told by a text: a class may be another in the same space, see `space`."""
        return {"prompt_A": self.translate.prompt_A} if self.translate.prompt_A is not None else {}

    @property
    def parameters(self) -> dict[str, object]:
        """What the PNG files record of the method."""
        other, wanted = self.chosen.other, self.translate.weights_B
        second = {"config_B": other.config.name, "weights_B": sources.parse(wanted).label} if other else {}
        return {
            **second,
            "solver": self.translate.solver,
            **({"t0": self.translate.t0} if self.translate.t0 else {}),
            "timesteps": len(self.timesteps),
            "inversion": self.translate.inversion,
            **self.guidance.parameters,
        }

    @property
    def num_calls(self) -> int:
        """Estimate the network evaluations of an image or tile for plan and progress; a run counts them."""
        translate, num_steps = self.translate, self.up[0].num_steps
        up, plain = encoding_calls(translate, num_steps), lambda sigma: 1
        back = decoding_calls(translate, self.up[1], plain)
        down = decoding_calls(translate, self.down[1], self.guidance.calls_at)
        num_targets = len(self.folders)
        calls = num_targets * down + (0 if translate.from_latents else up)
        if translate.cycle:
            calls += back + num_targets * (up + back)
        return calls


def find_ends(translate: Translate, chosen: Chosen, config: Config) -> tuple[Ends, Trained]:
    """Work out what the settings of a translation amount to.

    Raises:
        ValueError: Settings that do not go together or with the networks.
    """
    trained, config_B = read_trained(config), config
    translate = complete(translate, config)
    if chosen.other:
        config_B = read_config(chosen.other.config)
        check_same_images("--config_B", config_B, "--config", config)
    guidance = make_guidance(translate, chosen, config_B, read_targets(translate, config_B))
    timesteps = translation_timesteps(translate, trained, guidance.calls_at)
    up = down = make_solver(translate, trained, timesteps)
    if chosen.other:
        trained_B, encoder = read_trained(config_B), up[0]
        sigmas = [encoder.sigma(level) for level in range(1, encoder.num_steps + 1)]
        down = make_solver(translate, trained_B, match_timesteps(trained_B.schedule, sigmas))
    other = {"weights_B": config_B} if chosen.other else {}
    sizing = find_sizing(translate, {"weights": config} | other | guidance.configs)
    return Ends(translate, chosen, config, config_B, timesteps, up, down, guidance, sizing), trained


def plan_translation(network: settings.Network, translate: Translate, running: Running) -> Plan:
    """Plan a run of DDIB.

    Raises:
        ValueError: It cannot be done; the message says why.
    """
    chosen, config = find_network(network, translate, fetch=not running.dry_run)
    ends, trained = find_ends(translate, chosen, config)
    suffixes = (images.LATENT_SUFFIX,) if translate.from_latents else images.PICTURES
    names = images.find_inputs(running, translate, suffixes)
    told = read_sources(translate, config, running.folder, names)
    sizing, seen = ends.sizing, find_sizes(ends.sizing, running, names)
    check_place(sizing, running)
    sizing.warn(seen.values())
    reader = _reader(ends, running, names)
    _warn(ends, describe_loss(ends.translate, config, trained, ends.timesteps))
    return Plan(
        title=TITLE,
        network=network,
        method=ends.translate,
        running=running,
        chosen=chosen,
        config=config,
        timesteps=ends.timesteps,
        items=jobs.make_items(names, suffix=partial(reader.saving.suffix, running.folder)),
        reader=reader,
        folders=tuple(ends.folders),
        num_calls=round(ends.num_calls * sizing.calls(seen.values())),
        lines=_describe(ends, seen, len(names)),
        parameters=ends.parameters,
        build=lambda launch: build(ends, launch, told, most=running.micro_batch),
        conditions=told,
    )


def read_sources(
    translate: Translate, config: Config, input_dir: Path, names: list[str]
) -> dict[str, int] | None:
    """Return the class of each input, None for a network without classes.

    Raises:
        ValueError: Such a class does not exist, or the network needs one, or a prompt.
    """
    check_source(translate, config)
    if translate.class_A is None:
        return None
    return images.read_classes("class_A", translate.class_A, config, input_dir, names)


def check_source(translate: Translate, config: Config) -> None:
    """Refuse a translation whose inputs the network of A is not told of, or not in its way.

    Raises:
        ValueError: Such a translation.
    """
    if not config.told_text:
        refuse_text(replace(translate, prompt_B=()), config)
        if not (translate.class_A or translate.from_latents) and unconditional_label(config) is not None:
            raise ValueError("give --class_A, the class of the inputs, to a network with classes")
    elif translate.class_A is not None:
        raise ValueError("--class_A: this network has no classes, it is told a text; give --prompt_A")
    elif translate.prompt_A is None and not translate.from_latents:
        raise ValueError(
            "give --prompt_A, what the inputs show, to a network that is told a text; an empty one, '', says "
            "nothing"
        )


def read_targets(translate: Translate, config: Config) -> list[str] | list[images.Prompt]:
    """Return the classes or prompts that the network of B is to lead to.

    Raises:
        ValueError: Classes for a network of prompts, or the other way round.
    """
    if not config.told_text:
        refuse_text(replace(translate, prompt_A=None), config)
        return list(translate.class_B)
    if translate.class_B:
        raise ValueError("--class_B: this network has no classes, it is told a text; give --prompt_B")
    if not translate.prompt_B:
        raise ValueError("give --prompt_B, what the results show, to a network that is told a text")
    return [images.Prompt(text) for text in translate.prompt_B]


def build(
    ends: Ends,
    launch: jobs.Launch,
    sources: dict[str, int] | None,
    tick: Callable[[], None] | None = None,
    network: Network | None = None,
    most: int | None = None,
) -> tuple[jobs.Sampler, list[nn.Module]]:
    """Load the networks of a translation.

    Args:
        ends: What it amounts to.
        launch: Where it runs.
        sources: Class of each input by its relative path.
        tick: Called before each step.
        network: That of A, where it is loaded.
        most: Tiles a network call, where pictures are cut into them (default: the launch's micro-batch).

    Returns:
        The method on a batch, and the networks that it calls.

    Raises:
        ValueError: Weights that are wrong.
    """
    chosen, translate = ends.chosen, ends.translate
    solver = translate.solver
    tiles = ends.sizing.tiles(most or launch.micro_batch)
    network = (network or load_network(ends.config, chosen.main.weights, launch)).by(tiles)
    other = chosen.other
    away = [network.module] if other else []
    if translate.offload:
        move(away, torch.device("cpu"))  # a device that holds one network need never hold both
    network_B = load_network(ends.config_B, other.weights, launch).by(tiles) if other else network
    guide = ends.guidance.load(network_B, launch)
    encoder_B, decoder_B = ends.down

    def target(told: str | images.Prompt | None, num_images: int) -> Side:
        bound = guide.bind([told] * num_images)
        return Side(solver, encoder_B, decoder_B.guided(bound.gradient), bound.plain, bound.guided)

    def source(items: list[jobs.Item]) -> Side:
        model = network.model(_told(ends, network, sources, items, launch.device))
        return Side(solver, *ends.up, model, model)

    def note(item: jobs.Item) -> dict[str, object]:
        if ends.config.told_text:
            return {"prompt_A": translate.prompt_A}
        return {"class_A": None if sources is None else class_name(ends.config, sources[item.name])}

    def made_by(item: jobs.Item) -> dict[str, object]:
        return ends.space | {"class_A": sources and sources[item.name]} | ends.of_text

    targets = {
        folder: Target(None if told is None else ends.guidance.name_of(told), partial(target, told))
        for folder, told in ends.folders.items()
    }
    swap = Swap(launch.device, away, guide.modules if translate.offload else [])
    spaces = network.space, network_B.space
    batch = TranslateBatch(translate, source, targets, note, made_by, spaces, swap, tick)
    return Retrying(batch, tiles) if tiles else batch, [*away, *guide.modules]


def _told(
    ends: Ends, network: Network, sources: dict[str, int] | None, items: list[jobs.Item], device: torch.device
) -> tuple[Tensor, ...] | Tensor | None:
    """Return what the network of A is told of a batch."""
    if ends.config.told_text:
        return tell(network, [ends.translate.prompt_A] * len(items), 1.0, device)
    return None if sources is None else torch.tensor([sources[item.name] for item in items], device=device)


def _reader(ends: Ends, running: Running, names: list[str]) -> images.Inputs | images.Latents:
    sizing, translate = ends.sizing, ends.translate
    saving = find_saving(translate, running, ends.config, names)
    if translate.from_latents:
        shape = ends.config.state_channels, *sizing.shape_of_latents
        made_by, least = ends.space | ends.of_text, -(-sizing.least // sizing.factor)
        return images.Latents(running.folder, made_by, shape, least, saving)
    return images.Inputs(
        *(running.folder, sizing.size, ends.config.channels, translate.fit),
        least=sizing.least,
        saving=saving,
    )


def _describe(ends: Ends, seen: dict[str, tuple[int, int]], num_inputs: int) -> list[str]:
    """Say what a run would do."""
    encoder, (at, *small) = ends.up[0], ends.sizing.describe(seen)
    told = ", ".join([*ends.translate.class_B, *map(quote.plain, ends.translate.prompt_B)])
    wanted = told or ends.chosen.other.weights.name
    top = encoder.num_steps
    return [
        f"{num_inputs} images {at}, to {wanted}",
        *small,
        f"{top} levels up to timestep {ends.timesteps[-1]:g} of {encoder.num_timesteps}, "
        f"sigma {encoder.sigma(top):.4g}",
        f"{round(ends.num_calls * ends.sizing.calls(seen.values()))} network evaluations an image",
    ]


def _warn(ends: Ends, loss: str | None) -> None:
    """Say when the latent is not all noise, and what these steps lose."""
    process = ends.up[0]
    last = process.timesteps[-1]
    if last + 1 < 0.9 * process.num_timesteps and not ends.translate.t0:
        log.once(
            f"note: the last level is timestep {last:g} of {process.num_timesteps}, not pure noise, so the "
            "latent keeps part of the image; see docs/DDIB.md"
        )
    if loss:
        log.once(loss)
