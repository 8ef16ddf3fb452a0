"""The weights of one part of a pipeline, under the keys that its library gives them today."""

from collections.abc import Container
from pathlib import Path

import torch
from torch import Tensor, nn

from utils.weights import WEIGHTS, Stored, describe_mismatch, modern, open_tensors

_OF_TEXT = tuple(
    f"{stem}{variant}{suffix}"
    for stem, suffix in (("model", ".safetensors"), ("pytorch_model", ".bin"))
    for variant in ("", ".fp16", ".bf16")
)
"""Files of a text encoder, the first that is there being taken."""
_PREFIX = "text_model."
_BUFFERS = ("position_ids",)
"""Ends of keys that files of before hold, and that today's models make themselves."""


def find_part(folder: Path) -> Path:
    """Return the file of the weights of a part.

    Raises:
        ValueError: There is none, or there are several.
    """
    names = _OF_TEXT if folder.name.startswith("text") else WEIGHTS
    for name in names:
        if (folder / name).is_file():
            return folder / name
    if any(folder.glob("*.index.json")):
        raise ValueError(f"{folder}: its weights are in several files; save them again as one, {names[0]}")
    raise ValueError(f"{folder}: has no weights; download the whole folder, with {names[0]}")


@torch.inference_mode(False)
def load_part(module: nn.Module, folder: Path) -> nn.Module:
    """Fill a part with its weights.

    Args:
        module: Without memory (on the meta device).
        folder: Of the part: safetensors, or a pickle, of which nothing is executed.

    Returns:
        The module, on the CPU, in float32.

    Raises:
        ValueError: The weights are broken, unsafe or of another module.
        OSError: They cannot be opened.
    """
    file = find_part(folder)
    opened = open_tensors(file)
    content = opened.content if isinstance(opened.content, dict) else {}
    content = {key: tensor for key, tensor in content.items() if not key.endswith(_BUFFERS)}
    stored = {modern(key): opened.store(key, tensor) for key, tensor in content.items()}
    expected = {key: tensor.shape for key, tensor in module.state_dict().items()}
    stored = {_today(key, expected): tensor for key, tensor in stored.items()}
    stored = {key: _as_shape(tensor, expected.get(key)) for key, tensor in stored.items()}
    if problems := describe_mismatch({key: tensor.shape for key, tensor in stored.items()}, expected):
        raise ValueError("\n".join([f"{file}: not the weights of its config.json", *problems]))
    state: dict[str, Tensor] = {key: stored[key].read() for key in expected}
    module.load_state_dict(state, strict=True, assign=True)
    for owner in module.modules():
        for name, buffer in owner.named_buffers(recurse=False):
            if name in _BUFFERS and buffer.is_meta:
                setattr(owner, name, torch.arange(buffer.numel()).reshape(buffer.shape))
    return module


def _today(key: str, expected: Container[str]) -> str:
    """Return the key of a text encoder with or without a prefix, as the library in use has it."""
    others = (f"{_PREFIX}{key}", key.removeprefix(_PREFIX))
    return next((other for other in others if key not in expected and other in expected), key)


def _as_shape(stored: Stored, wanted: torch.Size | None) -> Stored:
    """Return a matrix that was once the kernel of a convolution over one pixel."""
    if wanted is None or stored.shape == wanted or stored.shape != (*wanted, 1, 1):
        return stored
    return Stored(wanted, lambda: stored.read().reshape(wanted))
