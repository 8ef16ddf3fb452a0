"""What the paint page asks for, checked, and done exactly as sample_sdedit.py would do it."""

import base64
import binascii
import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from PIL import Image

from utils import codecs, images
from utils.assemble import Editor
from utils.config import class_name
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


def _picture(given: dict[str, Any], key: str, convert: codecs.Convert = codecs.to_rgb) -> Image.Image:
    text = _take(given, key, str)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{key}: not an image in base64") from None
    try:
        return codecs.decode_bytes(content, MAX_SIDE * MAX_SIDE, convert)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


@dataclass(frozen=True)
class Plan:
    """An edit that can be done: all that was asked for has been checked."""

    wanted: Wanted
    options: dict[str, Any]
    """Those of sample_sdedit.py."""
    num_steps: int
    """Steps that it takes."""


class Painter:
    """Does what the page asks for, with an editor."""

    def __init__(self, editor: Editor):
        self._editor = editor

    def describe(self) -> dict[str, object]:
        """Tell the page what it lets people choose."""
        config = self._editor.config
        num_classes = getattr(config.model, "num_classes", None) or 0
        names = [class_name(config, i) for i in range(num_classes) if i != config.null_class]
        try:
            self._editor.means()
            without = True
        except ValueError:
            without = False
        return {
            "image_size": config.model.image_size,
            "num_timesteps": config.diffusion.num_timesteps,
            "classes": names,
            "without_class": without,
            **self._editor.named,
        }

    def plan(self, wanted: Wanted) -> Plan:
        """Check what is asked for.

        Raises:
            ValueError: The network cannot do it.
        """
        options = {
            "t0": wanted.t0,
            "respace_steps": wanted.steps,
            "seed": wanted.seed,
            "class_label": wanted.class_label,
            "guidance_scale": wanted.guidance_scale,
            "mask_feather": wanted.mask_feather if wanted.mask is not None else 0.0,
        }
        return Plan(wanted, options, max(self._editor.means(**options).levels))

    def edit(self, plan: Plan, step: Callable[[int], None]) -> bytes:
        """Do an edit.

        Args:
            plan: What to do.
            step: Called before each step with the number of those made; ends the edit by raising.

        Returns:
            The PNG file that sample_sdedit.py would write.

        Raises:
            ValueError: The result is not finite.
        """
        wanted = plan.wanted
        return self._editor.encode(
            wanted.guide,
            f"{wanted.name}.png",
            mask=wanted.mask,
            callback=lambda done, _: step(done),
            **plan.options,
        )
