"""What the paint page asks for, checked, and done exactly as sample_sdedit.py would do it."""

import argparse
import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from utils import assemble, images, jobs
from utils.images import mask_tensor
from utils.jobs import Item, Launch, Writer
from utils.quote import quote

MAX_SIDE = 2048
"""Of a picture that is sent, in pixels; the page paints on 1024 at most."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,59}")


@dataclass(frozen=True)
class Wanted:
    """One press of the button."""

    name: str
    """Of the picture, without suffix; the noise depends on it."""
    guide: Image.Image
    mask: Image.Image | None
    """White may change; None for everywhere."""
    t0: float
    steps: int
    seed: int
    class_label: str | None
    guidance_scale: float
    mask_feather: float


def read_wanted(content: bytes) -> Wanted:
    """Read what the page sends.

    Raises:
        ValueError: It is not what the page sends, or a picture is broken or too large.
    """
    try:
        given = json.loads(content)
    except (ValueError, RecursionError):
        raise ValueError("not JSON") from None
    if not isinstance(given, dict):
        raise ValueError("expected a JSON object")
    unknown = sorted(set(given) - {*Wanted.__dataclass_fields__})
    if unknown:
        raise ValueError(f"unknown {quote(unknown[0])}")
    name = _take(given, "name", str)
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {quote(name)}: letters, digits, _ - . and spaces, at most 60")
    guide = _picture(given, "guide")
    mask = _picture(given, "mask", images.read_mask) if given.get("mask") is not None else None
    if mask is not None and mask.size != guide.size:
        raise ValueError(f"the mask is {_size(mask)} and the guide {_size(guide)}; make them equal")
    label = _take(given, "class_label", str | None, None)
    return Wanted(
        name=name,
        guide=guide,
        mask=mask,
        t0=_number(given, "t0", 0, 1, above=True),
        steps=_whole(given, "steps", 1, 100_000),
        seed=_whole(given, "seed", 0, 2**53 - 1),
        class_label=label or None,
        guidance_scale=_number(given, "guidance_scale", 0, 100, 1.0),
        mask_feather=_number(given, "mask_feather", 0, 1024, 0.0),
    )


def _take(given: dict[str, Any], key: str, kind: Any, *default: Any) -> Any:
    if key not in given and not default:
        raise ValueError(f"{key} is missing")
    value = given.get(key, *default)
    if isinstance(value, bool) or not isinstance(value, kind):
        raise ValueError(f"{key} {quote(value)}: of the wrong kind")
    return value


def _number(given: dict[str, Any], key: str, low: float, high: float, *default: float, above=False) -> float:
    value = _take(given, key, int | float, *default)
    if not low <= value <= high or (above and value == low):  # NaN is neither
        raise ValueError(f"{key} {quote(value)}: allowed is {'above ' if above else ''}{low} to {high}")
    return float(value)


def _whole(given: dict[str, Any], key: str, low: int, high: int) -> int:
    value = _take(given, key, int)
    if not low <= value <= high:
        raise ValueError(f"{key} {quote(value)}: allowed is a whole number from {low} to {high}")
    return value


def _picture(given: dict[str, Any], key: str, convert: images.Convert = images.to_rgb) -> Image.Image:
    text = _take(given, key, str)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{key}: not an image in base64") from None
    try:
        return images.decode_bytes(content, MAX_SIDE * MAX_SIDE, convert)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


@dataclass(frozen=True)
class Plan:
    """An edit that can be done: all that was asked for has been checked."""

    args: argparse.Namespace
    process: Any
    guidance: assemble.Guidance
    levels: dict[int, str]
    tensors: dict[str, Tensor]

    @property
    def num_steps(self) -> int:
        """Steps that it takes."""
        return max(self.levels)


class Painter:
    """A network, loaded once, and the edits that it does."""

    def __init__(self, args: argparse.Namespace, place: Launch):
        """
        Args:
            args: The options of sample_sdedit.py; those that the page chooses are replaced for each edit.
            place: Where to run.

        Raises:
            ValueError: A config or weights that are wrong.
        """
        self._args, self._place = args, place
        self._config = assemble.read_config(args.config, args.overrides)
        self._trained = assemble.read_trained(self._config)
        self._network = assemble.load_network(self._config, args.weights, place)

    def describe(self) -> dict[str, object]:
        """Tell the page what it lets people choose."""
        num_classes = getattr(self._config.model, "num_classes", None) or 0
        names = [*self._config.classes, *map(str, range(len(self._config.classes), num_classes))]
        classes = [name for i, name in enumerate(names) if i != self._config.null_class]
        try:
            assemble.unconditional_label(self._config)
            without = True
        except ValueError:
            without = False
        return {
            "image_size": self._config.model.image_size,
            "num_timesteps": self._config.diffusion.num_timesteps,
            "classes": classes,
            "without_class": without,
            "config": str(self._args.config),
            "weights": str(self._args.weights),
        }

    def plan(self, wanted: Wanted) -> Plan:
        """Check what is asked for.

        Raises:
            ValueError: The network cannot do it.
        """
        chosen = {
            "t0": [wanted.t0],
            "respace_steps": wanted.steps,
            "seed": wanted.seed,
            "class_label": wanted.class_label,
            "guidance_scale": wanted.guidance_scale,
            "input_name": f"{wanted.name}.png",
        }
        args = argparse.Namespace(**{**vars(self._args), **chosen})
        timesteps = assemble.read_timesteps(args, self._config, default_steps=None)
        process = assemble.make_process(args, self._config, self._trained, timesteps)
        guidance = assemble.Guidance(args, self._config, args.class_label and [args.class_label])
        levels = assemble.choose_levels(args, process)
        return Plan(args, process, guidance, levels, self._tensors(wanted))

    def _tensors(self, wanted: Wanted) -> dict[str, Tensor]:
        model, how = self._config.model, self._args.fit
        fitted = images.fit(wanted.guide, model.image_size, how)
        tensors = {"image": images.to_tensor(fitted, model.in_channels)}
        if wanted.mask is not None:
            tensors["mask"] = mask_tensor(wanted.mask, model.image_size, how, wanted.mask_feather)
        return tensors

    @torch.inference_mode()
    def edit(self, plan: Plan, check: Callable[[], None], count: Callable[[], None]) -> bytes:
        """Do an edit.

        Args:
            plan: What to do.
            check: Called before each step; ends the edit by raising.
            count: Called after each step.

        Returns:
            The PNG file that sample_sdedit.py would write.

        Raises:
            ValueError: The result is not finite.
        """

        def build(place: Launch) -> tuple[jobs.Sampler, list[torch.nn.Module]]:
            network = self._network
            if place.dtype != self._place.dtype:  # once more in float32, see jobs.Method
                network = assemble.load_network(self._config, self._args.weights, place)
            [(model, gradient)], _ = plan.guidance.load(network, place)

            def watched(x: Tensor, t: Tensor) -> Tensor:
                check()
                output = model(x, t)
                count()
                return output

            editor = assemble.Editor(plan.args, plan.process.guided(gradient), watched, plan.levels)
            return editor, []  # no modules to watch: the model is watched here, guided or not

        method = jobs.Method(build, self._place)
        method.watch(check, lambda _: None)
        item = Item(plan.args.input_name, 0, plan.args.input_name)
        batch = {key: tensor[None] for key, tensor in plan.tensors.items()}
        [(results, dtype)] = method([item], batch)
        notes = {"precision": str(dtype).removeprefix("torch.")}
        writer = Writer(False, self._parameters(plan))
        [content] = writer.encode(item, plan.tensors["image"], results, notes).values()
        return content

    def _parameters(self, plan: Plan) -> dict[str, object]:
        """Return what sample_sdedit.py records in its files."""
        args = plan.args
        return {
            **assemble.edit_parameters(args, plan.process, plan.guidance),
            "config": args.config.name,
            "weights": args.weights.name,
            "seed": args.seed,
            "respace_type": args.respace_type,
            "fit": args.fit,
        }
