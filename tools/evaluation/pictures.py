"""Reads results, and guides, masks and real pictures as the run saw them or would."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from tools.evaluation.rows import Row
from utils import codecs, images

BATCH = 16


def find_masks(folder: Path | None, invert: bool, results: Path, names: list[str]) -> images.Masks | None:
    """Return the masks of a run, those in its guides where these bring their own.

    Args:
        folder: MASK_DIR of the run.
        invert: They are the other way round.
        results: Where the run wrote, which may lie in the folder.
        names: Of the guides.
    """
    if folder:
        return images.Masks(images.Maps(folder, results), invert=invert)
    if any(name.lower().endswith(images.PAIR_SUFFIX) for name in names):
        return images.Masks(None, missing_means_all=True)
    return None


class Reader:
    """Reads results beside their guides and masks."""

    def __init__(self, guides: Path, masks: images.Masks | None):
        self._guides, self._masks = guides, masks

    def batches(self, row: Row) -> Iterator[tuple[list[str], dict[str, Tensor]]]:
        """Yield the results, and tensors result, image [B, 3, H, W] on [-1, 1] and mask [B, 1, H, W].

        Raises:
            ValueError: A picture cannot be read, or the results are of several sizes.
        """
        for pairs in _batched(row.pairs):
            read = [self._read(row, *pair) for pair in pairs]
            if len({part["result"].shape for part in read}) > 1:
                raise ValueError(f"{row.folder}: results of several sizes; measure them apart")
            yield (
                [target for _, target in pairs],
                {key: torch.stack([part[key] for part in read]) for key in read[0]},
            )

    def _read(self, row: Row, name: str, target: str) -> dict[str, Tensor]:
        try:
            with codecs.reading_stored(row.folder / target, ends=row.ends) as found:
                size, result = found.size, _to_tensor(found)
            saving = images.Saving(ends=row.ends)
            guides = images.Inputs(self._guides, size, 3, row.fit, self._masks, saving=saving)
            guide = guides.load_whole(name)
        except ValueError as error:
            raise ValueError(f"{name}, {row.folder / target}: {error}") from None
        return {"result": result, **guide}


def _to_tensor(
    picture: Image.Image | codecs.Original, size: tuple[int, int] | None = None, how: str = "crop"
) -> Tensor:
    if isinstance(picture, codecs.Original):
        return codecs.to_float(picture, size, how, 3)
    return codecs.to_tensor(codecs.fit(picture, size, how), 3)


def size(row: Row) -> tuple[int, int]:
    """Return width and height of a row's results, in pixels."""
    with codecs.reading_stored(row.folder / row.pairs[0][1], ends=row.ends) as found:
        return found.size


def read_bytes(
    folder: Path, names: list[str], size: tuple[int, int], how: str, ends: codecs.Ends | None = None
) -> Iterator[Tensor]:
    """Yield batches [B, 3, H, W] of uint8 pictures, fitted to a width and height.

    Raises:
        ValueError: A picture cannot be read.
    """
    for part in _batched(names):
        pictures = []
        for name in part:
            try:
                with codecs.reading_stored(folder / name, ends=ends) as picture:
                    pictures.append(_to_tensor(picture, size, how))
            except ValueError as error:
                raise ValueError(f"{folder / name}: {error}") from None
        yield ((torch.stack(pictures) + 1) * 127.5).round().to(torch.uint8)


def _batched(values: list) -> Iterator[list]:
    parts = iter(values)
    while part := list(islice(parts, BATCH)):
        yield part
