"""Which parts of a photo change: squares around what a mask marks, each as large as a network can use."""

from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from utils import codecs
from utils.codecs import Box, Original, cut
from utils.images.maps import feather, mask_tensor

_CELLS = 64
"""Of a photo's longer side, in which what is marked is looked for."""


def find_boxes(mask: Image.Image, least: int, margin: float) -> list[Box]:
    """Find squares that hold all that a mask marks; parts far from one another get one each.

    Args:
        mask: Mode L, of the photo's size; what is not black may change.
        least: Side of a square at least, in pixels, where the photo has so many: the network's own.
        margin: What is shown around what is marked, on each side, as a share of its own longer side.

    Returns:
        Squares that do not meet, from the top; none where all is black. One may reach beyond the photo
        where it is longer than the photo is high or wide.
    """
    waiting, kept = _find_extents(np.asarray(mask) > 0), dict[_Extent, Box]()
    while waiting:
        extent = waiting.pop()
        box = _square(extent, mask.size, least, margin)
        meeting = next((other for other in kept if _meet(box, kept[other])), None)
        if meeting is None:
            kept[extent] = box
        else:
            del kept[meeting]
            waiting.append(_join(extent, meeting))
    return sorted(kept.values(), key=lambda box: (box.top, box.left))


_Extent = tuple[int, int, int, int]
"""Left, top, right and bottom of what is marked, in pixels; the last two are the first without."""


def _find_extents(marked: np.ndarray) -> list[_Extent]:
    """Return the extent of each group of neighbouring cells of a coarse grid in which anything is marked."""
    cell = -(-max(marked.shape) // _CELLS)
    height, width = (-(-side // cell) for side in marked.shape)
    padded = np.zeros((height * cell, width * cell), bool)
    padded[: marked.shape[0], : marked.shape[1]] = marked
    waiting = {
        (int(y), int(x)) for y, x in np.argwhere(padded.reshape(height, cell, width, cell).any((1, 3)))
    }
    extents = []
    while waiting:
        group = _take_group(waiting)
        (top, left), (bottom, right) = np.min(group, axis=0) * cell, (np.max(group, axis=0) + 1) * cell
        rows = np.flatnonzero(padded[top:bottom, left:right].any(1))
        columns = np.flatnonzero(padded[top:bottom, left:right].any(0))
        extents.append(
            tuple(map(int, (left + columns[0], top + rows[0], left + columns[-1] + 1, top + rows[-1] + 1)))
        )
    return extents


def _take_group(waiting: set[tuple[int, int]]) -> list[tuple[int, int]]:
    """Take one cell out of a set, with all that touch it, those that touch these, and so on."""
    group = [waiting.pop()]
    for y, x in group:
        near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & waiting
        waiting -= near
        group += sorted(near)
    return group


def _join(one: _Extent, other: _Extent) -> _Extent:
    return min(one[0], other[0]), min(one[1], other[1]), max(one[2], other[2]), max(one[3], other[3])


def _square(extent: _Extent, size: tuple[int, int], least: int, margin: float) -> Box:
    """Return the square to show of a photo of a size, for what is marked in an extent."""
    left, top, right, bottom = extent
    longer = max(right - left, bottom - top)
    side = min(max(least, round(longer * (1 + 2 * margin))), max(size))
    return Box(_place(left, right, side, size[0]), _place(top, bottom, side, size[1]), side)


def _place(start: int, end: int, side: int, size: int) -> int:
    """Return where a square begins that has an extent in its middle and, if it can, stays inside."""
    centred = (start + end - side) // 2
    return (size - side) // 2 if side > size else min(max(0, centred), size - side)


def _meet(one: Box, other: Box) -> bool:
    return all(a < b + other.side and b < a + one.side for a, b in zip(one[:2], other[:2], strict=True))


@dataclass(frozen=True)
class Marked:
    """A photo, and what of it may change."""

    photo: Original
    mask: Image.Image
    """Mode L, of the photo's size: white may change, black is kept."""
    strength: Image.Image | None = None
    """Likewise: how far each pixel goes."""

    def copy(self) -> "Marked":
        """Return the same, of which the photo can be changed apart."""
        return replace(self, photo=replace(self.photo, pixels=self.photo.pixels.copy()))


@dataclass(frozen=True)
class Regions:
    """Cuts photos into what a network edits, and puts it back."""

    size: int
    """Side of the network's images, in pixels."""
    channels: int
    margin: float
    """What is shown around what may change, on each side, as a share of its longer side."""
    feather: float = 0.0
    """Width of the soft edge inside what may change, in the network's pixels."""

    def boxes(self, marked: Marked) -> list[Box]:
        """Return where the parts are."""
        return find_boxes(marked.mask, self.size, self.margin)

    def cut(self, marked: Marked, boxes: list[Box]) -> list[dict[str, Tensor]]:
        """Return the tensors of each part, of `boxes`, as `Inputs.load` does of a whole picture."""
        rows = []
        for box in boxes:
            mask = mask_tensor(_cut_mask(marked.mask, box), self.size, "stretch", self.feather)
            row = {"image": self._show(marked.photo, box), "mask": mask}
            if marked.strength is not None:
                strength = Image.fromarray(cut(np.asarray(marked.strength), box))
                row["strength"] = mask_tensor(strength, self.size, "stretch", 0)
            rows.append(row)
        return rows

    def _show(self, photo: Original, box: Box) -> Tensor:
        if photo.is_deep:
            return codecs.show(photo, box, self.size, self.channels)
        return codecs.to_tensor(photo.show(box, self.size), self.channels)

    def put_back(self, marked: Marked, edited: list[Tensor]) -> Original:
        """Put edited parts, [C, size, size] in [-1, 1] each, into the photo itself, and return it."""
        for box, part in zip(self.boxes(marked), edited, strict=True):
            factor = box.side / self.size
            # a pixel of the network's lies on both sides of the edge: what is enlarged fades in over one
            width = (self.feather + (factor > 1)) * factor
            marked.photo.put(box, part, feather(_cut_mask(marked.mask, box), width))
        return marked.photo


def _cut_mask(mask: Image.Image, box: Box) -> Image.Image:
    """Cut a square out of a mask; beyond the photo nothing may change."""
    return mask.crop((box.left, box.top, box.left + box.side, box.top + box.side))
