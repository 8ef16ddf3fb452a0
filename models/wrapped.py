"""Networks of other libraries, called as ours are: under their own keys, in any mix of dtypes."""

import json
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd


@dataclass(frozen=True, kw_only=True)
class Fields:
    """What another library is told of a network, as its config.json has it."""

    fields: tuple[str, ...]
    """Each 'name: value', the value in JSON."""

    def __post_init__(self):
        self.facts()

    def facts(self) -> dict[str, Any]:
        """Return them by name.

        Raises:
            ValueError: A field is none.
        """
        facts = {}
        for field in self.fields:
            name, _, value = field.partition(": ")
            try:
                facts[name] = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(
                    f"fields: {field[:80]!r}: expected 'name: value', the value in JSON"
                ) from None
        return facts


class Wrapped(nn.Module):
    """A module of another library under the keys of its own children.

    Weights may have other dtypes than what flows between them, as `cast_network` makes it: each layer gets
    its input in the dtype of its weight.
    """

    def __init__(self, theirs: nn.Module):
        super().__init__()
        for name, module in theirs.named_children():
            self.add_module(name, module)
        self._theirs = [theirs]  # in a list, for its keys to be those of its children alone
        for module in self.modules():
            if isinstance(module, _ConvNd | nn.Linear | nn.GroupNorm | nn.LayerNorm):
                module.register_forward_pre_hook(_cast_input)

    @property
    def theirs(self) -> Any:
        """The module itself."""
        return self._theirs[0]


def _cast_input(layer: nn.Module, inputs: tuple) -> tuple:
    x, *rest = inputs
    return (x if layer.weight is None else x.to(layer.weight.dtype), *rest)


def make(name: str, facts: dict[str, Any]) -> nn.Module:
    """Build a module of diffusers, which takes its input's dtype for float32 whatever its layers are in.

    Args:
        name: Of its class.
        facts: What it is told.

    Raises:
        ValueError: diffusers is not installed, or makes no such module of these.
    """
    with torch.device("cpu"):  # what it makes at its import is no network's
        try:
            import diffusers
        except ImportError:
            raise ValueError(
                "this network needs diffusers, which is not installed: pip install diffusers"
            ) from None
        kind = getattr(diffusers, name)
    own = type(f"Float32{name}", (kind,), {"dtype": torch.float32})  # it casts embeddings of the time to it
    try:
        made = own(**facts)
    except Exception as error:  # of whatever kind the field makes them
        raise ValueError(f"diffusers makes no {name} of these fields: {str(error)[:200]}") from None
    if any(True for _ in made.buffers()):
        raise ValueError(
            "fields: blocks of K-diffusion, which hold filters that no file has, are not supported"
        )
    return made
