"""What the paint page asks for, checked, and done exactly as sample_sdedit.py would do it."""

import base64
import binascii
import json
import re
from dataclasses import dataclass
from typing import Any

from PIL import Image

from tools.paint.queue import Step
from utils import codecs, images
from utils.assemble import Editor
from utils.config import class_name
from utils.quote import quote
from utils.settings import SAMPLERS

MAX_PIXELS = 48 * 2**20
"""Of a picture that is sent: the 8160x6120 of a large phone camera."""
_TILE = 1024
"""Side of what is put into a photo at once: copies of a whole photo may not fit into memory."""
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_. -]{0,59}")


@dataclass(frozen=True)
class Wanted:
    """One press of the button."""

    name: str
    """Of the picture, without suffix; the noise depends on it."""
    guide: Image.Image | codecs.Original
    """RGB, or with `region` a photo as it is stored, with its strokes."""
    mask: Image.Image | None
    """White may change; None for everywhere."""
    region: bool
    """Only the part of the guide around the mask is edited, and put back into it."""
    sampler: str | None
    """None for that of the program's start."""
    t0: float
    calls: int
    seed: int
    class_label: str | None
    prompt: str | None
    """For a network that is told a text."""
    guidance_scale: float
    mask_feather: float

    @property
    def num_bytes(self) -> int:
        """Memory that its pictures take."""
        return sum(_num_bytes(one) for one in (self.guide, self.mask) if one is not None)


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
    unknown = sorted(set(given) - {*Wanted.__dataclass_fields__, "strokes"})
    if unknown:
        raise ValueError(f"unknown {quote(unknown[0])}")
    name = _take(given, "name", str)
    if not _NAME.fullmatch(name):
        raise ValueError(f"name {quote(name)}: letters, digits, _ - . and spaces, at most 60")
    region = _take(given, "region", bool, False)
    stored = (codecs.as_stored, codecs.decode_stored) if region else ()
    guide = _picture(given, "guide", *stored)
    mask = _of_guide(given, "mask", images.read_mask, guide)
    if region and mask is None:
        raise ValueError("region: what may change is not said; give a mask")
    if region and (strokes := _of_guide(given, "strokes", _as_strokes, guide)) is not None:
        guide = _put_strokes(guide, strokes)
    label = _take(given, "class_label", str | None, None)
    sampler = _take(given, "sampler", str | None, None)
    if sampler not in (None, *SAMPLERS):
        raise ValueError(f"sampler {quote(sampler)}: allowed are {', '.join(SAMPLERS)}")
    return Wanted(
        name=name,
        guide=guide,
        mask=mask,
        region=region,
        sampler=sampler,
        t0=_number(given, "t0", 0, 1, above=True),
        calls=_whole(given, "calls", 1, 100_000),
        seed=_whole(given, "seed", 0, 2**53 - 1),
        class_label=label or None,
        prompt=_take(given, "prompt", str | None, None),
        guidance_scale=_number(given, "guidance_scale", 0, 100, 1.0),
        mask_feather=_number(given, "mask_feather", 0, 1024, 0.0),
    )


def _take(given: dict[str, Any], key: str, kind: Any, *default: Any) -> Any:
    if key not in given and not default:
        raise ValueError(f"{key} is missing")
    value = given.get(key, *default)
    if (isinstance(value, bool) and kind is not bool) or not isinstance(value, kind):
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


def _picture(
    given: dict[str, Any], key: str, convert: codecs.Convert = codecs.to_rgb, read: Any = codecs.decode_bytes
) -> Any:
    """Read a picture: an image of Pillow or, by `codecs.decode_stored`, what that returns."""
    text = _take(given, key, str)
    try:
        content = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(f"{key}: not an image in base64") from None
    try:
        return read(content, MAX_PIXELS, convert)
    except ValueError as error:
        raise ValueError(f"{key}: {error}") from None


def _of_guide(
    given: dict[str, Any], key: str, convert: codecs.Convert, guide: Image.Image | codecs.Original
) -> Image.Image | None:
    """Read a picture of the guide's size, None where it is not given."""
    if given.get(key) is None:
        return None
    found = _picture(given, key, convert)
    if found.size != guide.size:
        what = f"the {key} {'are' if key == 'strokes' else 'is'}"
        raise ValueError(f"{what} {_size(found.size)} and the guide {_size(guide.size)}; make them equal")
    return found


def _as_strokes(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode != "RGBA":
        raise codecs.RefusedError(f"of mode {image.mode}; strokes are RGBA, transparent where none are")
    return image


def _put_strokes(photo: Image.Image | codecs.Original, strokes: Image.Image) -> Image.Image | codecs.Original:
    """Paint strokes, RGBA in sRGB, on a photo as it is stored; where there are none no byte changes."""
    deep, opacity = isinstance(photo, codecs.Original), strokes.getchannel("A")
    original = photo if deep else codecs.Original.of(photo)
    left, top, right, bottom = opacity.getbbox() or (0, 0, 0, 0)
    for y in range(top, bottom, _TILE):
        for x in range(left, right, _TILE):
            place = (x, y, x + _TILE, y + _TILE)
            colours = codecs.to_tensor(strokes.crop(place).convert("RGB"), 3)
            original.put(codecs.Box(x, y, _TILE), colours, opacity.crop(place))
    return original if deep else original.image()


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _num_bytes(picture: Image.Image | codecs.Original) -> int:
    if isinstance(picture, codecs.Original):
        return picture.pixels.nbytes
    return picture.width * picture.height * len(picture.getbands())


@dataclass(frozen=True)
class Plan:
    """An edit that can be done: all that was asked for has been checked."""

    wanted: Wanted
    options: dict[str, Any]
    """Those of sample_sdedit.py."""
    num_steps: int
    """Steps that it takes, of each lot of parts that are edited together."""


class Painter:
    """Does what the page asks for, with an editor."""

    def __init__(self, editor: Editor, sampler: str | None = None):
        """
        Args:
            editor: That does it.
            sampler: That the page begins with; None for the one that the network is best used with.
        """
        self._editor, self._sampler = editor, sampler

    def describe(self) -> dict[str, object]:
        """Tell the page what it lets people choose."""
        config = self._editor.config
        num_classes = getattr(config.model, "num_classes", None) or 0
        names = [class_name(config, i) for i in range(num_classes) if i != config.null_class]
        without = self._can()
        some = {} if without or not names else {"class_label": names[0]}
        if config.told_text:
            some = {"prompt": ""}
        usual = self._editor.means(t0=0.5, sampler=self._sampler, **some).edit
        return {
            "image_size": config.image_size,
            "classes": names,
            "without_class": without,
            "told_text": config.told_text,
            "guidance": usual.guidance_scale,
            "samplers": [name for name in SAMPLERS if self._can(sampler=name, **some)],
            "sampler": usual.sampler,
            "calls": usual.calls,
            **self._editor.named,
        }

    def _can(self, **options: Any) -> bool:
        try:
            self._editor.means(**options)
        except ValueError:
            return False
        return True

    def plan(self, wanted: Wanted) -> Plan:
        """Check what is asked for.

        Raises:
            ValueError: The network cannot do it.
        """
        options = {
            "t0": wanted.t0,
            "calls": wanted.calls,
            "seed": wanted.seed,
            "sampler": wanted.sampler or self._sampler,
            "region": "mask" if wanted.region else None,
            "class_label": wanted.class_label,
            "prompt": wanted.prompt,
            "guidance_scale": wanted.guidance_scale,
            "mask_feather": wanted.mask_feather if wanted.mask is not None else 0.0,
        }
        return Plan(
            wanted, options, self._editor.means(masked=wanted.mask is not None, **options).starts[0].num_steps
        )

    def edit(self, plan: Plan, step: Step) -> bytes:
        """Do an edit.

        Args:
            plan: What to do.
            step: Called before each step with the number of those made, and of all; ends the edit by
                raising.

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
            callback=step,
            **plan.options,
        )
