"""The second stage of SDEdit: the inputs once more, at the size of a larger network, beside the results."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils import images, jobs
from utils.assemble.edit_batch import EditBatch
from utils.config import Config
from utils.sampling import (
    Chosen,
    Start,
    TextGuidance,
    TextGuide,
    Tick,
    edit_calls,
    find_starts,
    load_network,
    read_config,
    read_trained,
)
from utils.settings import Edit


@dataclass(frozen=True)
class Upsampler:
    """What the settings of an edit amount to with the larger network."""

    edit: Edit
    chosen: Chosen
    config: Config
    starts: list[Start]
    """To edit from."""
    guidance: TextGuidance

    @property
    def num_calls(self) -> int:
        """Network evaluations for an image."""
        return self.edit.repeats * sum(
            edit_calls(self.edit, start.process, start.level, _plain) for start in self.starts
        )

    def load(
        self,
        small: jobs.Sampler,
        side: int,
        launch: jobs.Launch,
        told: Mapping[str, images.Prompt],
        tick: Tick | None,
    ) -> tuple[jobs.Sampler, list[nn.Module]]:
        """Load it.

        Args:
            small: The first stage.
            side: Height and width of its images.
            launch: Where both run.
            told: Prompt of each picture.
            tick: Called before each step.

        Returns:
            Both stages on a batch, and the networks of this one.

        Raises:
            ValueError: Weights that are wrong.
        """
        network = load_network(self.config, self.chosen.upsample.weights, launch)
        guide = self.guidance.load(network, launch)
        return Upsampling(self, small, side, guide, told, tick), guide.modules


def find_upsampler(edit: Edit, chosen: Chosen, told: Mapping[str, images.Prompt]) -> Upsampler | None:
    """Work out what the settings amount to with the larger network, None where none is asked for.

    Raises:
        ValueError: It is no such network, or lacks a level.
    """
    if chosen.upsample is None:
        return None
    config = read_config(chosen.upsample.config)
    if not getattr(config.model, "upsampler", False):
        raise ValueError(f"--upsample {chosen.upsample.config}: this network is shown no small picture")
    edit = replace(edit, guidance_scale=1.0, negative_prompt=None)
    trained = read_trained(config)
    starts = find_starts(edit, config, trained, _plain)
    guidance = TextGuidance(edit, chosen, config, [images.Prompt(prompt.text) for prompt in told.values()])
    return Upsampler(edit, chosen, config, starts, guidance)


def _plain(sigma: float) -> int:
    """Return the network evaluations of a prediction without guidance."""
    return 1


class Upsampling:
    """Edits a batch small, then large."""

    def __init__(
        self,
        upsampler: Upsampler,
        small: jobs.Sampler,
        side: int,
        guide: TextGuide,
        told: Mapping[str, images.Prompt],
        tick: Tick | None,
    ):
        self._upsampler, self._small, self._side, self._guide = upsampler, small, side, guide
        self._told = {name: images.Prompt(prompt.text) for name, prompt in told.items()}
        self._tick = tick

    def __call__(self, items: list[jobs.Item], tensors: dict[str, Tensor]) -> list[list[jobs.Result]]:
        """Return the results of each item, from every level."""
        size = (self._side, self._side)
        tiny = {key: F.interpolate(tensor, size, mode="area") for key, tensor in tensors.items()}
        first = self._small(items, tiny)
        by_start = []
        for index, start in enumerate(self._upsampler.starts):
            small = torch.stack([results[index].image for results in first])
            batch = EditBatch(
                *(self._upsampler.edit, [start], None, self._guide.shown(small), self._told, self._tick),
            )
            by_start.append([results[0] for results in batch(items, tensors)])
        return [list(row) for row in zip(*by_start, strict=True)]
