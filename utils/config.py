"""YAML files to frozen dataclasses, strictly: every mistake is reported at once, with its place."""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The process that a network was trained on."""

    process: str = "vp"
    """vp or ve: whether noise keeps the variance of the images or explodes it."""
    num_timesteps: int
    schedule: str | None = None
    """linear, quad, const or cosine: what the network was trained with, unless it predicts a score."""
    beta_start: float | None = None
    beta_end: float | None = None
    """First and last beta; every schedule but cosine needs both."""
    sigma_min: float | None = None
    sigma_max: float | None = None
    """Least and most noise of a ve process, for images in [0, 1] as they are published."""
    prediction: str = "eps"
    """What the network's output means: eps, x0 or v, or for a ve network score."""
    var_type: str = "fixed_small"
    """Variance of a DDPM step: fixed_small, fixed_large or learned_range."""

    def __post_init__(self):
        if self.process not in ("vp", "ve"):
            raise ValueError(f"process: found {self.process!r}, allowed are vp and ve")
        if (self.prediction == "score") != (self.schedule is None):
            raise ValueError(
                f"prediction {self.prediction} with schedule {self.schedule}: a network of scores has no "
                "schedule, every other has one of linear, quad, const, cosine"
            )
        if self.prediction == "score" and self.process != "ve":
            raise ValueError("prediction score: only for process ve")
        given = (self.sigma_min is not None, self.sigma_max is not None)
        if given != (self.process == "ve",) * 2:
            raise ValueError("sigma_min and sigma_max: a ve process needs both, a vp process neither")


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


class _Loader(yaml.SafeLoader):
    """SafeLoader that refuses duplicate keys and reads 1e-4 as the number that it is."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if key in seen:
                raise yaml.MarkedYAMLError(problem=f"duplicate key {key!r}", problem_mark=key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


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
    try:
        raw = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable YAML file: {error}") from None
    if not isinstance(raw, dict):
        raise ValueError(f"{path}: expected 'key: value' lines with model and diffusion, got {_kind(raw)}")
    problems: list[str] = []
    for override in overrides or []:
        _override(raw, override, problems)
    model = _take_model(raw, families, problems)
    rest = _build(Config, {**raw, "model": model}, "", problems)
    if problems:
        raise ValueError("\n".join([f"{path}: {len(problems)} problem(s)", *(f"  {p}" for p in problems)]))
    return rest


def class_index(config: Config, label: str) -> int:
    """Find a class of the config, of a network or a classifier, by its name or its index.

    Raises:
        ValueError: The network has no classes, or not this one.
    """
    num_classes = getattr(config.model, "num_classes", None)
    if hasattr(config.model, "pool"):  # a classifier
        num_classes = config.model.out_channels
    if num_classes is None:
        raise ValueError(
            f"class {label!r}: this config's network has no classes; use a class-conditional one"
        )
    if label in config.classes:
        return config.classes.index(label)
    if label.isascii() and label.isdecimal() and int(label) < num_classes:
        return int(label)
    near = difflib.get_close_matches(label, config.classes, n=1)
    allowed = f"an index from 0 to {num_classes - 1}"
    if config.classes:
        allowed += f" or one of {', '.join(config.classes)}"
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise ValueError(f"unknown class {label!r}{hint}; allowed is {allowed}")


def _override(raw: dict, text: str, problems: list[str]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key:
        problems.append(f"--set {text}: expected KEY=VALUE, as in diffusion.var_type=fixed_large")
        return
    *parents, last = key.split(".")
    target = raw
    for parent in parents:
        target = target.get(parent)
        if not isinstance(target, dict):
            problems.append(f"--set {text}: there is no section {parent!r}")
            return
    try:
        target[last] = yaml.load(value, Loader=_Loader)
    except yaml.YAMLError:
        problems.append(f"--set {text}: {value!r} is not a YAML value")


def _take_model(raw: dict, families: Mapping[str, type], problems: list[str]) -> Any:
    section = raw.get("model")
    if not isinstance(section, dict) or section.get("name") not in families:
        name = section.get("name") if isinstance(section, dict) else section
        problems.append(f"model.name: found {name!r}, allowed are {', '.join(families)}")
        return None
    fields = {key: value for key, value in section.items() if key != "name"}
    return _build(families[section["name"]], fields, "model.", problems)


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
            near = difflib.get_close_matches(str(key), fields, n=1)
            hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(fields)}"
            problems.append(f"{prefix}{key}: unknown key, {hint}")
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
        problems.append(f"{prefix.rstrip('.')}: {error}")
        return None


def _convert(hint: Any, value: Any, where: str, problems: list[str]) -> Any:
    """Return `value` as the type that `hint` asks for, or append to `problems`."""
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint):
        return _build(hint, value, where + ".", problems)
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    for option in options:
        if option is type(None) and value is None:
            return None
        if typing.get_origin(option) is tuple and isinstance(value, list):
            return _convert_items(typing.get_args(option)[0], value, where, problems)
        if option is float and type(value) is int:  # `type`, because True is an int as well
            return float(value)
        if type(value) is option:
            return value
    problems.append(f"{where}: expected {_describe(hint)}, got {_kind(value)}")
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
    return "nothing" if value is None else f"{value!r} ({type(value).__name__})"
