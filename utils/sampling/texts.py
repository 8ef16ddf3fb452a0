"""Guidance by text: what a network is told of prompts, and how it leans to them."""

from collections.abc import Iterable
from copy import copy
from functools import cached_property

import torch
from torch import Tensor, nn

from diffusions import EVERYWHERE, Within, classifier_free_at_once, is_within
from diffusions.process import Model
from utils.config import Config, count_classes
from utils.images import Prompt
from utils.jobs import Launch
from utils.sampling.guidance import Bound, Guidance
from utils.sampling.networks import Chosen, Network
from utils.sampling.readers import Told
from utils.settings import Method


class TextGuidance:
    """What the options of text ask for: checked before anything is loaded, loaded when it is needed."""

    def __init__(self, method: Method, chosen: Chosen, config: Config, prompts: Iterable[Prompt]):
        """
        Args:
            method: The settings, complete.
            chosen: The networks that they name.
            config: Of the network that is guided.
            prompts: All that it will be told.

        Raises:
            ValueError: Options that do not go together or with the network.
        """
        self._config, self._prompts = config, list(dict.fromkeys(prompts))
        self._given_interval = method.guidance_interval
        self._interval = method.guidance_interval or EVERYWHERE
        self.scale, self._negative = method.guidance_scale, method.negative_prompt
        for name in ("unconditional", "classifier"):
            if getattr(method, name):
                raise ValueError(f"--{name}: not with a network that is told a text; give --negative_prompt")
        unheard = self._negative is not None or any(prompt.negative for prompt in self._prompts)
        if unheard and not self.leans:
            raise ValueError(
                "a negative prompt has no effect without guidance; give a --guidance_scale above 1"
            )
        self.configs: dict[str, Config] = {}
        """The networks that guide, by the options that named them: none."""

    @property
    def leans(self) -> bool:
        """Whether two predictions are mixed; a network that is told the scale mixes none."""
        return self.scale != 1 and self._config.model.guidance_channels is None

    def calls_at(self, sigma: float) -> int:
        """Count the network evaluations of a prediction at a level, of which an unguided one makes one."""
        return 2 if self.leans and is_within(sigma, self._interval) else 1

    @property
    def parameters(self) -> dict[str, object]:
        """What the PNG files record of the guidance."""
        negative = {} if self._negative is None else {"negative_prompt": self._negative}
        within = {"guidance_interval": list(self._given_interval)} if self._given_interval else {}
        return {"guidance_scale": self.scale, **within, **negative}

    def name_of(self, prompt: Prompt) -> str:
        """Return what is said of a prompt in messages."""
        return prompt.text

    def note(self, prompt: Prompt) -> dict[str, object]:
        """Return what a result says of its prompt."""
        negative = {} if prompt.negative is None else {"negative_prompt": prompt.negative}
        return {"prompt": prompt.text, **negative}

    def load(self, network: Network, launch: Launch) -> "TextGuide":
        """Return what tells a network its texts."""
        return TextGuide(self, network, launch)

    def lean(self, plain: Model, both: Model) -> Within:
        """Return what leans where the options say so.

        Args:
            plain: The network, told what to lean to.
            both: For twice as many pictures, also told what to lean away from.
        """
        return Within(classifier_free_at_once(both, self.scale), plain, self._interval)

    @cached_property
    def texts(self) -> set[str | None]:
        """All that is read."""
        pairs = [self.pair(prompt) for prompt in self._prompts]
        return {text for text, _ in pairs} | {away for _, away in pairs if self.leans}

    def pair(self, prompt: Prompt) -> tuple[str, str | None]:
        """Return what to lean to and what to lean away from, None for nothing at all."""
        return prompt.text, self._negative if prompt.negative is None else prompt.negative


class TextGuide:
    """What tells a network its texts, on its device."""

    def __init__(self, guidance: TextGuidance, network: Network, launch: Launch):
        self.guidance, self.network, self._launch = guidance, network, launch
        self._more: Told = ()
        self.modules: list[nn.Module] = [network.module]

    def shown(self, small: Tensor) -> "TextGuide":
        """Return this for a network that is also shown a small picture of each of a batch, [B, C, h, w]."""
        guide = copy(self)
        guide._more = (small,)
        return guide

    def bind(self, prompts: list[Prompt]) -> Bound:
        """Bind the prompt of each picture of a batch."""
        pairs = [self.guidance.pair(prompt) for prompt in prompts]
        told = self._stack([text for text, _ in pairs])
        plain = guided = self.network.model(told)
        if self.guidance.leans:
            away = self._stack([negative for _, negative in pairs])
            both = self.network.model(tuple(torch.cat(parts) for parts in zip(told, away, strict=True)))
            guided = self.guidance.lean(plain, both)
        return Bound(plain, guided, None)

    def _stack(self, texts: list[str | None]) -> Told:
        reader = self.network.reader
        told = *tell(self.network, texts, self.guidance.scale, self._launch.device), *self._more
        if reader.has_read(self.guidance.texts):
            reader.rest()
        return told


def tell(network: Network, texts: list[str | None], scale: float, device: torch.device) -> Told:
    """Return what a network is told of a batch, each [B, ...].

    Args:
        network: That is told texts.
        texts: Of each picture; None for nothing at all.
        scale: Of guidance, for a network that is told it.
        device: Where the network is.
    """
    rows = network.reader.read(texts)
    told = tuple(torch.stack(parts).to(device) for parts in zip(*rows, strict=True))
    if network.config.model.guidance_channels is None:
        return told
    return *told, torch.full((len(texts),), scale, device=device)


def refuse_text(method: Method, config: Config) -> None:
    """Refuse prompts for a network that is told none.

    Raises:
        ValueError: A prompt.
    """
    classes = ", but a class: give --class_label" if count_classes(config.model) else ""
    for name in ("prompt", "prompt_file", "prompt_A", "prompt_B", "negative_prompt"):
        if getattr(method, name, None) not in (None, ()):
            raise ValueError(f"--{name}: this network is told no text{classes}")


def make_guidance(
    method: Method, chosen: Chosen, config: Config, told: list[str] | list[Prompt]
) -> Guidance | TextGuidance:
    """Return what the guidance options ask for.

    Args:
        method: The settings, complete.
        chosen: The networks that they name.
        config: Of the network that is guided.
        told: Classes or prompts to lean to, each once; none to lean to no class.

    Raises:
        ValueError: Options that do not go together or with the networks.
    """
    if config.told_text:
        return TextGuidance(method, chosen, config, told)
    return Guidance(method, chosen, config, told or None)
