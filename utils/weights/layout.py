"""Where in a file of weights a network lies: under which wrappers and prefix, and whether averaged."""

import functools
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from utils.quote import plain
from utils.weights import diffusers_folder, edm_keys
from utils.weights.tensor_file import Stored, is_tensor

_MOST_CONTAINERS, _DEEPEST, _LONGEST_LIST = 20_000, 8, 64
# of a state dict; the largest network has 1,100, with names of up to 60 characters
_MOST_KEYS, _LONGEST_KEY, _MOST_DOTS = 4_000, 120, 16
_MOST_NETWORKS = 8  # of diffusers in one state dict
_LEAST = 0.5  # of a network's tensors that an average must have, to be completed from the raw weights
_SHARE = 0.3  # of a state's tensors that a prefix must have, to be named

_BUFFERS = re.compile(
    r"(betas|alphas|alphas_(cumprod|bar).*|(sqrt|log|posterior|one_minus)_.*|(p2_)?loss_weights?|lvlb_weights"
    r"|logvar|snr|timesteps|n_averaged|num_batches_tracked|initted|step|decay|num_updates)"
)
"""Last part of keys of no network: of schedules, and of what counts steps."""
SCHEDULE = ("betas", "alphas_cumprod")
"""Buffers that tell which schedule a network was trained on."""

Shapes = Mapping[str, torch.Size]


@dataclass(frozen=True)
class State:
    """Tensors that lie in one container."""

    where: str
    """Keys of the containers that it lies in, with dots; empty for the file itself."""
    named: dict[str, Stored] = field(default_factory=dict)
    """By key, in the order of the file."""
    listed: list[Stored] = field(default_factory=list)
    """In the order of a network, where they have no names."""


@dataclass(frozen=True)
class Candidate:
    """A place in a file where a network may lie."""

    where: str
    """Wrappers and prefix, with dots; empty for a plain state dict."""
    averaged: bool
    named: dict[str, Stored]
    """By the network's own keys."""
    schedule: dict[str, Stored] = field(default_factory=dict)
    """What lies beside them of the schedule that they were trained on."""
    completed: str | None = None
    """Where the tensors are from that an average leaves out."""


def find_states(content: Any, store: Callable[[str, Any], Stored], place: str = "") -> list[State]:
    """List the tensors of a file's content, container by container, in the file's order.

    Args:
        content: Nested dicts and lists; an optimizer's state in it is passed over.
        store: Describes one tensor, named for messages; called only when the tensor is read.
        place: What the file itself is called, where there are several.

    Raises:
        ValueError: More or longer names than networks have; the message is without the file's name.
    """
    states, seen, waiting = [], {id(content)}, [(place, content, 0)]
    while waiting:
        where, value, depth = waiting.pop()
        if is_optimizer(value):
            continue
        states += _state_of(where, value, store)
        inner = []
        for key, item in _containers(value) if depth < _DEEPEST else ():
            if id(item) not in seen and len(seen) < _MOST_CONTAINERS:
                seen.add(id(item))
                inner.append((_join(where, key), item, depth + 1))
        waiting += reversed(inner)
    if sum(len(state.named) for state in states) > 2 * _MOST_KEYS:
        raise ValueError(f"has more than {2 * _MOST_KEYS} tensors outside optimizers; no checkpoint has")
    return states


def to_published(states: list[State]) -> list[State]:
    """Give what has the names of diffusers, or NVlabs' of an ADM, its published ones."""
    return [part for state in states for part in _to_published(state)]


def is_optimizer(value: Any) -> bool:
    """Whether a content is what an optimizer saves of itself."""
    return isinstance(value, dict) and {"state", "param_groups"} <= value.keys()


def _containers(value: Any) -> list[tuple[str, Any]]:
    if not isinstance(value, dict | list | tuple):
        return []
    items = list(value.items() if isinstance(value, dict) else enumerate(value[:_LONGEST_LIST]))
    if isinstance(value, list) and len(value) > 4 and isinstance(value[-1], dict):
        items[-1] = ("average", items[-1][1])  # ermongroup/ddim: [model, optimizer, epoch, step, average]
    return [(str(key)[:_LONGEST_KEY], item) for key, item in items if isinstance(item, dict | list | tuple)]


def _state_of(where: str, value: Any, store: Callable[[str, Any], Stored]) -> list[State]:
    def lazy(name: str, tensor: Any) -> Stored:
        return Stored(tensor.shape, lambda: store(plain(name, 120), tensor).read())

    if isinstance(value, dict):
        found = [(str(key), tensor) for key, tensor in value.items() if is_tensor(tensor)]
        if len(found) > _MOST_KEYS or any(
            len(k) > _LONGEST_KEY or k.count(".") > _MOST_DOTS for k, _ in found
        ):
            raise ValueError(
                f"has more than {_MOST_KEYS} tensors in one dict, or names beyond {_LONGEST_KEY}"
            )
        return [State(where, {key: lazy(key, tensor) for key, tensor in found})] if found else []
    if isinstance(value, list | tuple) and value and all(is_tensor(item) for item in value):
        return [State(where, listed=[lazy(f"tensor {i}", tensor) for i, tensor in enumerate(value)])]
    return []


def modern(state: State) -> State:
    """Give what diffusers once named otherwise the names of today, prefixes aside."""
    return replace(state, named={diffusers_folder.modern(key): stored for key, stored in state.named.items()})


def _to_published(state: State) -> Iterator[State]:
    """Give what has the names of diffusers, or NVlabs' of an ADM, its published ones."""
    mark, rest = "time_embedding.linear_1.weight", dict(state.named)
    for prefix in _prefixes(rest, mark):
        own = below(rest, prefix)
        if diffusers_folder.has_names_of_diffusers(own):
            rest = {key: stored for key, stored in rest.items() if not key.startswith(prefix)}
            named = diffusers_folder.to_published(own)
            yield State(_join(state.where, prefix), named)
    for prefix in _prefixes(rest, edm_keys.MARK):
        own = below(rest, prefix)
        if edm_keys.is_adm(own):
            rest = {key: stored for key, stored in rest.items() if not key.startswith(prefix)}
            edm_keys.check_groups(own)
            yield State(_join(state.where, prefix), edm_keys.to_adm(own))
    if rest or state.listed:
        yield State(state.where, rest, state.listed)


def _prefixes(named: Mapping[str, Any], mark: str) -> list[str]:
    """Return what stands before a key that networks of some kind have."""
    return [key.removesuffix(mark) for key in named if key.endswith(mark)][:_MOST_NETWORKS]


def below(named: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return what has a prefix, without it."""
    return {key.removeprefix(prefix): value for key, value in named.items() if key.startswith(prefix)}


def is_buffer(key: str, shape: torch.Size) -> bool:
    """Whether a tensor belongs to a schedule or counts steps, and not to a network."""
    return len(shape) <= 1 and _BUFFERS.fullmatch(key.rpartition(".")[2]) is not None


@functools.lru_cache(maxsize=4096)
def is_average(where: str) -> bool:
    """Whether the names of a place say that the weights in it are averaged; the innermost decides."""
    for part in reversed(where.lower().split(".")):
        words = re.split(r"[^a-z]+", part)
        if "online" in words or "non" in words:
            return False
        if any(word.startswith("ema") or word.endswith("ema") for word in words):
            return True
        if {"shadow", "average", "averaged", "avg", "swa"} & set(words):
            return True
    return False


def candidates(states: list[State], expected: Shapes) -> list[Candidate]:
    """List the places under which exactly a network lies, buffers of a schedule aside.

    Args:
        states: Of a file.
        expected: Shape of every tensor of the network, by its key, in the network's order.

    Raises:
        ValueError: An average without names cannot be given any; the message is without the file's name.
    """
    named = [state for state in states if state.named]
    found, partial = [], []
    for state in [*named, *_name_lists(states, expected)]:
        for candidate in _candidates_in(state, states, expected):
            whole = len(candidate.named) == len(expected)
            (found if whole else partial).append(candidate)
    raw = next((candidate for candidate in found if not candidate.averaged), None)
    if raw is not None:
        found += [_complete(candidate, raw, expected) for candidate in partial if candidate.averaged]
    return found


def _complete(average: Candidate, raw: Candidate, expected: Shapes) -> Candidate:
    named = {key: average.named.get(key) or raw.named[key] for key in expected}
    return Candidate(average.where, True, named, average.schedule | raw.schedule, raw.where)


def _candidates_in(state: State, states: list[State], expected: Shapes) -> Iterator[Candidate]:
    """Yield the places of a state that hold nothing but a network, or at least half of one."""
    if len(state.named) < _LEAST * len(expected):
        return
    groups = {
        prefix: group
        for prefix, group in groups_of(state, expected).items()
        if len(group) >= _LEAST * len(expected)
        and all(state.named[key].shape == expected[own] for own, key in group.items())
    }
    known = {key for group in groups.values() for key in group.values()}
    for prefix, group in groups.items():
        others = [key for key in state.named if key.startswith(prefix) and key not in known]
        if any(not is_buffer(key, state.named[key].shape) for key in others):
            continue
        where = _join(state.where, prefix)
        averaged = is_average(where) or _is_averaged_model(state, prefix)
        named = {own: state.named[key] for own, key in group.items()}
        yield Candidate(where, averaged, named, _schedule_beside(where, states))


def groups_of(state: State, expected: Shapes) -> dict[str, dict[str, str]]:
    """Return for every prefix of a state the keys below it that are a network's, by the network's keys."""
    groups: dict[str, dict[str, str]] = defaultdict(dict)
    flat = {key.replace(".", ""): key for key in expected}
    lengths, tails = sorted({len(key) for key in flat}), {key[-4:] for key in flat}
    for key in state.named:
        prefix, rest, dot = "", key, "."
        while dot:
            if rest in expected:
                groups[prefix][rest] = key
            head, dot, rest = rest.partition(".")
            prefix += head + dot
        place, dot, _ = key.rpartition(".")
        if key[-4:] in tails and len(flat) == len(expected) and is_average(_join(state.where, place)):
            # LitEma of latent diffusion takes the dots out of names
            for length in lengths:
                i = len(key) - length
                if i >= len(place + dot) and key[i:] in flat:
                    groups[key[:i]].setdefault(flat[key[i:]], key)
    return groups


def _is_averaged_model(state: State, prefix: str) -> bool:
    """Whether it lies in an AveragedModel of torch, which counts what it averaged."""
    return prefix.endswith("module.") and f"{prefix.removesuffix('module.')}n_averaged" in state.named


def _schedule_beside(where: str, states: list[State]) -> dict[str, Stored]:
    """Return the schedule that lies in a place, or in what is around it."""
    found = {}
    for state in states:
        for key, stored in state.named.items():
            place, _, name = _join(state.where, key).rpartition(".")
            if name in SCHEDULE and f"{where}.".startswith(f"{place}." if place else ""):
                found[name] = stored
    return found


def _name_lists(states: list[State], expected: Shapes) -> list[State]:
    """Name the tensors of lists, by the raw weights beside them or else by the network."""
    named = []
    orders = [
        {key: stored.shape for key, stored in state.named.items()}
        for state in states
        if state.named and not is_average(state.where)
    ]
    for state in states:
        if not state.listed:
            continue
        try:
            names = _first_order(state.listed, [*orders, expected])
        except ValueError:
            if is_average(state.where) or len(states) == 1:
                raise
            continue
        named.append(State(state.where, dict(zip(names, state.listed, strict=True))))
    return named


def _first_order(listed: list[Stored], orders: list[Shapes]) -> list[str]:
    for order in orders:
        try:
            return listed_names(listed, order)
        except ValueError as error:
            reason = error
    raise reason


def listed_names(listed: list[Stored], expected: Shapes) -> list[str]:
    """Name a list's tensors, which are a network's in order, some of them perhaps left out.

    Raises:
        ValueError: They fit in no way, or in several; the message is without the file's name.
    """
    names, shapes = list(expected), [tensor.shape for tensor in listed]
    if len(listed) == len(names) and shapes == list(expected.values()):
        return names
    first = _match_in_order(names, shapes, expected)
    last = _match_in_order(names[::-1], shapes[::-1], expected)[::-1]
    if first == last and None not in first:  # no other way lies between the two
        return first
    ways = "in no way" if None in first else "in several ways"
    raise ValueError(
        f"holds a list of {len(shapes)} tensors without names, which fits the "
        f"{len(names)} of the config's network {ways}; give the config that these weights were trained "
        "with, or a file with names"
    )


def _match_in_order(names: list[str], shapes: Iterable[torch.Size], expected: Shapes) -> list[str | None]:
    remaining = iter(names)
    return [next((name for name in remaining if expected[name] == shape), None) for shape in shapes]


def misfits(states: list[State], expected: Shapes) -> list[str]:
    """Return the places that are called averages and have most of a network's keys, but are not it."""
    exact = {candidate.where for candidate in candidates(states, expected)}
    places = [
        _join(state.where, prefix)
        for state in states
        for prefix, group in groups_of(state, expected).items()
        if len(group) >= _LEAST * len(expected)
    ]
    return [where for where in places if is_average(where) and where not in exact]


def nearest(states: list[State], expected: Shapes) -> Candidate:
    """Return the place that has most of a network's keys, averaged before raw, or else the most tensors."""
    found = []
    for state in [*states, *_name_lists(states, expected)]:
        for prefix, group in groups_of(state, expected).items():
            where = _join(state.where, prefix)
            found.append((len(group), is_average(where), where, below(state.named, prefix)))
    where, named = max(found, key=lambda entry: entry[:2])[2:] if found else (*views(states), ("", {}))[0]
    named = {key: s for key, s in named.items() if key in expected or not is_buffer(key, s.shape)}
    return Candidate(where, is_average(where), named)


def views(states: list[State]) -> list[tuple[str, dict[str, Stored]]]:
    """Return what may be networks, with their places: every state, and below each prefix that has much of it.

    The largest states come first, of each what lies below a prefix after the whole.
    """
    found = []
    for state in sorted(states, key=lambda state: -len(state.named)):
        own = {key: s for key, s in state.named.items() if not is_buffer(key, s.shape)}
        prefixes: dict[str, int] = defaultdict(int)
        for key in own:
            for parts in range(4):
                head = key.split(".", parts)[:parts]
                prefixes["".join(f"{part}." for part in head)] += len(head) == parts < key.count(".") + 1
        for prefix, count in prefixes.items():
            if count >= _SHARE * len(own):
                found.append((_join(state.where, prefix), below(own, prefix)))
    return found


def places(states: list[State]) -> Iterator[tuple[str, dict[str, Stored]]]:
    """Yield every state, and what lies below each prefix of it that has at most four parts."""
    for state in states:
        heads = {
            "".join(f"{part}." for part in key.split(".")[:-1][:n]) for key in state.named for n in range(5)
        }
        for prefix in sorted(heads):
            yield _join(state.where, prefix), below(state.named, prefix)


def part_names(states: list[State]) -> list[str]:
    """Return the places that a person may mean: wrappers, and prefixes where all keys have one of a few."""
    names = []
    for state in states:
        heads = dict.fromkeys(key.partition(".")[0] for key in state.named)
        names += [_join(state.where, head) for head in heads] if len(heads) <= 3 else [state.where]
    return [name for name in names if name]


def _join(where: str, key: str) -> str:
    return ".".join(part for part in (where, key.strip(".")) if part)
