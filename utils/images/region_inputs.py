"""Inputs of which only the part around a mask is edited: the result is the photo itself."""

from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image, ImageChops
from torch import Tensor

from utils import codecs
from utils.codecs import Original
from utils.images.inputs import Inputs, read_pair
from utils.images.maps import Masks, is_pair, read_strength
from utils.images.regions import Marked, Regions
from utils.images.saving import PNG, Saving
from utils.log import log, warn_once
from utils.quote import plain

_COPIES = 4
"""Of a photo, as it is decoded: as it is stored, what a network is shown, mask and its soft edge."""
_DEEP_COPIES = 8
"""Likewise, of more than 8 bits."""


@dataclass(frozen=True)
class RegionInputs:
    """Reads the parts of photos that masks mark, and puts them back into the photo."""

    whole: Inputs
    """Where photos and masks are, and what a network takes."""
    margin: float
    """What is shown around what may change, on each side, as a share of its longer side."""

    def files(self, name: str) -> dict[str, tuple[Path, str]]:
        """Return what `load` reads, as `Inputs.files` does."""
        return self.whole.files(name)

    @property
    def saving(self) -> Saving:
        """How results are saved."""
        return self.whole.saving

    @property
    def masks(self) -> Masks:
        """Where the masks are, and how they are read."""
        return self.whole.masks

    def preview(self, name: str) -> bytes:
        """Return a small PNG of an input, as `Inputs.preview` does."""
        return self.whole.preview(name)

    def missing(self, names: list[str]) -> list[str]:
        """Say how many inputs would fail for want of a mask or strengths, in a line for each kind."""
        return self.whole.missing(names)

    def load(self, name: str) -> list[dict[str, Tensor]]:
        """Read an input: the tensors of each part, see `Inputs.load`; none where nothing may change.

        Raises:
            ValueError: As for `Inputs.load`.
        """
        with self._memory(name):
            return self._load(name)

    def _load(self, name: str) -> list[dict[str, Tensor]]:
        marked = self._read(name)
        boxes = self._regions.boxes(marked)
        if not boxes:
            warn_once(f"{plain(name)}: its mask lets nothing change; the photo is returned as it is")
        for box in boxes:
            factor = box.side / self.whole.size
            enlarged = f", and enlarged {factor:.3g} times" if factor > 1 else ""
            square = f"{box.side}x{box.side} pixels from {box.left},{box.top}"
            log.info(f"{plain(name)}: {square} are edited{enlarged}")
        return self._regions.cut(marked, boxes)

    def finish(self, name: str, edited: list[Tensor], suffix: str = PNG) -> Original:
        """Return the photo with its edited parts, [C, size, size] in [-1, 1] each, in their places.

        Args:
            name: The input.
            edited: Its parts.
            suffix: Of the file that will hold it: what that does not hold of the photo's numbers is rounded.

        Raises:
            ValueError: As for `load`: the photo is read once more.
        """
        with self._memory(name):
            marked, whole = self._read(name), self.whole
            photo = whole.saving.convert(whole.input_dir, name, marked.photo, suffix)
            return self._regions.put_back(replace(marked, photo=photo), edited)

    def _memory(self, name: str) -> AbstractContextManager[None]:
        """Hold the memory for a photo and its copies, of which other threads have to leave as much."""
        path, root = self.whole.input_dir / name, self.whole.input_dir
        width, height = codecs.look(path, root) or (0, 0)
        copies = _DEEP_COPIES if codecs.look_deep(path, root) else _COPIES
        return codecs.IN_FLIGHT.hold(copies * width * height)

    @property
    def _regions(self) -> Regions:
        whole = self.whole
        return Regions(whole.size, whole.channels, self.margin, whole.masks.feather)

    def _read(self, name: str) -> Marked:
        whole = self.whole
        if is_pair(name):
            image, own_mask = read_pair(whole.input_dir / name, whole.input_dir)
            photo = Original.of(image)
        else:
            path, ends = whole.input_dir / name, whole.saving.ends
            photo, own_mask = codecs.read_stored(path, whole.input_dir, ends), None
        strength = None
        if whole.strengths is not None:
            strength = read_strength(whole.strengths, name, photo.size, Image.Image.copy)
        return Marked(photo, self._mask(name, own_mask, photo.size), strength)

    def _mask(self, name: str, own: Image.Image | None, size: tuple[int, int]) -> Image.Image:
        masks = self.whole.masks
        mask = own or masks.read(name, size, Image.Image.copy)
        if mask is None:
            return Image.new("L", size, 255)
        return ImageChops.invert(mask) if masks.invert else mask
