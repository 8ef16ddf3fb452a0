"""From the settings of SDEdit to a plan."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from torch import nn

from diffusions.process import Process
from utils import images, jobs, log, settings
from utils.assemble.edit_batch import EditBatch
from utils.assemble.plan import Plan, find_saving
from utils.assemble.upsampling import Upsampler, find_upsampler
from utils.config import Config
from utils.running import Running
from utils.sampling import (
    Chosen,
    Guidance,
    Network,
    Retrying,
    Sizing,
    Start,
    TextGuidance,
    Tick,
    Trained,
    check_place,
    complete,
    describe_starts,
    edit_calls,
    find_network,
    find_sizes,
    find_sizing,
    find_starts,
    load_network,
    make_guidance,
    make_process,
    read_timesteps,
    read_trained,
    refuse_text,
)
from utils.settings import Edit

TITLE = "SDEdit"
_RESAMPLE = 4
"""Of edits with masks, where nothing is said (docs/SDEdit.md, Masks)."""


@dataclass(frozen=True)
class EditMeans:
    """What the settings of an edit amount to with a network."""

    edit: Edit
    chosen: Chosen
    config: Config
    starts: list[Start]
    """To edit from; none with auto_t0."""
    searched: Process | None
    """The sampler whose levels auto_t0 tries."""
    guidance: Guidance | TextGuidance
    sizing: Sizing
    upsampler: Upsampler | None
    """The second stage, None for results of the network's own size."""

    @property
    def processes(self) -> list[Process]:
        """Those of the starts, each once, or that of auto_t0."""
        return list({id(x): x for x in [start.process for start in self.starts] or [self.searched]}.values())

    def calls_of(self, process: Process, level: int) -> int:
        """Network evaluations for an image, or a tile of one, that is edited from a level."""
        return self.edit.repeats * edit_calls(self.edit, process, level, self.guidance.calls_at)

    @property
    def num_calls(self) -> int:
        """Network evaluations for an image or a tile, estimated where the level is searched for."""
        found = sum(self.calls_of(start.process, start.level) for start in self.starts)
        if self.searched:  # about half of the levels each time
            num_levels = self.searched.num_steps
            found = round(self.calls_of(self.searched, num_levels) * math.log2(num_levels + 1) / 2)
        second = self.upsampler.num_calls if self.upsampler else 0
        return found + second

    def parameters(self, masked: bool) -> dict[str, object]:
        """Return what the PNG files record of the method, with or without masks."""
        edit = self.edit
        names = ("mask_noise", "mask_feather", "mask_invert") if masked else ()
        names += ("region", "region_margin") if edit.region else ()
        names += ("resample",) if edit.resample > 1 else ()
        names += ("corrector_steps", "snr") if edit.corrector_steps else ()
        return {
            "sampler": edit.sampler,
            **({"calls": edit.calls} if edit.calls else {}),
            "var_type": getattr(self.processes[0], "var_type", None),
            "repeats": edit.repeats,
            "mask": masked,
            "strength": bool(edit.strength_dir),
            **{name: getattr(edit, name) for name in names},
            **self.guidance.parameters,
        }


def find_means(
    edit: Edit,
    chosen: Chosen,
    config: Config,
    trained: Trained,
    told: Mapping[str, str | images.Prompt],
    masked: bool,
) -> EditMeans:
    """Work out what the settings of an edit amount to.

    Args:
        edit: The settings.
        chosen: The networks that they name.
        config: Of the network that edits.
        trained: Its process.
        told: Name of the class of each picture that has one, or its prompt.
        masked: Whether any picture has a mask.

    Raises:
        ValueError: Settings that do not go together or with the network.
    """
    edit = complete(edit, config)
    if edit.resample is None:
        edit = replace(edit, resample=_RESAMPLE if masked and edit.calls else 1)
    guidance = make_guidance(edit, chosen, config, list(dict.fromkeys(told.values())))
    starts = find_starts(edit, config, trained, guidance.calls_at)
    whole = partial(make_process, edit, config, trained)
    searched = whole(read_timesteps(edit, trained, None)) if edit.auto_t0 else None
    upsampler = find_upsampler(edit, chosen, told)
    largest = {"upsample": upsampler.config} if upsampler else {"weights": config}
    sizing = find_sizing(edit, largest | guidance.configs)
    return EditMeans(edit, chosen, config, starts, searched, guidance, sizing, upsampler)


def plan_edit(network: settings.Network, edit: Edit, running: Running) -> Plan:
    """Plan a run of SDEdit.

    Raises:
        ValueError: It cannot be done; the message says why.
    """
    chosen, config = find_network(network, edit, fetch=not running.dry_run)
    trained = read_trained(config)
    names = images.find_inputs(running, edit, images.WITH_PAIRS)
    conditions, told = read_told(edit, config, running.folder, names)
    masks = images.find_masks(edit, running.save_dir, names)
    means = find_means(edit, chosen, config, trained, told, masked=masks is not None)
    sizing, seen = means.sizing, find_sizes(means.sizing, running, names)
    check_place(sizing, running)
    _warn(means)
    sizing.warn(seen.values())
    reader = _reader(means, running, names, masks)
    items = jobs.make_items(names, edit.samples, partial(reader.saving.suffix, running.folder))
    return Plan(
        title=TITLE,
        network=network,
        method=means.edit,
        running=running,
        chosen=chosen,
        config=config,
        timesteps=[timestep for process in means.processes for timestep in process.timesteps],
        items=items,
        reader=reader,
        folders=tuple(start.folder for start in means.starts) or ("",),
        num_calls=round(means.num_calls * sizing.calls(seen.values())),
        lines=_describe(means, seen, len(names), len(items), reader.missing(names)),
        parameters=means.parameters(masked=reader.masks is not None),
        build=lambda launch: build(means, launch, told, most=running.micro_batch),
        conditions=conditions,
    )


def _reader(
    means: EditMeans, running: Running, names: list[str], masks: images.Masks | None
) -> images.Inputs | images.RegionInputs:
    """Return what reads the inputs: whole, or the parts that masks mark.

    Raises:
        ValueError: No masks, or none of an input, or an option of masks without any.
    """
    edit, sizing = means.edit, means.sizing
    size = sizing.side if edit.region else sizing.size
    reader = images.Inputs(
        *(running.folder, size, means.config.channels, edit.fit),
        masks=masks,
        strengths=images.find_strengths(edit, running.save_dir, names),
        least=sizing.least,
        saving=find_saving(edit, running, means.config, names),
    )
    if edit.region is None:
        return reader
    if reader.masks is None:
        raise ValueError("--region mask: what may change is not said; give --mask_dir")
    return images.RegionInputs(reader, edit.region_margin)


def build(
    means: EditMeans,
    launch: jobs.Launch,
    told: Mapping[str, str | images.Prompt],
    tick: Tick | None = None,
    network: Network | None = None,
    most: int | None = None,
) -> tuple[jobs.Sampler, list[nn.Module]]:
    """Load the networks of an edit.

    Args:
        means: What it amounts to.
        launch: Where it runs.
        told: Name of the class of each picture that has one, or its prompt.
        tick: Called before each step.
        network: That edits, where it is loaded.
        most: Tiles a network call, where pictures are cut into them (default: the launch's micro-batch).

    Returns:
        The method on a batch, and the networks that it calls.

    Raises:
        ValueError: Weights that are wrong.
    """
    network = network or load_network(means.config, means.chosen.main.weights, launch)
    tiles = means.sizing.tiles(most or launch.micro_batch)
    guide = means.guidance.load(network.by(tiles), launch)
    batch = EditBatch(means.edit, means.starts, means.searched, guide, told, tick)
    if means.upsampler is None:
        return Retrying(batch, tiles) if tiles else batch, guide.modules
    both, modules = means.upsampler.load(batch, means.config.image_size, launch, told, tick)
    return both, [*guide.modules, *modules]


def read_told(
    edit: Edit, config: Config, input_dir: Path, names: list[str]
) -> tuple[dict[str, int | str] | None, Mapping[str, str | images.Prompt]]:
    """Return what the network is told of pictures: as a record has it, where they may differ; and all.

    Raises:
        ValueError: Prompts for a network that takes none, or none for one that does, or unknown classes.
    """
    if config.told_text:
        if edit.class_label is not None:
            raise ValueError("--class_label: this network has no classes, it is told a text; give --prompt")
        prompts = images.read_prompts(edit.prompt, edit.prompt_file, input_dir, names)
        differ = edit.prompt_file is not None or edit.prompt == images.BY_FOLDER
        return (
            {name: "\n".join(filter(None, x)) for name, x in prompts.items()} if differ else None
        ), prompts
    refuse_text(edit, config)
    if edit.class_label is None:
        return None, {}
    if not images.differs(edit.class_label):  # a classifier's class, perhaps, of a network without any
        return None, dict.fromkeys(names, edit.class_label)
    found = images.read_classes("class_label", edit.class_label, config, input_dir, names)
    return found, {name: str(index) for name, index in found.items()}


def _warn(means: EditMeans) -> None:
    """Say how far the edits go, and when the variance of the steps will show in them."""
    for line in describe_starts(means.edit, means.starts):
        log.once(line)
    interval = means.edit.guidance_interval
    for start in means.starts:
        if interval and start.sigma <= interval[0]:
            log.once(
                f"note: guidance leans at a sigma above {interval[0]:g}, and from t0 {start.t0:g} all are "
                "below, so it has no effect; --guidance_interval 0 3 leans there too"
            )
    process = means.processes[0]
    preserving = process.levels[-1].signal < 1
    if getattr(process, "var_type", "") == "fixed_large" and process.num_steps < 500 and preserving:
        log.once("warning: fixed_large leaves noise in images at few steps, prefer fixed_small")


def _describe(
    means: EditMeans, seen: dict[str, tuple[int, int]], num_inputs: int, num_items: int, missing: list[str]
) -> list[str]:
    """Say what a run would do."""
    at, *small = means.sizing.describe(seen)
    calls = means.sizing.calls(seen.values())
    num_results = num_items * max(1, len(means.starts))
    what = "images, the parts around their masks" if means.edit.region else "images"
    lines = [f"{num_inputs} {what} {at}, {num_results} results", *small, *missing]
    if means.edit.auto_t0:
        limit = means.edit.faithfulness
        return [
            *lines,
            f"up to level {means.searched.num_steps}, as far as the difference stays within {limit}",
        ]
    return lines + [
        f"level {start.level} of {start.process.num_steps}: t0 {start.t0:g}, timestep "
        f"{start.process.timesteps[start.level - 1]:g} of {start.process.num_timesteps}, "
        f"sigma {start.sigma:.4g}, "
        f"{round(calls * means.calls_of(start.process, start.level))} network evaluations an image"
        for start in means.starts
    ]
