"""YAML files to frozen dataclasses, strictly: every mistake is reported at once, with its place."""

import dataclasses
import difflib
import re
import sys
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from utils.diffusion_config import DiffusionConfig
from utils.quote import plain, quote

MAX_BYTES, MAX_VALUES, MAX_CHARS, MAX_DEPTH = 1_000_000, 50_000, 1000, 10
"""Of a file; of what it holds: values and sections, the text of one, sections within sections."""
_LIMITS = {int: 2**31 - 1, float: sys.float_info.max}
"""Of the numbers in a config; no NaN nor infinity is within them. The networks have narrower ones."""
MAX_PROBLEMS, MAX_LINE = 12, 280
"""Of a message: mistakes that it lists, characters of each."""
MAX_CLASSES_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Config:
    """One YAML file: a network, its diffusion and the names of its classes."""

    model: Any
    """The config dataclass of the family that model.name chose."""
    diffusion: DiffusionConfig
    classes: tuple[str, ...] = ()
    """Names of the class indices 0, 1, ...; empty where the source gives none."""
    null_class: int | None = None
    """Index of the label that stands for 'no class', for unconditional use."""

    def __post_init__(self):
        if self.model is None:  # what is wrong with it has been said
            return
        num_classes = count_classes(self.model)
        if self.channels not in (1, 3):
            raise ValueError(f"model.in_channels {self.channels}: images have 1, of greys, or 3")
        if num_classes is not None and len(self.classes) > num_classes:
            raise ValueError(f"classes: {len(self.classes)} names, and the network has {num_classes} classes")
        if self.null_class is not None and not 0 <= self.null_class < (num_classes or 0):
            allowed = f"an index from 0 to {num_classes - 1}" if num_classes else "none, it has no classes"
            raise ValueError(f"null_class {self.null_class}: allowed for this network is {allowed}")

    @property
    def channels(self) -> int:
        """Of pictures."""
        return self.state_channels

    @property
    def state_channels(self) -> int:
        """Of what the network denoises: pictures, or latents of them."""
        return getattr(self.model, "image_channels", getattr(self.model, "in_channels", 3))

    @property
    def image_size(self) -> int:
        """Height and width of the pictures that the network was trained on, in pixels."""
        return self.model.image_size

    @property
    def factor(self) -> int:
        """Height and width in a picture of what is one pixel to the network."""
        return 1

    @property
    def told_text(self) -> bool:
        """Whether the network is told a text."""
        return hasattr(self.model, "text_context")


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and what explodes, and reads 1e-4 as the number that it is."""

    def __init__(self, stream):
        super().__init__(stream)
        self.depth = self.count = 0

    def compose_node(self, parent, index):
        event = self.peek_event()
        self.count += 1
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self.refuse("anchors and aliases (& and *) are not read; write the value out", event)
        if self.count > MAX_VALUES:
            self.refuse(f"more than {MAX_VALUES} values", event)
        if self.depth >= MAX_DEPTH:
            self.refuse(f"more than {MAX_DEPTH} sections within one another", event)
        if isinstance(event, yaml.ScalarEvent) and len(event.value) > MAX_CHARS:
            self.refuse(f"a value of more than {MAX_CHARS} characters", event)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse("a list or a section as a key", key_node)
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                self.refuse(f"duplicate key {quote(key)}", key_node)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def refuse(self, problem, where):
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=where.start_mark)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def load_config(path: Path, families: Mapping[str, type], overrides: list[str] | None = None) -> Config:
    """Read a config.

    Args:
        path: The YAML file.
        families: Config dataclass of each network, by the name that model.name may take.
        overrides: Texts 'key=value' with a dotted key; the value is read as YAML.

    Raises:
        ValueError: Broken YAML, or unknown, missing or mistyped keys, all of them listed.
    """
    raw = _read(path)
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected 'key: value' lines with model and diffusion, got {_kind(raw)}")
    problems: list[str] = []
    for override in overrides or []:
        _override(raw, override, problems)
    model = _take_model(raw, families, problems)
    rest = _build(Config, {**raw, "model": model}, "", problems)
    if problems:
        lines = [f"  {plain(problem, MAX_LINE)}" for problem in problems[:MAX_PROBLEMS]]
        if len(problems) > MAX_PROBLEMS:
            lines.append(f"  and {len(problems) - MAX_PROBLEMS} more")
        raise ValueError("\n".join([f"{path}: {len(problems)} problem(s)", *lines]))
    return rest


def build_section(cls: type, values: dict[str, Any]) -> Any:
    """Build the dataclass of a section from what another kind of config says.

    Raises:
        ValueError: A value is missing, of another type or out of range; all are listed.
    """
    problems: list[str] = []
    section = _build(cls, values, "", problems)
    if problems:
        raise ValueError("; ".join(plain(problem, MAX_LINE) for problem in problems[:MAX_PROBLEMS]))
    return section


def _read(path: Path) -> Any:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for without end
            raise ValueError("it is no file")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ValueError(f"more than {MAX_BYTES} bytes")
        return yaml.load(data.decode("utf-8"), Loader=_Loader)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read: {error.strerror}") from None
    except Exception as error:  # PyYAML's own, and what a date of 2000-99-99 or a text as !!int raise in it
        raise ValueError(f"{path}: not a readable YAML file: {_explain(error)}") from None


def _explain(error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
    said = getattr(error, "problem", None) or error  # without the lines of the file that PyYAML quotes
    return plain(said if isinstance(error, yaml.YAMLError | ValueError) else repr(error)) + where


def class_index(config: Config, label: str) -> int:
    """Find a class of the config, of a network or a classifier, by its name or its index.

    Raises:
        ValueError: The network has no classes, or not this one.
    """
    num_classes = count_classes(config.model)
    if num_classes is None:
        raise ValueError(
            f"class {quote(label)}: this config's network has no classes; use a class-conditional one"
        )
    if label in config.classes:
        return config.classes.index(label)
    alike = [i for i, name in enumerate(config.classes) if name.casefold() == label.casefold()]
    if len(alike) == 1:
        return alike[0]
    if label.isascii() and label.isdecimal() and len(label) < 10 and int(label) < num_classes:
        return int(label)
    near = difflib.get_close_matches(label[:100], config.classes, n=1)
    allowed = f"an index from 0 to {num_classes - 1}"
    if config.classes:
        shown = ", ".join(plain(name, 40) for name in config.classes[:MAX_CLASSES_SHOWN])
        more = len(config.classes) - MAX_CLASSES_SHOWN
        allowed += f" or one of {shown}" + (f" and {more} more in the config" if more > 0 else "")
    hint = f" (did you mean {plain(near[0], 40)}?)" if near else ""
    raise ValueError(f"unknown class {quote(label)}{hint}; allowed is {allowed}")


def class_name(config: Config, index: int) -> str:
    """Return the name of a class of the config, or its index where it has no name."""
    return config.classes[index] if index < len(config.classes) else str(index)


def count_classes(model: Any) -> int | None:
    """Return how many classes a network or a classifier knows, None where none."""
    return model.out_channels if hasattr(model, "pool") else getattr(model, "num_classes", None)


def _override(raw: dict, text: str, problems: list[str]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        problems.append(f"--set {quote(text)}: expected KEY=VALUE, as in diffusion.var_type=fixed_large")
        return
    *parents, last = key.split(".")
    target = raw
    for parent in parents:
        target = target.get(parent)
        if not isinstance(target, dict):
            problems.append(f"--set {quote(text)}: there is no section {quote(parent)}")
            return
    try:
        target[last] = yaml.load(value, Loader=_Loader)
    except Exception as error:  # as in _read
        problems.append(f"--set {quote(text)}: {quote(value)} is not a YAML value: {_explain(error)}")


def _take_model(raw: dict, families: Mapping[str, type], problems: list[str]) -> Any:
    section = raw.get("model")
    name = section.get("name") if isinstance(section, dict) else section
    if not isinstance(section, dict) or not isinstance(name, str) or name not in families:
        problems.append(f"model.name: found {quote(name)}, allowed are {', '.join(families)}")
        return None
    fields = {key: value for key, value in section.items() if key != "name"}
    return _build(families[name], fields, "model.", problems)


def _build(cls: type, values: Any, prefix: str, problems: list[str]) -> Any:
    """Build a dataclass from a mapping; append to `problems` instead of raising."""
    if not isinstance(values, dict):
        problems.append(f"{prefix.rstrip('.')}: expected 'key: value' lines, got {_kind(values)}")
        return None
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    before = len(problems)
    for key in values:
        if key not in fields:
            # no message shows so many, and to look for the nearest of 50,000 would take minutes
            few = len(problems) < MAX_PROBLEMS
            near = few and difflib.get_close_matches(plain(key, 80), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(fields)}"
            problems.append(f"{prefix}{plain(key, 80)}: unknown key, {hint}")
    arguments = {}
    for name, field in fields.items():
        if name in values:
            arguments[name] = _convert(hints[name], values[name], prefix + name, problems)
        elif field.default is dataclasses.MISSING:
            problems.append(f"{prefix}{name}: missing, expected {_describe(hints[name])}")
    if len(problems) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:  # a range check of the dataclass itself
        problems.append(f"{prefix.rstrip('.')}: {error}" if prefix else str(error))
        return None


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Return `value` as the type that `hint` asks for, or append to `problems`."""
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where + ".", problems)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    limit = ""
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return _convert_items(typing.get_args(option)[0], value, where, problems)
        is_number = option in (int, float) and type(value) in (int, option)  # True is an int to isinstance
        if is_number and not abs(value) <= _LIMITS[option]:
            limit = f" of at most {_LIMITS[option]:g} in size"
        elif is_number or type(value) is option:
            return option(value)
    problems.append(f"{where}: expected {_describe(hint)}{limit}, got {_kind(value)}")
    return None


def _convert_items(item: Any, values: list, where: str, problems: list[str]) -> tuple:
    return tuple(_convert(item, value, f"{where}[{i}]", problems) for i, value in enumerate(values))


def _describe(hint: Any) -> str:
    if isinstance(hint, types.UnionType):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    if typing.get_origin(hint) is tuple:
        return f"a list of {_describe(typing.get_args(hint)[0])}s"
    if dataclasses.is_dataclass(hint):
        return "a section"
    names = {int: "whole number", float: "number", str: "text", bool: "true or false", type(None): "null"}
    return names.get(hint, getattr(hint, "__name__", str(hint)))


def _kind(value: Any) -> str:
    return "nothing" if value is None else f"{quote(value)} ({type(value).__name__})"
