"""Latents of DDIB in files: a safetensors file each, with what made it."""

import json
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils import codecs
from utils.images.saving import PNG, Saving
from utils.quote import plain
from utils.sources import read_header

LATENT_SUFFIX = ".safetensors"
DTYPES = ("F32", "F16", "BF16", "F64")
"""Types that a latent may have, as safetensors names them."""


def encode_latent(latent: Tensor, made_by: dict[str, object]) -> bytes:
    """Return the file of a latent [C, H, W], with the parameters that made it."""
    tensors = {"latent": latent.cpu().contiguous()}
    return save(tensors, {"made_by": json.dumps(made_by, sort_keys=True)})


@dataclass(frozen=True)
class Latents:
    """Reads latents as the inputs of a run."""

    input_dir: Path
    made_by: dict[str, object]
    """What must have made them, or they are of another space."""
    shape: tuple[int, int | None, int | None]
    """[C, H, W] of the results; None for any height and width."""
    least: int = 1
    """Height and width that a latent needs, where any are allowed."""
    saving: Saving = field(default_factory=Saving)

    def files(self, name: str) -> dict[str, tuple[Path, str]]:
        """Return what `load` reads, as a folder and a path in it."""
        return {"latent": (self.input_dir, name)}

    def load(self, name: str) -> list[dict[str, Tensor]]:
        """Read a latent, which is one part.

        Returns:
            'latent' [C, H, W], float32.

        Raises:
            ValueError: The file is broken, holds something else, or was made otherwise.
            OSError: The file cannot be read.
        """
        path = self.input_dir / name
        with codecs.open_file(
            path, self.input_dir
        ) as file:  # refuses what is no file, or a link that leads out
            header = read_header(file)
        if "latent" not in header:
            raise ValueError("not a latent of this command: it holds no tensor of the name latent")
        dtype, shape, _ = header["latent"]
        if not self._fits(shape):
            raise ValueError(
                f"a latent of shape {_list(shape)}; this network's are {self._wanted()}, or as --size says"
            )
        if dtype not in DTYPES:
            raise ValueError(f"a latent of type {plain(dtype, 20)}; allowed are {', '.join(DTYPES)}")
        try:
            with safe_open(path, "pt") as opened:
                made_by = (opened.metadata() or {}).get("made_by", "null")
                latent = opened.get_tensor("latent").float()
        except SafetensorError as error:
            raise ValueError(f"a broken latent ({plain(error)})") from None
        self._check_origin(made_by)
        if not latent.isfinite().all():
            raise ValueError("the latent holds NaN or infinity; make it again")
        return [{"latent": latent}]

    def finish(self, name: str, edited: list[Tensor], suffix: str = PNG) -> Image.Image | codecs.Original:
        """Return the result of its one part, [C, H, W] in [-1, 1], as a file of a suffix holds it."""
        [picture] = edited
        return self.saving.finish(self.input_dir, name, picture, suffix)

    def _fits(self, shape: tuple[int, ...]) -> bool:
        if len(shape) != 3 or (self.shape[1] is None and min(shape[1:]) < self.least):
            return False
        return all(wanted in (None, found) for wanted, found in zip(self.shape, shape, strict=True))

    def _wanted(self) -> str:
        if None not in self.shape:
            return _list(self.shape)
        return f"[{self.shape[0]}, H, W], H and W from {self.least} up"

    def _check_origin(self, text: str) -> None:
        try:
            made_by = json.loads(text)
        except (ValueError, RecursionError):
            made_by = None
        if not isinstance(made_by, dict):
            raise ValueError("the latent does not say what made it; give those of --save_latents")
        differing = [
            f"{key} {plain(repr(made_by.get(key)), 60)} here, {plain(repr(value), 60)} in this run"
            for key, value in self.made_by.items()
            if made_by.get(key) != value
        ]
        if differing:
            raise ValueError(f"the latent was made otherwise: {'; '.join(differing)}")


def _list(shape: tuple[int, ...]) -> str:
    return plain(list(shape[:8]))
