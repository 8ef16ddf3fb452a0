"""Published weight files and folders to state dicts, safely: nothing in a file is ever executed."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from utils.log import once
from utils.quote import plain
from utils.weights import diffusers_folder, layout
from utils.weights.layout import Candidate, Shapes, State
from utils.weights.tensor_file import Stored, TensorFile, is_tensor, open_tensors

_SHOWN = 4  # keys named in a message before it says how many more there are


@dataclass(frozen=True)
class Checkpoint:
    """What a file or folder holds of networks, none of it read yet."""

    path: Path
    states: list[State]
    """In the order of the file."""
    made_by: str | None = None
    """See `TensorFile.made_by`."""
    saved: list[State] = field(default_factory=list)
    """The same under the names of diffusers, where it has those."""

    @property
    def has_names(self) -> bool:
        """Whether any tensor has a name; else they are lists in a network's order."""
        return any(state.named for state in self.states)

    def views(self) -> list[dict[str, Stored]]:
        """Return what may be networks, the likeliest first."""
        return [named for _, named in layout.views(self.states)]

    def fits(self, expected: Shapes) -> list[Candidate]:
        """Return the places under which exactly a network lies, averages first.

        Args:
            expected: Shape of every tensor of the network, by state-dict key, in the network's order.

        Raises:
            ValueError: An average without names cannot be given any.
        """
        try:
            found = layout.candidates(self._complete(expected), expected)
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        return sorted(found, key=lambda candidate: not candidate.averaged)

    def part(self, name: str) -> "Checkpoint":
        """Return what lies in one place of the file.

        Args:
            name: Of the wrappers and the prefix, with dots, or the last of it.

        Raises:
            ValueError: There is no such place.
        """
        places = list(layout.places(self.states))
        exact = [State(where, named) for where, named in places if where == name]
        found = exact or [State(where, named) for where, named in places if where.endswith(f".{name}")]
        if not found:
            names = [plain(where, 60) for where in layout.part_names(self.states)]
            have = f"its parts are {', '.join(names)}" if names else "it holds one network"
            raise ValueError(f"{self.path}: has no part {plain(name)!r}; {have}")
        return Checkpoint(self.path, found, self.made_by)

    def _complete(self, expected: Shapes) -> list[State]:
        """Return the states with the names that a network has.

        Of ours, those of folders of diffusers lack noise levels, which the network does not read.
        """
        if diffusers_folder.has_names_of_diffusers(expected):
            return self.saved or self.states
        if not self.path.is_dir() or "sigmas" not in expected:
            return self.states
        levels = diffusers_folder.noise_levels(self.path, expected["sigmas"])
        stored = Stored(levels.shape, lambda: levels)
        return [State(state.where, {"sigmas": stored, **state.named}) for state in self.states]


def open_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint, whatever wrappers its networks lie under.

    Args:
        path: A file of safetensors, torch.save, equinox or NVlabs/edm, or a folder of diffusers.

    Raises:
        ValueError: It is no checkpoint, is broken or unsafe.
        OSError: It cannot be opened.
    """
    file = diffusers_folder.find_weights(path) if path.is_dir() else path
    opened = open_tensors(file)
    if layout.is_optimizer(opened.content):
        raise ValueError(
            f"{file}: an optimizer's state, not a network's weights; give the file that was saved beside it"
        )
    try:
        place = diffusers_folder.place_of(path, file) if path.is_dir() else ""
        states = layout.find_states(opened.content, opened.store, place)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    if not states:
        raise ValueError(f"{file}: holds no state dict; found {_outline(opened.content)}")
    if len(states) == 1 and isinstance(opened.content, dict):
        _check_any_readable(opened)  # said before it is asked of which network they are
    saved = [layout.modern(state) for state in states]
    return Checkpoint(path, layout.to_published(states), opened.made_by, saved)


def _check_any_readable(opened: TensorFile) -> None:
    problem = None
    for key, tensor in opened.content.items():
        try:
            if is_tensor(tensor):
                opened.store(plain(key, 120), tensor)
                return
        except ValueError as error:
            problem = problem or error
    if problem is not None:
        raise problem


def load_weights(
    path: Path,
    expected: Shapes,
    explain: Callable[[Checkpoint, Shapes], str] | None = None,
    alphas_cumprod: Tensor | None = None,
) -> dict[str, Tensor]:
    """Read a checkpoint that must hold a network exactly.

    Args:
        path: What `open_checkpoint` takes.
        expected: Shape of every tensor of the network, by state-dict key, in the network's order.
        explain: Says of a checkpoint that does not fit a network what it is, for the message.
        alphas_cumprod: Of the config's schedule, which one in the file must not contradict.

    Returns:
        State dict on the CPU, in float32; large tensors share the memory of the file until they are changed.

    Raises:
        ValueError: It is no checkpoint, is broken or unsafe, belongs to another network or schedule, or
            holds several networks that fit.
        OSError: It cannot be opened.
    """
    return read_weights(open_checkpoint(path), expected, explain, alphas_cumprod)


def check_fits(
    path: Path, expected: Shapes, explain: Callable[[Checkpoint, Shapes], str] | None = None
) -> None:
    """Refuse a checkpoint of another network, by its keys and shapes alone. See `load_weights`."""
    checkpoint = open_checkpoint(path)
    if not checkpoint.fits(expected):
        raise ValueError(_refusal(checkpoint, expected, explain))


def read_weights(
    checkpoint: Checkpoint,
    expected: Shapes,
    explain: Callable[[Checkpoint, Shapes], str] | None = None,
    alphas_cumprod: Tensor | None = None,
) -> dict[str, Tensor]:
    """Read an open checkpoint; averaged weights before raw ones. See `load_weights`."""
    found = checkpoint.fits(expected)
    if not found:
        raise ValueError(_refusal(checkpoint, expected, explain))
    chosen = found[0]
    _check_only(checkpoint.path, [other for other in found if other.averaged == chosen.averaged])
    _check_schedule(checkpoint.path, chosen, alphas_cumprod)
    state = {key: chosen.named[key].read() for key in expected}
    others = [] if chosen.averaged else layout.misfits(checkpoint.states, expected)
    if chosen.where or others:
        once(f"{checkpoint.path.name}: {_what_was_taken(chosen, others)}")
    return state


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


def shapes_of(named: dict[str, Stored]) -> dict[str, torch.Size]:
    """Return the shape of every tensor."""
    return {key: stored.shape for key, stored in named.items()}


def _what_was_taken(chosen: Candidate, others: list[str]) -> str:
    kind = "EMA weights" if chosen.averaged else "weights"
    line = f"took the {kind} " + (
        f"under {plain(chosen.where, 100)}" if chosen.where else "that have no prefix"
    )
    if chosen.completed is not None:
        line += f", and what they leave out from {plain(chosen.completed or 'beside them', 100)}"
    return line + (
        f"; the EMA weights under {plain(others[0], 100)} are of another network" if others else ""
    )


def _refusal(
    checkpoint: Checkpoint, expected: Shapes, explain: Callable[[Checkpoint, Shapes], str] | None
) -> str:
    near = layout.nearest(checkpoint.states, expected)
    where = f" (nearest is what lies under {plain(near.where, 100)})" if near.where else ""
    problems = describe_mismatch(shapes_of(near.named), expected)
    advice = explain(checkpoint, expected) if explain else ""
    head = f"{checkpoint.path}: these weights do not fit the config's network{where}; "
    return "\n".join([head + (advice or "give the config that they belong to"), *problems])


def _check_only(path: Path, rivals: list[Candidate]) -> None:
    """Refuse to choose between networks of one rank whose tensors differ."""
    first = rivals[0]
    if all(_are_equal(first, other) for other in rivals[1:]):
        return
    names = " and ".join(plain(rival.where, 60) or "the keys without a prefix" for rival in rivals)
    raise ValueError(
        f"{path}: holds several networks that fit the config, under {names}, and their weights differ; write "
        "the one that you want to a file of its own: python -m tools.convert FILE NEW.safetensors --part "
        f"{plain(rivals[-1].where, 60)}"
    )


def _are_equal(a: Candidate, b: Candidate) -> bool:
    pairs = ((a.named[key], b.named[key]) for key in a.named)
    return all(one is other or torch.equal(one.read(), other.read()) for one, other in pairs)


def _check_schedule(path: Path, chosen: Candidate, alphas_cumprod: Tensor | None) -> None:
    """Refuse weights that say that they were trained on another schedule."""
    if alphas_cumprod is None:
        return
    for name, stored in chosen.schedule.items():
        found, wanted = stored.read(), _tables(alphas_cumprod)[name]
        if is_of_schedule(name, found, alphas_cumprod):
            continue
        raise ValueError(
            f"{path}: its {name} are of another schedule than the config's: {_ends(found)} in the file, "
            f"{_ends(wanted)} by the config; change schedule, num_timesteps, beta_start "
            "and beta_end below diffusion in the config to those of the training: python -m tools.describe "
            "FILE prints them"
        )


def is_of_schedule(name: str, found: Tensor, alphas_cumprod: Tensor) -> bool:
    """Whether a table of a file, betas or alphas_cumprod, is that of a schedule, as near as files hold it.

    Args:
        name: What it is called.
        found: The table, [T].
        alphas_cumprod: Of the schedule, float64 [T].
    """
    wanted = _tables(alphas_cumprod)[name]
    return found.shape == wanted.shape and _are_close(found.double(), wanted)


def _tables(alphas_cumprod: Tensor) -> dict[str, Tensor]:
    before = torch.cat([alphas_cumprod.new_ones(1), alphas_cumprod[:-1]])
    return {"alphas_cumprod": alphas_cumprod, "betas": 1 - alphas_cumprod / before}


def _are_close(found: Tensor, wanted: Tensor) -> bool:
    halves = (torch.float16, torch.bfloat16)
    rounded = any(torch.equal(found, found.to(dtype).double()) for dtype in halves)
    return torch.allclose(found, wanted, rtol=0.01 if rounded else 0.001, atol=1e-7)


def _ends(table: Tensor) -> str:
    flat = table.flatten()
    return f"{len(flat)} from {flat[0]:.6g} to {flat[-1]:.6g}" if len(flat) else "none"


def _outline(content: Any) -> str:
    if isinstance(content, dict):
        return "a dict with " + _some(list(content), lambda key: f"{key} ({type(content[key]).__name__})")
    return f"a {type(content).__name__}"


def _some(items: list, show: Callable[[Any], str] = str) -> str:
    more = len(items) - _SHOWN
    shown = ", ".join(plain(show(item), 120) for item in items[:_SHOWN])
    return shown + (f" and {more} more" if more > 0 else "")
