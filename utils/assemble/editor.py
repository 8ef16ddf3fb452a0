"""SDEdit from Python: the settings, checks, messages and bits of sample_sdedit.py."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops
from torch import Tensor

from utils import images, jobs, option
from utils.assemble.edit_plan import TITLE, EditMeans, build, find_means
from utils.assemble.loaded import Callback, Counter, Done, OnLoaded, Picture, name_pictures, open_picture
from utils.assemble.plan import record
from utils.settings import Edit

_OF_FILES = ("mask_dir", "strength_dir", "comparison", "trajectory")
_WAYS = ("t0", "edit_steps", "auto_t0")


class Editor(OnLoaded):
    """Edits pictures with a network that is loaded once, half of the way (t0 0.5) where nothing is said.

    editor = Editor.load("demo/fruits64", respace_steps=20, sampler="sde-dpm-solver++")
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
            An image of Pillow, of the model's size; a list of them for a list. Several levels or samples
            give a list in place of each image.

        Raises:
            ValueError: Options that are not allowed, or a picture that cannot be read or has no result.
        """
        alone = isinstance(pictures, str | Path | Image.Image)
        given = [pictures] if alone else list(pictures)
        means = self.means(**options)
        maps = {"mask": mask, "strength": strength}
        rows = self._rows(means.edit, given, {key: x for key, x in maps.items() if x is not None})
        done = self._run(means, name_pictures(given, names), rows, callback)
        shown = [images.to_image(result.image) for results, _ in done for result in results]
        size = len(shown) // max(1, len(given))
        groups = [shown[i : i + size] for i in range(0, len(shown), size)]
        edited = [group[0] if size == 1 else group for group in groups]
        return edited[0] if alone else edited

    def encode(
        self,
        picture: Picture,
        name: str,
        mask: Picture | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> bytes:
        """Edit a picture from one level, and return the PNG file that sample_sdedit.py would write.

        Args:
            picture: The guide.
            name: Its path below the input folder.
            mask: Where it may change.
            callback: As in a call.
            **options: As in a call.

        Raises:
            ValueError: As in a call.
        """
        means = self.means(**options)
        rows = self._rows(means.edit, [picture], {} if mask is None else {"mask": mask})
        [(results, dtype)] = self._run(means, [name], rows, callback)
        asked, config = self._loaded.asked, self._loaded.chosen.main.config
        digest = self._loaded.weights_sha256
        parameters = record(TITLE, asked, config, means.edit, means.timesteps, digest)
        parameters |= means.parameters(masked=mask is not None)
        notes = {"precision": str(dtype).removeprefix("torch.")}
        [content] = (
            jobs.Writer(False, parameters)
            .encode(jobs.Item(name, 0, name), rows[0]["image"], results, notes)
            .values()
        )
        return content

    def means(self, **options: Any) -> EditMeans:
        """Return what the options of a call amount to, checked: process, levels, network evaluations.

        Raises:
            ValueError: Options that are not allowed, or not with this network.
        """
        option.refuse_unknown(options, (Edit,))
        given = self._options
        if any(options.get(way) for way in _WAYS):
            given = {name: value for name, value in given.items() if name not in _WAYS}
        edit, loaded = _settings({**given, **options}), self._loaded
        classes = {} if edit.class_label is None else {"": edit.class_label}
        return find_means(edit, loaded.choose(edit), loaded.config, loaded.trained, classes)

    def _run(
        self,
        means: EditMeans,
        names: list[str],
        rows: list[dict[str, Tensor]],
        callback: Callback | None,
    ) -> list[Done]:
        edit, loaded = means.edit, self._loaded
        num_samples = edit.samples or 1
        items = [jobs.Item(name, sample, name) for name in names for sample in range(num_samples)]
        num_batches = -(-len(items) // loaded.micro_batch)
        tick = callback and Counter(callback, edit.repeats * sum(means.levels) * num_batches or None)
        classes = {} if edit.class_label is None else dict.fromkeys(names, edit.class_label)

        def made(launch: jobs.Launch):
            return build(means, launch, classes, tick, loaded.on(launch))

        return loaded.run(made, items, [row for row in rows for _ in range(num_samples)])

    def _rows(
        self, edit: Edit, pictures: list[Picture], maps: Mapping[str, Picture | Sequence[Picture]]
    ) -> list[dict[str, Tensor]]:
        """Return the tensors of each picture: its guide, and its maps."""
        guides = [open_picture(picture) for picture in pictures]
        rows = [{"image": self._loaded.to_tensor(guide, edit.fit)} for guide in guides]
        for key, given in maps.items():
            several = not isinstance(given, str | Path | Image.Image)
            each = list(given) if several else [given] * len(guides)
            if len(each) != len(guides):
                raise ValueError(f"{len(each)} of {key} for {len(guides)} pictures; give one for each")
            for row, guide, picture in zip(rows, guides, each, strict=True):
                row[key] = self._map(key, edit, picture, guide.size)
        return rows

    def _map(self, key: str, edit: Edit, picture: Picture, size: tuple[int, int]) -> Tensor:
        """Return a mask or strengths, [1, H, W] in [0, 1]."""
        found = open_picture(picture, images.read_mask if key == "mask" else images.read_strengths)
        if found.size != size:
            sizes = f"{found.width}x{found.height} and the picture {size[0]}x{size[1]}"
            raise ValueError(f"the {key} is {sizes}; make them equal")
        width = edit.mask_feather if key == "mask" else 0
        if key == "mask" and edit.mask_invert:
            found = ImageChops.invert(found)
        return images.mask_tensor(found, self.config.model.image_size, edit.fit, width)


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
