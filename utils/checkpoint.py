"""Published weight files to state dicts, safely: nothing in a file is ever executed."""

import pickle
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

_SHOWN = 4  # keys named in a message before it says how many more there are


def load_weights(path: Path, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """Read a checkpoint that must fit a network exactly.

    Accepts a flat state dict and the wrappings that the published files use: an exponential moving
    average under ema.shadow or ema.shadow_params (preferred where present; a dict, or a list in
    parameter order), 'state_dict', 'model', and keys that begin with 'module.'. What a list leaves out,
    such as frozen parameters and buffers, comes from the 'model' beside it.

    Args:
        path: A .safetensors file, or a file of torch.save (read with weights_only=True).
        expected: Shape of every tensor of the network, by state-dict key, in the network's order.

    Returns:
        State dict on the CPU; floating-point tensors in float32.

    Raises:
        ValueError: The file is no checkpoint, is broken or unsafe, or belongs to another network.
    """
    state = _unwrap(path, _read(path), expected)
    _check(path, state, expected)
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}


def _read(path: Path) -> Any:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        raise ValueError(f"{path}: the file is empty; download it again")
    if head.lstrip()[:1] == b"<":
        raise ValueError(f"{path}: a web page instead of weights, the download failed; fetch it again")
    if head.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path}: is a Git LFS pointer, not the weights; run `git lfs pull` beside it")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except SafetensorError as error:
            raise ValueError(f"{path}: broken or truncated safetensors file ({error})") from None
    return _read_pickle(path)


def _read_pickle(path: Path) -> Any:
    # The texts of torch's own errors and warnings advise an unsafe load, so none of them is passed on.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        blocked = re.search(r"GLOBAL ([\w.]+)", str(error))
        if blocked:
            raise ValueError(
                f"{path}: besides tensors it holds {blocked[1]}, which could run code, so it is not loaded; "
                "where you trust its source, save its state dict as .safetensors in the program it is from"
            ) from None
        raise ValueError(
            f"{path}: not a checkpoint of torch.save, or a truncated one; fetch it again"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, IndexError, TypeError, AttributeError):
        raise ValueError(
            f"{path}: not a checkpoint of torch.save, or a truncated one; fetch it again"
        ) from None


def _unwrap(path: Path, content: Any, expected: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    beside = content.get("model") if isinstance(content, dict) else None
    for key in ("ema", "state_dict", "model", "shadow", "shadow_params"):
        if isinstance(content, dict) and isinstance(content.get(key), dict | list):
            content = content[key]
    if isinstance(content, list):
        listed = dict(zip(_listed_names(path, content, expected), content, strict=True))
        content = {**_without_prefix(beside), **listed} if isinstance(beside, dict) else listed
    if not isinstance(content, dict) or not all(isinstance(v, Tensor) for v in content.values()):
        raise ValueError(f"{path}: holds no state dict; found {_outline(content)}")
    return _without_prefix(content)


def _without_prefix(state: dict) -> dict[str, Any]:
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _listed_names(path: Path, tensors: list, expected: Mapping[str, torch.Size]) -> list[str]:
    """Name a list's tensors, which are the network's in order, some of them perhaps left out."""
    names = list(expected)
    if len(tensors) == len(names):
        return names
    shapes = [getattr(tensor, "shape", None) for tensor in tensors]
    first = _match_in_order(names, shapes, expected)
    last = _match_in_order(names[::-1], shapes[::-1], expected)[::-1]
    if first == last and None not in first:  # no other way lies between the two
        return first
    ways = "in no way" if None in first else "in several ways"
    raise ValueError(
        f"{path}: holds a list of {len(tensors)} tensors without names, which fits the {len(names)} of the "
        f"config's network {ways}; give the config that these weights were trained with, or a file with names"
    )


def _match_in_order(
    names: list[str], shapes: list[torch.Size | None], expected: Mapping[str, torch.Size]
) -> list[str | None]:
    remaining = iter(names)
    return [next((name for name in remaining if expected[name] == shape), None) for shape in shapes]


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        return "a dict with " + _some([f"{key} ({type(value).__name__})" for key, value in content.items()])
    return f"a {type(content).__name__}"


def _check(path: Path, state: dict[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    missing = [key for key in expected if key not in state]
    unknown = [key for key in state if key not in expected]
    shapes = [
        f"{key} is {list(state[key].shape)} in the file and {list(shape)} in the network"
        for key, shape in expected.items()
        if key in state and state[key].shape != shape
    ]
    if not (missing or unknown or shapes):
        return
    lines = [f"{path}: these weights do not fit the config's network; give the config that they belong to"]
    for title, items in (("missing", missing), ("unknown", unknown), ("other shape", shapes)):
        if items:
            lines.append(f"  {title}: {_some(items)}")
    raise ValueError("\n".join(lines))


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
