"""DDIB from Python: the settings, checks, messages and bits of sample_ddib.py."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from utils import codecs, jobs, option
from utils.assemble.loaded import Callback, Counter, OnLoaded, Picture, name_pictures, open_stored
from utils.assemble.plan import find_ends as find_ends_of
from utils.assemble.translate_plan import Ends, build, check_source, find_ends
from utils.config import class_index
from utils.settings import Translate

_OF_FILES = ("comparison", "trajectory", "cycle", "save_latents", "from_latents", "offload")


class Translator(OnLoaded):
    """Translates pictures with a network that is loaded once.

    translator = Translator.load("demo/fruits64", class_A="lemon")
    lime = translator("lemon.png", class_B="lime")
    """

    kind = Translate

    def __call__(
        self,
        pictures: Picture | Sequence[Picture],
        *,
        names: Sequence[str] | None = None,
        callback: Callback | None = None,
        **options: Any,
    ) -> Any:
        """Translate pictures.

        Args:
            pictures: One, or a list of them: paths or images, of any size, all of class A.
            names: What each is called, on which the noise of cycle-diffusion depends.
            callback: Called before each step with the number of steps made, and of all; what it raises
                ends the call.
            **options: Those of sample_ddib.py, in place of those of `load`.

        Returns:
            An image of Pillow, of the model's size where `size` and `tiles` say nothing else; a list of them
            for a list. Several classes B give a list in place of each image.

        Raises:
            ValueError: Options that are not allowed, or a picture that cannot be read or has no result.
        """
        alone = isinstance(pictures, str | Path | Image.Image)
        given = [pictures] if alone else list(pictures)
        ends, loaded = self.ends(**options), self._loaded
        names = name_pictures(given, names)
        label = self._label(ends.translate)
        sources = None if label is None else dict.fromkeys(names, label)
        items = [jobs.Item(name, 0, name) for name in names]
        numbers = find_ends_of(ends.translate, self.config)
        opened, fit = [open_stored(x, numbers) for x in given], ends.translate.fit
        rows = [{"image": loaded.to_tensor(x, fit, ends.sizing)} for x in opened]
        batches = loaded.batches(rows, ends.sizing)
        num_steps = ends.up[0].num_steps * (1 + len(ends.folders)) * len(batches)
        tick = callback and Counter(callback, num_steps)
        made = partial(build, ends, sources=sources, tick=tick, most=loaded.micro_batch)
        done = loaded.run(lambda launch: made(launch=launch, network=loaded.on(launch)), items, rows, batches)
        shown = [[codecs.to_image(result.image) for result in results] for results, _ in done]
        translated = [row[0] if len(row) == 1 else row for row in shown]
        return translated[0] if alone else translated

    def ends(self, **options: Any) -> Ends:
        """Return what the options of a call amount to, checked: processes, timesteps, network evaluations.

        Raises:
            ValueError: Options that are not allowed, or not with this network.
        """
        option.refuse_unknown(options, (Translate,))
        given = {**self._options, **options}
        for name in _OF_FILES:
            if given.get(name):
                raise ValueError(f"{name}: only for the command")
        translate = option.make(Translate, given)
        return find_ends(translate, self._loaded.choose(translate), self.config)[0]

    def _label(self, translate: Translate) -> int | None:
        check_source(translate, self.config)
        return None if translate.class_A is None else class_index(self.config, translate.class_A)
