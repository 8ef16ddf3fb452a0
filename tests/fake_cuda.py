"""A GPU that is not there: tensors without values, and a log of what a real one would be waited for.

torch's fake tensors refuse devices that are mixed, and values where they are needed. What they let pass and
a GPU does not, or not for nothing, is noticed here: copies between devices, layers in mixed precision.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

CUDA = torch.device("cuda", 0)
MODE = FakeTensorMode()
READ, UPLOAD, DOWNLOAD = "read", "cpu to cuda", "cuda to cpu"
_aten = torch.ops.aten
_ONE_DTYPE = {
    *(_aten.convolution, _aten.conv1d, _aten.conv2d, _aten.linear, _aten.addmm, _aten.mm, _aten.bmm),
    *(_aten.matmul, _aten.group_norm, _aten.native_group_norm),
}
"""Whose kernels on a GPU take tensors of one type; fake tensors do not see to it."""
_ANSWERS = {Tensor.item: 0.0, Tensor.__bool__: True, Tensor.__float__: 0.0, Tensor.__int__: 0}
_READS = {*_ANSWERS, Tensor.tolist, Tensor.__index__, Tensor.equal, torch.equal, torch.allclose}


class Log:
    """What happened, by the number of steps that had begun."""

    def __init__(self):
        self.step, self.events = 0, Counter[tuple[int, str]]()

    def tick(self) -> None:
        self.step += 1

    def note(self, event: str) -> None:
        self.events[self.step, event] += 1

    @property
    def reads(self) -> dict[int, int]:
        """How many values were looked at, by step."""
        return {step: count for (step, event), count in self.events.items() if event == READ}


class Reads(TorchFunctionMode):
    """Notes each look at a value; of a fake tensor the answer is made up: yes, or zero."""

    def __init__(self, log: Log):
        super().__init__()
        self.log = log

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function in _READS:
            self.log.note(READ)
            if isinstance(args[0], FakeTensor):
                return [0.0] * len(args[0]) if function is Tensor.tolist else _ANSWERS[function]
        return function(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Notes each copy between devices that is waited for, and refuses layers in mixed precision."""

    def __init__(self, log: Log):
        super().__init__()
        self.log = log

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if operator is not _aten.lift_fresh.default:  # what comes from outside, as noise and tables do
            args = [_fake(x) for x in args]
        given = _tensors([*args, *kwargs.values()])
        if operator.overloadpacket in _ONE_DTYPE:
            dtypes = {x.dtype for x in given if x.is_floating_point()}
            assert len(dtypes) == 1, f"{operator} of {dtypes}"
        out = operator(*args, **kwargs)
        made = {x.device.type for x in _tensors([out])}
        if made and not kwargs.get("non_blocking"):
            for device in {x.device.type for x in given} - made:
                self.log.note(f"{device} to {min(made)}")
        return out


@contextmanager
def fake_cuda(log: Log) -> Iterator[None]:
    """Make what is created here fake, in inference mode as a run does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nn.Module, "_apply", _apply)
        patch.setattr(Tensor, "pin_memory", lambda self: self)
        patch.setattr(FakeTensor, "tolist", Tensor.tolist)  # its own reads one number after another
        patch.setattr(torch.autograd, "grad", _grad)
        with torch.inference_mode(), MODE, Copies(log), Reads(log):
            yield


def empty_weights(path: object, expected: dict[str, torch.Size], *rest: object) -> dict[str, Tensor]:
    """Stand for `load_weights`: what a file would hold, without values."""
    return {key: torch.empty(shape) for key, shape in expected.items()}


def with_values(function: Callable) -> Callable:
    """Let a function work on real tensors, as tables of numbers are made."""

    def real(*args):
        with _disable_current_modes():
            return function(*args)

    return real


def _tensors(values: list[Any]) -> list[Tensor]:
    lists = (value if isinstance(value, list | tuple) else (value,) for value in values)
    return [x for x in chain.from_iterable(lists) if isinstance(x, Tensor)]


def _fake(x: Any) -> Any:
    if isinstance(x, list | tuple):
        return [_fake(part) for part in x]
    return MODE.from_tensor(x) if isinstance(x, Tensor) and not isinstance(x, FakeTensor) else x


def _grad(y: Tensor, x: Tensor) -> tuple[Tensor]:
    """Stand for the way back, for which torch asks the driver; the way there is gone and kept as always."""
    assert y.requires_grad
    assert x.requires_grad
    return (torch.empty_like(x),)


def _apply(self: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """Stand for what torch moves and casts modules by, which fails on fake parameters."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                with torch.no_grad():
                    changed = change(parameter)
                module._parameters[name] = nn.Parameter(changed, parameter.requires_grad)
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else change(buffer)
    return self
