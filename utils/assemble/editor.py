"""SDEdit from Python: the settings, checks, messages and bits of sample_sdedit.py."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, ImageChops
from torch import Tensor

from utils import codecs, images, jobs, option
from utils.assemble.edit_plan import TITLE, EditMeans, build, find_means, read_told
from utils.assemble.loaded import (
    Callback,
    Counter,
    Done,
    OnLoaded,
    Picture,
    name_pictures,
    open_picture,
    open_stored,
)
from utils.assemble.plan import find_ends, record
from utils.config import Config
from utils.settings import Edit

_OF_FILES = ("mask_dir", "strength_dir", "prompt_file", "upsample", "comparison", "trajectory")
_WAYS = ("t0", "edit_steps", "auto_t0")


class Read(NamedTuple):
    """A picture that was read."""

    parts: list[dict[str, Tensor]]
    """What is edited of it, as `Inputs.load` has it."""
    finish: jobs.Finish
    """Makes the result of the results of these."""


class Editor(OnLoaded):
    """Edits pictures with a network that is loaded once, half of the way (t0 0.5) where nothing is said.

    editor = Editor.load("demo/fruits64")
    kiwi = editor("strokes.png", t0=0.5, class_label="kiwi", seed=3)
    """

    kind = Edit

    @classmethod
    def _check(cls, options: dict[str, Any]) -> None:
        _settings(options)

    @property
    def named(self) -> dict[str, str]:
        """The files that the network came from: 'config' and 'weights'."""
        return {name: str(path) for name, path in self._loaded.chosen.main._asdict().items()}

    def __call__(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        mask: Picture | Sequence[Picture] | None = None,
        strength: Picture | Sequence[Picture] | None = None,
        names: Sequence[str] | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Any:
        """Edit pictures.

        Args:
            pictures: Guides, one or a list of them: paths or images, of any size.
            mask: Where each may change, white, and of its size: one for all, or a list.
            strength: How far each pixel goes, likewise, white all of the way.
            names: What each is called, on which its noise depends (default: the name of its file, or its
                number); for the command it is the path below the input folder.
            callback: Called before each step with the number of steps made, and of all, or None where the
                level is searched for; what it raises ends the call.
            **options: Those of sample_sdedit.py, in place of those of `load`.

        Returns:
            An image of Pillow, of the model's size, of what `size` and `tiles` say, or with `region` of its
            own; a list of them for a list. Several levels or samples give a list in place of each image.

        Raises:
            ValueError: Options that are not allowed, or a picture that cannot be read or has no result.
        """
        alone = isinstance(pictures, str | Path | Image.Image)
        given = [pictures] if alone else list(pictures)
        means = self.means(masked=mask is not None, **options)
        maps = {"mask": mask, "strength": strength}
        read = self._read(means, given, {key: x for key, x in maps.items() if x is not None})
        done = self._run(means, name_pictures(given, names), read, callback)
        edited = [
            [
                finished
                for sample in samples
                for finished in finish_all(one, sample, max(1, len(means.starts)))
            ]
            for one, samples in zip(read, done, strict=True)
        ]
        edited = [group[0] if len(group) == 1 else group for group in edited]
        return edited[0] if alone else edited

    def encode(
        self,
        picture: Picture | codecs.Original,
        name: str,
        mask: Picture | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> bytes:
        """Edit a picture from one level, and return the PNG file that sample_sdedit.py would write.

        Args:
            picture: The guide; one of more than 8 bits also as it is stored.
            name: Its path below the input folder.
            mask: Where it may change.
            callback: As in a call.
            **options: As in a call.

        Raises:
            ValueError: As in a call.
        """
        means = self.means(masked=mask is not None, **options)
        [read] = self._read(means, [picture], {} if mask is None else {"mask": mask})
        [[done]] = self._run(means, [name], [read], callback)
        asked, config = self._loaded.asked, self._loaded.chosen.main.config
        digest = self._loaded.weights_sha256
        parameters = record(TITLE, asked, config, means.edit, digest)
        parameters |= means.parameters(masked=mask is not None)
        dtypes = [dtype for _, dtype in done] or [self._loaded.launch.dtype]
        notes = {"precision": str(dtypes[0]).removeprefix("torch.")}
        parts = [jobs.Part(row["image"], results) for row, (results, _) in zip(read.parts, done, strict=True)]
        writer = jobs.Writer(False, parameters)
        target = str(PurePosixPath(name).with_suffix(images.PNG))
        [content] = writer.encode(jobs.Item(name, 0, target), parts, read.finish, notes).values()
        return content

    def means(self, masked: bool = False, **options: Any) -> EditMeans:
        """Return what the options of a call amount to, checked: processes, levels, network evaluations.

        Args:
            masked: Whether the call has a mask.
            **options: As in a call.

        Raises:
            ValueError: Options that are not allowed, or not with this network.
        """
        option.refuse_unknown(options, (Edit,))
        given = self._options
        if any(options.get(way) for way in _WAYS):
            given = {name: value for name, value in given.items() if name not in _WAYS}
        edit, loaded = _settings({**given, **options}), self._loaded
        told = _told(edit, loaded.config, [""])
        return find_means(edit, loaded.choose(edit), loaded.config, loaded.trained, told, masked)

    def _run(
        self,
        means: EditMeans,
        names: list[str],
        read: list[Read],
        callback: Callback | None,
    ) -> list[list[list[Done]]]:
        """Edit pictures; return what came of each part, of each sample, of each picture."""
        edit, loaded = means.edit, self._loaded
        samples = range(edit.samples or 1)
        rows = {
            jobs.Item(name, sample, name, part): tensors
            for name, one in zip(names, read, strict=True)
            for sample in samples
            for part, tensors in enumerate(one.parts)
        }
        items = list(rows)
        batches = loaded.batches(list(rows.values()), means.sizing)
        tick = callback and Counter(
            callback, edit.repeats * sum(start.num_steps for start in means.starts) * len(batches) or None
        )
        told = _told(edit, self.config, names)

        def made(launch: jobs.Launch):
            return build(means, launch, told, tick, loaded.on(launch), loaded.micro_batch)

        found = loaded.run(made, items, list(rows.values()), batches)
        done = dict(zip(items, found, strict=True))
        return [
            [
                [done[jobs.Item(name, sample, name, part)] for part in range(len(one.parts))]
                for sample in samples
            ]
            for name, one in zip(names, read, strict=True)
        ]

    def _read(
        self, means: EditMeans, pictures: list[Picture], maps: Mapping[str, Picture | Sequence[Picture]]
    ) -> list[Read]:
        """Read each picture and its maps."""
        each: dict[str, list[Picture]] = {}
        for key, given in maps.items():
            several = not isinstance(given, str | Path | Image.Image)
            each[key] = list(given) if several else [given] * len(pictures)
            if len(each[key]) != len(pictures):
                raise ValueError(f"{len(each[key])} of {key} for {len(pictures)} pictures; give one for each")
        read = self._read_region if means.edit.region else self._read_whole
        return [
            read(means, picture, {key: given[i] for key, given in each.items()})
            for i, picture in enumerate(pictures)
        ]

    def _read_whole(self, means: EditMeans, picture: Picture, maps: dict[str, Picture]) -> Read:
        edit = means.edit
        guide = open_stored(picture, find_ends(edit, self.config))
        row = {"image": self._loaded.to_tensor(guide, edit.fit, means.sizing)}
        for key, given in maps.items():
            width = edit.mask_feather if key == "mask" else 0
            found = _open_map(key, edit, given, guide.size)
            row[key] = images.mask_tensor(found, means.sizing.size, edit.fit, width)
        return Read([row], partial(_finish, isinstance(guide, codecs.Original)))

    def _read_region(self, means: EditMeans, picture: Picture, maps: dict[str, Picture]) -> Read:
        edit = means.edit
        if "mask" not in maps:
            raise ValueError("region: what may change is not said; give mask=")
        found = open_stored(picture, find_ends(edit, self.config), codecs.as_stored)
        photo = found if isinstance(found, codecs.Original) else codecs.Original.of(found)
        if photo.is_deep:  # as PNG has it
            photo = codecs.convert(photo, codecs.WORD)
        marked = images.Marked(photo, **{key: _open_map(key, edit, x, photo.size) for key, x in maps.items()})
        config = self.config
        regions = images.Regions(config.image_size, config.channels, edit.region_margin, edit.mask_feather)
        parts = regions.cut(marked, regions.boxes(marked))
        return Read(parts, lambda edited: regions.put_back(marked.copy(), edited))


def _told(edit: Edit, config: Config, names: list[str]) -> Mapping[str, str | images.Prompt]:
    """Return what the network is told of pictures, all the same: a class, a prompt or nothing."""
    if config.told_text or edit.class_label is None:
        return read_told(edit, config, Path(), names)[1]
    return dict.fromkeys(names, edit.class_label)


def _finish(is_deep: bool, edited: list[Tensor]) -> Image.Image | codecs.Original:
    return codecs.of_tensor(edited[0], codecs.WORD) if is_deep else codecs.to_image(edited[0])


def _open_map(key: str, edit: Edit, picture: Picture, size: tuple[int, int]) -> Image.Image:
    """Read a mask or strengths, in mode L."""
    found = open_picture(picture, images.read_mask if key == "mask" else images.read_strengths)
    if found.size != size:
        sizes = f"{found.width}x{found.height} and the picture {size[0]}x{size[1]}"
        raise ValueError(f"the {key} is {sizes}; make them equal")
    return ImageChops.invert(found) if key == "mask" and edit.mask_invert else found


def finish_all(read: Read, parts: list[Done], num_levels: int) -> list[Image.Image]:
    """Return the picture of each level, of the parts of one sample."""
    levels = [[results[level].image for results, _ in parts] for level in range(num_levels)]
    pictures = [read.finish(edited) for edited in levels]
    return [x.image() if isinstance(x, codecs.Original) else x for x in pictures]


def _settings(options: dict[str, Any]) -> Edit:
    """Return the settings of a call; half of the way where nothing is said.

    Raises:
        ValueError: Options that are not allowed.
    """
    for name in _OF_FILES:
        if options.get(name):
            raise ValueError(f"{name}: only for the command; a call takes pictures as mask= and strength=")
    said = any(options.get(way) for way in _WAYS)
    return option.make(Edit, options if said else {**options, "t0": 0.5})
