"""Latents of DDIB in files: a safetensors file each, with what made it."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from utils import images

SUFFIX = ".safetensors"


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

    def files(self, name: str) -> dict[str, tuple[Path, str]]:
        """Return what `load` reads, as a folder and a path in it."""
        return {"latent": (self.input_dir, name)}

    def load(self, name: str) -> dict[str, Tensor]:
        """Read a latent.

        Returns:
            'latent' [C, H, W], float32.

        Raises:
            ValueError: The file is broken, holds something else, or was made otherwise.
            OSError: The file cannot be read.
        """
        path = self.input_dir / name
        images.open_file(path, self.input_dir).close()  # refuses what is no file, or a link that leads out
        try:
            with safe_open(path, "pt") as file:
                latent = file.get_tensor("latent")
                made_by = json.loads((file.metadata() or {})["made_by"])
        except (SafetensorError, KeyError, json.JSONDecodeError) as error:
            raise ValueError(f"not a latent of this command, or a broken one ({error})") from None
        differing = [
            f"{key} {made_by.get(key)!r} here, {value!r} in this run"
            for key, value in self.made_by.items()
            if made_by.get(key) != value
        ]
        if differing:
            raise ValueError(f"the latent was made otherwise: {'; '.join(differing)}")
        return {"latent": latent.float()}
