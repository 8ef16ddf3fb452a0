"""Folders of maps beside the inputs, masks and strengths: which belongs to which input, and what it holds."""

import difflib
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from PIL import Image, ImageChops, ImageFilter
from torch import Tensor

from utils import codecs
from utils.codecs import Convert
from utils.images import map_values, paths
from utils.log import once
from utils.quote import plain
from utils.settings import Edit

T = TypeVar("T")
PAIR_SUFFIX = ".pth"
_COMPARED = 2000
"""Names among which the nearest is looked for."""


class Maps:
    """A folder of pictures in shades of grey, one for each input of the same relative stem."""

    def __init__(self, folder: Path, save_dir: Path, convert: Convert = map_values.read_mask):
        """
        Args:
            folder: Where they are.
            save_dir: Folder of results, left out where it lies inside.
            convert: What a decoded picture means.

        Raises:
            ValueError: The folder holds no images, or two for one stem.
        """
        self.folder, self._convert = folder, convert
        self._files: dict[str, str] = {}
        for name in paths.find_images(folder, save_dir):
            other = self._files.setdefault(_stem(name), name)
            if other != name:
                raise ValueError(f"{folder}: both {other} and {name} belong to one input; keep one of them")

    def file(self, name: str) -> str | None:
        """Return the relative path of an input's map, None where there is none."""
        return self._files.get(_stem(name))

    def read(self, name: str, size: tuple[int, int], use: Callable[[Image.Image], T]) -> T | None:
        """Read the map of an input.

        Args:
            name: Relative path of the input.
            size: Width and height of the input, which are the map's too.
            use: What is wanted of the map, which is in mode L; its memory is given back thereafter.

        Returns:
            What came of it; None where the input has no map.

        Raises:
            ValueError: The map is broken, not of the input's size, or may mean several things.
        """
        file = self.file(name)
        if file is None:
            return None
        whose = f"its {self.folder.name}/{file}"
        try:
            with codecs.reading(self.folder / file, self.folder, self._convert) as found:
                if found.size == size:
                    return use(found)
                other = found.size
        except ValueError as error:
            raise ValueError(f"{whose}: {error}") from None
        raise ValueError(
            f"{whose} is {other[0]}x{other[1]} and the image {size[0]}x{size[1]}; make them equal, "
            "they are cropped alike"
        )

    def check_names(self, names: list[str]) -> None:
        """Say which maps belong to no input.

        Raises:
            ValueError: None belongs to any.
        """
        stems = {_stem(name): name for name in names if not is_pair(name)}
        unused = [file for stem, file in self._files.items() if stem not in stems]
        if len(unused) == len(self._files):
            raise ValueError(
                f"{self.folder}: no file belongs to an input by its name; {self._nearest(stems)}"
            )
        if unused:
            total = len(self._files)
            once(f"{len(unused)} of {total} files in {self.folder} belong to no input: {_name_some(unused)}")

    def _nearest(self, stems: dict[str, str]) -> str:
        if not stems:
            return "the inputs have masks of their own"
        own = list(self._files)[:50]
        _, stem, other = max(
            (difflib.SequenceMatcher(None, mine, other).ratio(), mine, other)
            for mine in own
            for other in list(stems)[: _COMPARED // len(own)]
        )
        file = self._files[stem]
        wanted = f"{other}.{file.rpartition('.')[2]}"
        return f"nearest is {plain(file)}, which has to be named {plain(wanted)} for {plain(stems[other])}"


@dataclass(frozen=True)
class Masks:
    """Where the masks come from and how they are read: white may change, black is kept."""

    maps: Maps | None
    """None where only pairs have masks of their own."""
    missing_means_all: bool = False
    """An input without a mask may change everywhere; else it is a failed item."""
    invert: bool = False
    feather: float = 0.0
    """Width of the soft edge inside what may change, in the model's pixels."""

    def read(self, name: str, size: tuple[int, int], use: Callable[[Image.Image], T]) -> T | None:
        """Read the mask of an input, see `Maps.read`; None where everything of it may change.

        Raises:
            ValueError: As for `Maps.read`, or it has none and needs one.
        """
        found = self.maps and self.maps.read(name, size, use)
        if found is None and self.maps is not None and not self.missing_means_all:
            raise ValueError(f"no mask in {self.maps.folder}; add one, or use --mask_default all")
        return found


def read_strength(strengths: Maps, name: str, size: tuple[int, int], use: Callable[[Image.Image], T]) -> T:
    """Read the strengths of an input, see `Maps.read`.

    Raises:
        ValueError: As for `Maps.read`, or it has none.
    """
    found = strengths.read(name, size, use)
    if found is None:
        raise ValueError(f"no picture of its strengths in {strengths.folder}")
    return found


def find_masks(edit: Edit, save_dir: Path, names: list[str]) -> Masks | None:
    """Find the masks that the options name; None where no input has any.

    Raises:
        ValueError: An option of masks without masks, or of regions without --region; no masks in the
            folder, or none for any input.
    """
    if edit.region is None and "region_margin" in edit.changed():
        raise ValueError(f"--region_margin {edit.region_margin:g}: only with --region mask; add that")
    maps = Maps(edit.mask_dir, save_dir) if edit.mask_dir else None
    if maps is None and not any(is_pair(name) for name in names):
        if edit.mask_invert or edit.mask_feather or edit.mask_default == "all":
            raise ValueError("--mask_invert, --mask_feather and --mask_default: only with --mask_dir")
        if (edit.resample or 1) > 1 and not edit.strength_dir:
            raise ValueError(
                "--resample: only with --mask_dir or --strength_dir, it fits parts to one another"
            )
        return None
    if maps is not None:
        maps.check_names(names)
    missing_means_all = maps is None or edit.mask_default == "all"
    return Masks(maps, missing_means_all, edit.mask_invert, edit.mask_feather)


def find_strengths(edit: Edit, save_dir: Path, names: list[str]) -> Maps | None:
    """Find the strengths that the options name, if any.

    Raises:
        ValueError: None in the folder, or none for any input.
    """
    if not edit.strength_dir:
        return None
    maps = Maps(edit.strength_dir, save_dir, map_values.read_strengths)
    maps.check_names(names)
    return maps


def is_pair(name: str) -> bool:
    """Tell whether an input has a mask of its own."""
    return name.lower().endswith(PAIR_SUFFIX)


def _name_some(names: list[str], most: int = 3) -> str:
    return ", ".join([*map(plain, names[:most]), *(["..."] if len(names) > most else [])])


def _stem(name: str) -> str:
    """Return what an input and its maps have in common: systems spell accents in two ways."""
    return unicodedata.normalize("NFC", name.rpartition(".")[0])


def mask_tensor(
    mask: Image.Image, size: int | tuple[int, int] | None, fit: str, feather_width: float
) -> Tensor:
    """Bring a mask to the size of the results and soften its edge: [1, H, W] in [0, 1], 1 may change."""
    return to_unit(feather(codecs.fit(mask, size, fit), feather_width))


def feather(mask: Image.Image, width: float) -> Image.Image:
    """Soften the edge of a mask inwards, over `width` pixels, so that black stays black."""
    if width == 0:
        return mask
    blurred = mask.filter(ImageFilter.GaussianBlur(width / 2))
    ramp = blurred.point([max(0, min(255, round(2 * value - 255))) for value in range(256)])
    return ImageChops.darker(mask, ramp)


def to_unit(image: Image.Image) -> Tensor:
    """Return a map in mode L as a tensor, [1, H, W] in [0, 1]."""
    return (codecs.to_tensor(image, 1) + 1) / 2
