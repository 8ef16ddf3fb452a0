"""What lies in pickles of NVlabs/edm and edm2: state dicts, and how their networks were made."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from utils import sources
from utils.quote import plain
from utils.sources import Placed, Record

_MOST_ITEMS = 20_000  # gone through in all networks; the largest has some thousands
_LONGEST_KEY, _MOST_DOTS = 120, 16
_MOST_VALUES, _DEEPEST = 10_000, 8  # of a description
_NO_MODULE = "a part of a network in it is no module with tensors; the file is damaged, fetch it again"
_TOO_MUCH = "its networks have more parts, or longer names, than any network, so it is not loaded"
_NOT_PLAIN = object()


def describe_pickle(path: Path) -> dict[str, dict[str, Any]]:
    """Say how the objects of a pickle of NVlabs/edm or edm2 were made; no line of it is run.

    Args:
        path: The file.

    Returns:
        By the object's name, of which "ema" is the network: `class_name`; `init_args` and `init_kwargs`, with
        which it was made; `attributes`, those that are plain values, such as sigma_min; and of a network
        `modules`, by name the same of its parts, one level down. Numbers, texts, lists and dicts alone.

    Raises:
        ValueError: It is no such pickle, or is broken.
        OSError: It cannot be opened.
    """
    sources.check_regular(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
            sources.refuse_start(head)
            if not sources.has_objects(head):
                raise ValueError(
                    "no pickle of NVlabs/edm or edm2; only these say how their networks were made"
                )
            return _Descriptions().all_of(sources.read_objects(file))
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


class _Descriptions:
    """Describes records, up to a number of values in all."""

    def __init__(self):
        self._left = _MOST_VALUES

    def all_of(self, records: dict[str, Record], depth: int = 2) -> dict[str, dict[str, Any]]:
        return {name: self._of(record, depth - 1) for name, record in records.items()}

    def _of(self, record: Record, depth: int) -> dict[str, Any]:
        state = record.state or {}
        own = {name: value for name, value in state.items() if name[:1] != "_" and name != "training"}
        described = {
            "class_name": record.class_name,
            "init_args": self._made_with(state.get("_init_args", ())),
            "init_kwargs": self._made_with(state.get("_init_kwargs", {})),
            "attributes": {name: value for name, value in self._plain_items(own) if value is not _NOT_PLAIN},
        }
        if record.is_module and depth:
            children = state["_modules"].items() if type(state["_modules"]) is dict else ()
            parts = {name: part for name, part in children if isinstance(part, Record)}
            described["modules"] = self.all_of(parts, depth)
        return described

    def _made_with(self, arguments: Any) -> Any:
        found = self._plain(arguments)
        if found is _NOT_PLAIN:
            raise ValueError(
                "a network in it was made with more than plain values, so it cannot be described"
            )
        return found

    def _plain_items(self, values: dict[str, Any], depth: int = 0) -> Iterable[tuple[str, Any]]:
        return [(name, self._plain(value, depth)) for name, value in values.items()]

    def _plain(self, value: Any, depth: int = 0) -> Any:
        """Return a value as numbers, texts, lists and dicts, or that it is none of these."""
        self._left -= 1
        if self._left < 0 or depth > _DEEPEST:
            raise ValueError("its networks were made with more values than any, so they are not described")
        if value is None or type(value) in (bool, int, float, str):
            return value
        if type(value) is dict:
            found = dict(self._plain_items(value, depth + 1))
            return _NOT_PLAIN if any(item is _NOT_PLAIN for item in found.values()) else found
        if type(value) in (list, tuple):
            listed = [self._plain(item, depth + 1) for item in value]
            return _NOT_PLAIN if any(item is _NOT_PLAIN for item in listed) else listed
        return _NOT_PLAIN


def states_of(objects: dict[str, Record]) -> dict[str, dict[str, Placed]]:
    """Return the state dict of each network among objects, with the keys and the order that torch gives.

    Raises:
        ValueError: One is broken, or holds more than any network; the message is without the file's name.
    """
    left, states = _MOST_ITEMS, {}
    for where, network in objects.items():
        waiting = [("", network)] if network.is_module else []
        while waiting:
            prefix, module = waiting.pop()
            parameters, buffers, children, passed = _parts(module)
            left -= 1 + len(parameters) + len(buffers) + len(children) + len(passed)
            if left < 0 or prefix.count(".") > _MOST_DOTS:
                raise ValueError(_TOO_MUCH)
            own = _own_tensors(parameters, buffers, passed)
            states.setdefault(where, {}).update({_key(prefix, name): tensor for name, tensor in own.items()})
            inner = [
                (_key(prefix, name) + ".", child) for name, child in children.items() if child is not None
            ]
            waiting += reversed(inner)
    return states


def _parts(module: Any) -> tuple[dict, dict, dict, list]:
    if not isinstance(module, Record) or not module.is_module:
        raise ValueError(_NO_MODULE)
    parameters, buffers, children = (module.state[name] for name in ("_parameters", "_buffers", "_modules"))
    passed = module.state.get("_non_persistent_buffers_set", [])
    if not type(parameters) is type(buffers) is type(children) is dict or type(passed) is not list:
        raise ValueError(_NO_MODULE)
    return parameters, buffers, children, passed


def _own_tensors(parameters: dict, buffers: dict, passed: list) -> dict[str, Placed]:
    """Return what lies in a module itself, without the buffers that torch does not save."""
    names = {name for name in passed if type(name) is str}
    kept = {name: buffer for name, buffer in buffers.items() if name not in names}
    own = {name: tensor for name, tensor in (parameters | kept).items() if tensor is not None}
    if parameters.keys() & kept.keys() or not all(isinstance(tensor, Placed) for tensor in own.values()):
        raise ValueError(_NO_MODULE)
    return own


def _key(prefix: str, name: str) -> str:
    if not name or "." in name:  # torch allows neither; so no two names make one key
        raise ValueError(f"a part of a network in it is called {plain(name, 60)!r}; the file is damaged")
    if len(prefix) + len(name) > _LONGEST_KEY:
        raise ValueError(_TOO_MUCH)
    return prefix + name
