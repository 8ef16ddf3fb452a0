"""What an input consists of: the image and, where the method takes them, its mask and its strengths."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image, ImageChops
from torch import Tensor

from utils import codecs
from utils.images import maps, paths
from utils.images.maps import PAIR_SUFFIX, Maps, Masks, is_pair
from utils.images.paths import STRIPS, TRAJECTORIES
from utils.images.saving import PNG, Saving
from utils.log import once, warn_once
from utils.quote import plain
from utils.running import Running
from utils.settings import Method
from utils.weights import load_tensors

PICTURES = (*codecs.SUFFIXES, *codecs.NUMBERS)
"""Suffixes of images, and of files of numbers."""
WITH_PAIRS = (*PICTURES, PAIR_SUFFIX)
"""Suffixes of images, and of files that hold an image and its mask."""
_MOST_LOOKED_AT = 1000
"""Of the inputs, to say what is cut off: on a network each look may take milliseconds."""
_MUCH = 1 / 3 + 1e-6
"""Of a picture, to be cut off without a word: that of most cameras, 3 to 2, loses a third."""
EXPECTED = "expected torch.save([mask, image]), both [3, H, W], the image in [0, 1]"


def find_inputs(running: Running, method: Method, suffixes: tuple[str, ...]) -> list[str]:
    """List the inputs whose names end so, and say what else lies there, what is cut off, and what is odd.

    Args:
        running: Where they are, and where results go.
        method: What is made of them, and saved beside the results.
        suffixes: Of what is looked for.

    Raises:
        ValueError: There are no images, or a result would take the place of a strip.
    """
    names = _find_names(running, method, suffixes)
    width, height = method.wanted_size or (1, 1)
    cuts = method.fit == "crop" and not method.keeps_size and not method.by_region
    if cuts and (loss := describe_cropping(running.folder, names, width / height)):
        once(loss)
    if method.noise_by == "folder" and method.keeps_size and (odd := describe_odd(running.folder, names)):
        once(odd)
    return names


def _find_names(running: Running, method: Method, suffixes: tuple[str, ...]) -> list[str]:
    if running.folder != running.input_dir:
        return [running.input_dir.name]
    found = paths.search(running.input_dir, running.save_dir, suffixes)
    for line in found.describe():
        once(line)
    for flag, folder in (("comparison", STRIPS), ("trajectory", TRAJECTORIES)):
        if getattr(method, flag) and any(name.startswith(f"{folder}/") for name in found.names):
            raise ValueError(
                f"{running.input_dir}/{folder}: --{flag} saves its strips under this name; rename it"
            )
    return found.names


def look_at(input_dir: Path, names: list[str]) -> dict[str, tuple[int, int]]:
    """Return width and height of the inputs as they are stored, of those of which the heads tell them.

    Of many, it takes a thousand, evenly spaced.
    """
    step = max(1, -(-len(names) // _MOST_LOOKED_AT))
    seen = [name for name in names[::step] if name.lower().endswith(PICTURES)]
    sizes = {name: codecs.look(input_dir / name, input_dir) for name in seen}
    return {name: size for name, size in sizes.items() if size and min(size)}


def describe_cropping(input_dir: Path, names: list[str], aspect: float = 1.0) -> str | None:
    """Say how much the results lose of the input of the farthest shape, where that is more than a third.

    Args:
        input_dir: Folder of the inputs.
        names: The inputs.
        aspect: Width of the results in heights.
    """
    sizes = look_at(input_dir, names)
    shapes = {name: width / height / aspect for name, (width, height) in sizes.items()}
    lost = {name: 1 - min(shape, 1 / shape) for name, shape in shapes.items()}
    many = [name for name, share in lost.items() if share > _MUCH]
    if not many:
        return None
    worst = max(many, key=lost.__getitem__)
    width, height = sizes[worst]
    others = f", of {len(many)} of {len(lost)} more than a third" if len(many) > 1 else ""
    return (
        f"note: {plain(worst)} is {width}x{height}, of which --fit crop cuts {100 * lost[worst]:.0f} % away"
        f"{others}; --fit pad keeps all of a picture"
    )


def describe_odd(input_dir: Path, names: list[str]) -> str | None:
    """Say which inputs have another size than the first of their folder, with which they share no noise.

    Args:
        input_dir: Folder of the inputs.
        names: The inputs.
    """
    first: dict[str, tuple[int, int]] = {}
    odd = {
        name: (size, usual)
        for name, size in look_at(input_dir, names).items()
        if size != (usual := first.setdefault(name.rpartition("/")[0], size))
    }
    if not odd:
        return None
    name, ((width, height), usual) = next(iter(odd.items()))
    others = f", one of {len(odd)} such pictures" if len(odd) > 1 else ""
    return (
        f"note: {plain(name)} is {width}x{height} and the first of its folder {usual[0]}x{usual[1]}{others}; "
        "--noise_by folder gives pictures of one size the same noise: bring them to one, or give --size "
        "WIDTHxHEIGHT"
    )


@dataclass(frozen=True)
class Inputs:
    """Reads the inputs of a run as tensors of the size of their results."""

    input_dir: Path
    size: int | tuple[int, int] | None
    """Width and height, one number for both, None for those of each picture."""
    channels: int
    fit: str
    masks: Masks | None = None
    strengths: Maps | None = None
    least: int = 1
    """Width and height that a picture of its own size needs."""
    saving: Saving = field(default_factory=Saving)

    def files(self, name: str) -> dict[str, tuple[Path, str]]:
        """Return what `load` reads, as a folder and a path in it: 'image', 'mask' and 'strength'."""
        found = {"image": (self.input_dir, name)}
        kinds = {"mask": self.masks and self.masks.maps, "strength": self.strengths}
        for role, found_maps in kinds.items():
            if found_maps is not None and (file := found_maps.file(name)) is not None:
                found[role] = found_maps.folder, file
        return found

    def missing(self, names: list[str]) -> list[str]:
        """Say how many inputs would fail for want of a mask or strengths, in a line for each kind."""
        lines = []
        kinds = {"mask": self.masks and self.masks.maps, "picture of strengths": self.strengths}
        for kind, found in kinds.items():
            needed = found is not None and not (kind == "mask" and self.masks.missing_means_all)
            without = [x for x in names if needed and not is_pair(x) and found.file(x) is None]
            if without:
                some = ", ".join(map(plain, without[:3])) + (", ..." if len(without) > 3 else "")
                lines.append(f"{len(without)} inputs have no {kind} and would fail: {some}")
        return lines

    def load(self, name: str) -> list[dict[str, Tensor]]:
        """Read an input, which is one part, or as many as an animation has frames.

        Returns:
            Of each part 'image' [C, H, W] in [-1, 1]; 'mask' (1 may change) and 'strength' [1, H, W] in
            [0, 1] where the run has them.

        Raises:
            ValueError: The image or one of its maps is broken, missing, of the wrong size, or a link that
                leads out of its folder.
        """
        try:
            return [self.load_whole(name)]
        except codecs.AnimatedError:
            return self._load_frames(name)

    def finish(
        self, name: str, edited: list[Tensor], suffix: str = PNG
    ) -> Image.Image | codecs.Original | codecs.Clip:
        """Return the result of those of its parts, [C, H, W] in [-1, 1], as a file of a suffix holds it."""
        if len(edited) == 1:
            return self.saving.finish(self.input_dir, name, edited[0], suffix)
        pictures = [codecs.to_image(part) for part in edited]
        return codecs.Clip(pictures, codecs.read_timing(self.input_dir / name, self.input_dir))

    def preview(self, name: str) -> bytes:
        """Return a small PNG of an input as it is read, for a page.

        Raises:
            ValueError: As for `load`.
        """
        path, root = self.input_dir / name, self.input_dir
        if is_pair(name):
            return codecs.preview(read_pair(path, root)[0])
        with codecs.reading_stored(path, root, ends=self.saving.ends) as picture:
            return codecs.preview(picture)

    def load_whole(self, name: str) -> dict[str, Tensor]:
        """Read an input that does not move, as `load` does."""
        tensors, shape, own_mask = self._read_pair(name) if is_pair(name) else self._read_image(name)
        return tensors | self._load_maps(name, shape, own_mask, tensors["image"])

    def _load_frames(self, name: str) -> list[dict[str, Tensor]]:
        """Read an animation, whose frames share their maps."""
        self.saving.check_clip()
        found = []
        for frame in codecs.frames(self.input_dir / name, self.input_dir):
            image, shape = self._fit(frame), frame.size
            found.append(image)
        shared = self._load_maps(name, shape, None, found[0])
        return [{"image": image, **shared} for image in found]

    def _load_maps(
        self, name: str, shape: tuple[int, int], own_mask: Tensor | None, like: Tensor
    ) -> dict[str, Tensor]:
        """Read what belongs to a picture of a shape, which is `like` where it is a tensor."""
        tensors = {}
        if self.masks is not None:
            if own_mask is None:
                own_mask = self.masks.read(name, shape, partial(self._finish_mask, self.masks))
            tensors["mask"] = torch.ones_like(like[:1]) if own_mask is None else own_mask
            self._say_extent(name, tensors["mask"])
        if self.strengths is not None:
            tensors["strength"] = maps.read_strength(self.strengths, name, shape, self._fit_map)
        return tensors

    def _read_image(self, name: str) -> tuple[dict[str, Tensor], tuple[int, int], None]:
        ends = self.saving.ends
        with codecs.reading_stored(self.input_dir / name, self.input_dir, ends=ends) as image:
            return {"image": self._fit(image)}, image.size, None

    def _read_pair(self, name: str) -> tuple[dict[str, Tensor], tuple[int, int], Tensor | None]:
        image, mask = read_pair(self.input_dir / name, self.input_dir)
        own_mask = None if self.masks is None else self._finish_mask(self.masks, mask)
        return {"image": self._fit(image)}, image.size, own_mask

    def _fit(self, image: Image.Image | codecs.Original) -> Tensor:
        if self.size is None:
            check_least(image.size, self.least)
        if isinstance(image, codecs.Original):
            return codecs.to_float(image, self.size, self.fit, self.channels)
        return codecs.to_tensor(codecs.fit(image, self.size, self.fit), self.channels)

    def _fit_map(self, image: Image.Image) -> Tensor:
        return maps.to_unit(codecs.fit(image, self.size, self.fit))

    def _finish_mask(self, masks: Masks, mask: Image.Image) -> Tensor:
        if masks.invert:
            mask = ImageChops.invert(mask)
        return maps.mask_tensor(mask, self.size, self.fit, masks.feather)

    def _say_extent(self, name: str, mask: Tensor) -> None:
        """Say what is hardly meant."""
        given = is_pair(name) or (self.masks.maps and self.masks.maps.file(name))
        if given and mask.min() == mask.max() and mask.max() in (0, 1):
            extent = "everything" if mask.max() == 1 else "nothing"
            whose = "mask" if is_pair(name) else f"mask {self.masks.maps.folder.name}/{given}"
            warn_once(f"{plain(name)}: its {plain(whose)} lets {extent} change")


def check_least(size: tuple[int, int], least: int) -> None:
    """Refuse a picture that keeps its size and is too small for that.

    Args:
        size: Its width and height.
        least: What both must be, at least.

    Raises:
        ValueError: It is too small.
    """
    if min(size) < least:
        raise ValueError(
            f"a picture of {size[0]}x{size[1]}; those that keep their size are at least {least}x{least}: "
            "enlarge it, or give --size WIDTHxHEIGHT"
        )


def read_pair(path: Path, root: Path | None = None) -> tuple[Image.Image, Image.Image]:
    """Read a .pth file of ermongroup/SDEdit, torch.save([mask, image]).

    Both are [3, H, W]; the image is in [0, 1], the mask is 1 where the image is kept.

    Args:
        path: The file.
        root: Folder that no link may lead out of; None to follow links anywhere.

    Returns:
        The image, RGB, and the mask in our sense, mode L: white where any channel may change.

    Raises:
        ValueError: Another content, a broken file, or one that cannot be opened.
    """
    with codecs.open_file(path, root) as file:
        content = _load_tensors(file)
    is_pair = isinstance(content, list | tuple) and len(content) == 2
    if not is_pair or not all(isinstance(part, Tensor) for part in content):
        raise ValueError(f"holds something else; {EXPECTED}")
    for part in content:
        _check_plain(part)
    mask, image = content
    if image.ndim != 3 or len(image) != 3 or mask.shape != image.shape:
        raise ValueError(f"mask {_shape(mask)}, image {_shape(image)}; {EXPECTED}")
    mask, image = mask.detach().float(), image.detach().float()
    if not (image.min() >= 0 and image.max() <= 1):
        raise ValueError(f"the image goes from {image.min():g} to {image.max():g}; {EXPECTED}")
    if not mask.isfinite().all():
        raise ValueError(f"the mask holds NaN or infinity; {EXPECTED}")
    editable = (mask != 1).any(dim=0, keepdim=True).float()
    return codecs.to_image(image * 2 - 1), codecs.to_image(editable * 2 - 1)


def _load_tensors(file: BinaryIO) -> object:
    try:
        return load_tensors(file)
    except ValueError as error:
        reason = str(error).partition(";")[0]
        raise ValueError(f"not a file of tensors alone, or a broken one ({reason}); {EXPECTED}") from None


def _check_plain(part: Tensor) -> None:
    """Refuse a tensor that cannot be shown, or whose copy would be huge, before anything copies it.

    Raises:
        ValueError: It is sparse, quantized, complex, nested, without memory, or far larger than its memory.
    """
    if part.is_nested or part.layout != torch.strided or part.is_quantized or part.is_complex():
        raise ValueError(f"a tensor is nested, sparse, quantized or complex; {EXPECTED}")
    if part.device.type != "cpu":
        raise ValueError(f"a tensor is on {part.device}; {EXPECTED}")
    if not 0 < part.numel() <= 3 * codecs.MAX_PIXELS:
        raise ValueError(f"a tensor of shape {_shape(part)}; {EXPECTED}")
    # a stride of 0 makes a large view of little memory: of one channel as three, but not of a pixel as all
    if part.numel() * part.element_size() > 3 * part.untyped_storage().nbytes():
        raise ValueError(f"a tensor of shape {_shape(part)} repeats few values; {EXPECTED}")


def _shape(part: Tensor) -> str:
    return plain(list(part.shape[:8]))
