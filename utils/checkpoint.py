"""Published weight files and folders to state dicts, safely: nothing in a file is ever executed."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils import diffusers_folder
from utils.quote import plain
from utils.tensor_file import Stored, TensorFile, is_tensor, open_tensors

_SHOWN = 4  # keys named in a message before it says how many more there are
_WRAPPINGS = ("ema", "state_dict", "model", "shadow", "shadow_params")  # outermost first
_PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile
_PARTS = ("unet_cond", "unet_uncond")  # of xyfJASON's two networks in one file, the conditional one first

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds of a network, none of it read yet."""

    path: Path
    named: dict[str, Stored] = field(default_factory=dict)
    """Tensors by their published key, in the order of the file."""
    listed: list[Stored] = field(default_factory=list)
    """Tensors in the network's order that stand for those of `named` or, where it is empty, for all."""
    parts: dict[str, "Checkpoint"] = field(default_factory=dict)
    """The networks of a file of several, by name."""

    def shapes(self) -> dict[str, torch.Size]:
        """Return the shape of every named tensor."""
        return {key: stored.shape for key, stored in self.named.items()}

    def part(self, name: str) -> "Checkpoint":
        """Return one network of a file of several.

        Raises:
            ValueError: The file holds no such network.
        """
        if name not in self.parts:
            have = f"its networks are {', '.join(self.parts)}" if self.parts else "it holds one network"
            raise ValueError(f"{self.path}: has no part {name!r}; {have}")
        return self.parts[name]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint in any of the layouts that are published.

    Accepts a flat state dict and the wrappings in use: an exponential moving average under ema.shadow or
    ema.shadow_params (preferred where present; a dict, or a list in parameter order), 'state_dict',
    'model', keys that begin with 'module.', the list of ermongroup/ddim, xyfJASON's file of two networks,
    and a folder of diffusers. What an average leaves out, such as frozen parameters and buffers, comes
    from the 'model' beside it.

    Args:
        path: A file of safetensors or torch.save, or a folder.

    Raises:
        ValueError: It is no checkpoint, is broken or unsafe.
        OSError: It cannot be opened.
    """
    if path.is_dir():
        return Checkpoint(path, diffusers_folder.open_network(path))
    opened = open_tensors(path)
    content, beside = _unwrap(opened.content)
    under = _store_all(opened, beside) if _is_state(beside) else {}
    if isinstance(content, list | tuple) and content and all(is_tensor(item) for item in content):
        listed = [opened.store(f"tensor {i}", item) for i, item in enumerate(content)]
        return _split(Checkpoint(path, under, listed))
    if not _is_state(content):
        raise ValueError(f"{path}: holds no state dict; found {_outline(content)}")
    named = _store_all(opened, content)
    if diffusers_folder.has_names_of_diffusers(named):
        named = diffusers_folder.to_published(named)
    return _split(Checkpoint(path, under | named if named.keys() <= under.keys() else named))


def load_weights(
    path: Path, expected: Shapes, explain: Callable[[Checkpoint], str] | None = None
) -> dict[str, Tensor]:
    """Read a checkpoint that must fit a network exactly.

    Args:
        path: What `open_checkpoint` takes.
        expected: Shape of every tensor of the network, by state-dict key, in the network's order.
        explain: Says of a checkpoint that does not fit what it is, for the message.

    Returns:
        State dict on the CPU, in float32; large tensors share the memory of the file until they are changed.

    Raises:
        ValueError: It is no checkpoint, is broken or unsafe, or belongs to another network.
        OSError: It cannot be opened.
    """
    return read_weights(open_checkpoint(path), expected, explain)


def read_weights(
    checkpoint: Checkpoint, expected: Shapes, explain: Callable[[Checkpoint], str] | None = None
) -> dict[str, Tensor]:
    """Read an open checkpoint; of several networks in it that which fits. See `load_weights`."""
    chosen = _choose(checkpoint, expected)
    stored = _name(chosen, expected)
    problems = describe_mismatch({key: tensor.shape for key, tensor in stored.items()}, expected)
    if problems:
        advice = explain(chosen) if explain else ""
        head = f"{checkpoint.path}: these weights do not fit the config's network; "
        raise ValueError("\n".join([head + (advice or "give the config that they belong to"), *problems]))
    return {key: stored[key].read() for key in expected}


def describe_mismatch(found: Shapes, expected: Shapes) -> list[str]:
    """Name the first keys and shapes in which two networks differ; nothing where they do not."""
    shapes = [
        f"{key} is {list(found[key])} in the file and {list(shape)} in the network"
        for key, shape in expected.items()
        if key in found and found[key] != shape
    ]
    groups = {
        "missing": [key for key in expected if key not in found],
        "unknown": [key for key in found if key not in expected],
        "other shape": shapes,
    }
    return [f"  {title}: {_some(items)}" for title, items in groups.items() if items]


def _unwrap(content: Any) -> tuple[Any, Any]:
    """Return the weights of a content, and the state dict beside an average."""
    if isinstance(content, list | tuple) and content and _is_state(content[0]):
        average = content[-1] if len(content) > 4 and _is_state(content[-1]) else None  # ermongroup/ddim
        return (content[0], None) if average is None else (average, content[0])
    beside = None
    for key in _WRAPPINGS:
        if isinstance(content, dict) and isinstance(content.get(key), dict | list):
            beside = content.get("model") if key == "ema" else beside
            content = content[key]
    return content, beside


def _is_state(content: Any) -> bool:
    return isinstance(content, dict) and bool(content) and all(is_tensor(v) for v in content.values())


def _store_all(opened: TensorFile, state: dict) -> dict[str, Stored]:
    return {_strip(str(key)): opened.store(plain(key, 120), tensor) for key, tensor in state.items()}


def _strip(key: str) -> str:
    while key.startswith(_PREFIXES):
        key = key.partition(".")[2]
    return key


def _split(checkpoint: Checkpoint) -> Checkpoint:
    """Find the networks of a file that holds two of them."""
    named = checkpoint.named
    if not named or not all(key.startswith(_PARTS) for key in named):
        return checkpoint
    parts = {}
    for part in _PARTS:
        own = {key.removeprefix(f"{part}."): t for key, t in named.items() if key.startswith(f"{part}.")}
        if own:
            parts[part] = Checkpoint(checkpoint.path, own)
    return Checkpoint(checkpoint.path, named, checkpoint.listed, parts)


def _choose(checkpoint: Checkpoint, expected: Shapes) -> Checkpoint:
    if not checkpoint.parts:
        return checkpoint
    if checkpoint.listed:
        named = _name(checkpoint, checkpoint.shapes())
        checkpoint = _split(Checkpoint(checkpoint.path, named))
    fitting = [part for part in checkpoint.parts.values() if part.shapes() == dict(expected)]
    return (fitting or list(checkpoint.parts.values()))[0]


def _name(checkpoint: Checkpoint, expected: Shapes) -> dict[str, Stored]:
    if not checkpoint.listed:
        return _complete(checkpoint, expected)
    names = _listed_names(checkpoint, checkpoint.shapes() or expected)
    return checkpoint.named | dict(zip(names, checkpoint.listed, strict=True))


def _complete(checkpoint: Checkpoint, expected: Shapes) -> dict[str, Stored]:
    """Add the noise levels that folders of diffusers leave out and the network does not read."""
    named = checkpoint.named
    if checkpoint.path.is_dir() and "sigmas" in expected and "sigmas" not in named:
        levels = diffusers_folder.noise_levels(checkpoint.path, expected["sigmas"])
        named = {"sigmas": Stored(levels.shape, lambda: levels), **named}
    return named


def _listed_names(checkpoint: Checkpoint, expected: Shapes) -> list[str]:
    """Name a list's tensors, which are the network's in order, some of them perhaps left out."""
    names = list(expected)
    if len(checkpoint.listed) == len(names):
        return names
    shapes = [tensor.shape for tensor in checkpoint.listed]
    first = _match_in_order(names, shapes, expected)
    last = _match_in_order(names[::-1], shapes[::-1], expected)[::-1]
    if first == last and None not in first:  # no other way lies between the two
        return first
    ways = "in no way" if None in first else "in several ways"
    raise ValueError(
        f"{checkpoint.path}: holds a list of {len(shapes)} tensors without names, which fits the "
        f"{len(names)} of the config's network {ways}; give the config that these weights were trained "
        "with, or a file with names"
    )


def _match_in_order(names: list[str], shapes: Iterable[torch.Size], expected: Shapes) -> list[str | None]:
    remaining = iter(names)
    return [next((name for name in remaining if expected[name] == shape), None) for shape in shapes]


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        return "a dict with " + _some([f"{key} ({type(value).__name__})" for key, value in content.items()])
    return f"a {type(content).__name__}"


def _some(items: list[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(plain(item, 120) for item in items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
