"""Pickles of objects as the programs of NVlabs/edm write them: whole, or hostile by a seeded generator."""

import collections
import pickle
import random
import struct
import sys
import types
import warnings
from unittest import mock

import torch
from torch import nn

from tests.faults import hostile_weights as hostile
from tests.faults.hostile_weights import named, text
from tests.faults.mutations import mutate

MARKER = "PICKLE_CODE_RAN"
SOURCE = f"open({MARKER!r}, 'w').close()\n" * 30  # longer than what is read
PROTOCOLS = (3, 4, 5)


def _reconstruct_persistent_obj(meta):
    raise AssertionError("the pickle was loaded")


class EasyDict(dict):
    pass


_reconstruct_persistent_obj.__module__ = "torch_utils.persistence"
EasyDict.__module__ = "dnnlib.util"
_HOMES = {
    name: types.ModuleType(name)
    for name in ("torch_utils", "torch_utils.persistence", "dnnlib", "dnnlib.util")
}
_HOMES["torch_utils.persistence"]._reconstruct_persistent_obj = _reconstruct_persistent_obj
_HOMES["dnnlib.util"].EasyDict = EasyDict


class Called:
    """What a pickle makes by calling something."""

    def __init__(self, function, *arguments, state=None):
        self.made = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.made


def persistent(class_name, state, /, **changed):
    """Return an object that carries its source text, parts of which may be changed."""
    meta = {"type": "class", "version": 6, "module_src": SOURCE, "class_name": class_name, "state": state}
    return Called(_reconstruct_persistent_obj, meta | changed)


def module(parameters=None, buffers=None, modules=None, unsaved=(), **attributes):
    hooks = {"_forward_hooks": collections.OrderedDict(), "_backward_hooks": collections.OrderedDict()}
    names = ("_parameters", "_buffers", "_modules")
    given = zip(names, (parameters, buffers, modules), strict=True)
    parts = {name: {} if part is None else part for name, part in given}
    made = {"_init_args": (), "_init_kwargs": attributes}
    state = {
        "training": False,
        **parts,
        "_non_persistent_buffers_set": set(unsaved),
        **hooks,
        **attributes,
        **made,
    }
    return persistent("Module", state)


def network(state):
    """Return a network of which torch would give this state dict."""
    own = {key: nn.Parameter(tensor, requires_grad=False) for key, tensor in state.items() if "." not in key}
    inner = collections.defaultdict(dict)
    for key, tensor in state.items():
        name, dot, rest = key.partition(".")
        if dot:
            inner[name][rest] = tensor
    return module(own, modules={name: network(part) for name, part in inner.items()}, sigma_data=0.5)


def pickled(content, protocol=4):
    with mock.patch.dict(sys.modules, _HOMES), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, that storages have types
        return pickle.dumps(content, protocol)


def opcodes(what, protocol=4):
    return b"\x80" + bytes([protocol]) + what + b"."


def inner(content):
    """Return what stands for a storage: a file of torch.save within the file."""
    return Called(
        torch.storage._load_from_bytes, hostile.saved(content, _use_new_zipfile_serialization=False)
    )


def storage(count=4, kind=torch.FloatStorage):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return inner(kind(count))


def tensor(*arguments):
    """Return a tensor of storage, offset, shape and strides."""
    return Called(torch._utils._rebuild_tensor_v2, *arguments, False, collections.OrderedDict())


def shared(depth, width=2):
    """Return a network that holds one part many times over, which holds another, and so on."""
    part = module({"w": torch.ones(1)})
    for _ in range(depth):
        part = module(modules={str(i): part for i in range(width)})
    return part


def recursive():
    """Return a network that holds itself."""
    part = nn.ModuleDict()
    part._modules["again"] = part
    return module(modules={"part": part})


def _bomb():
    """Return a list that grows without end where its parts are gone through one by one."""
    grown = []
    for _ in range(60):
        grown = [grown, grown]
    return grown


def _odd(rng):
    return rng.choice(
        (
            _bomb(),
            *hostile.NUMBERS,
            0,
            1,
            2,
            (),
            (1,),
            (2, 2),
            {},
            "",
            "a.b",
            "w",
            [1],
            {"a": {}},
            b"ab",
            torch.ones(2),
        )
    )


def _odd_object(rng):
    names = ("type", "version", "module_src", "class_name", "state")
    state = {"_init_kwargs": {"a": _odd(rng)}, "scale": _odd(rng)}
    return persistent("Net", state, **{rng.choice(names): _odd(rng)})


def _odd_module(rng):
    parts = [
        {rng.choice(("w", "", "a.b", "x" * 200)): _odd(rng) for _ in range(rng.randrange(3))}
        for _ in range(3)
    ]
    return module(*(part if rng.random() < 0.7 else _odd(rng) for part in parts), unsaved=("w",))


def _odd_tensor(rng):
    held = rng.choice((storage(), storage(), inner({"a": torch.ones(2)}), inner([1]), _odd(rng)))
    numbers = [rng.choice((0, 1, 2, 3, 5, -1, 2**31, 2**62, 10**400, True, 0.5)) for _ in range(4)]
    shape, strides = rng.choice(
        ((tuple(numbers[:2]), tuple(numbers[2:])), ((2, 2), (2, 1)), (_odd(rng), _odd(rng)))
    )
    return module({"w": tensor(held, rng.choice((0, 0, 1, *numbers)), shape, strides)})


def _odd_call(rng):
    function = rng.choice(
        (collections.OrderedDict, set, torch._utils._rebuild_parameter, torch.storage._load_from_bytes)
    )
    return module({"w": Called(function, *(_odd(rng) for _ in range(rng.randrange(4))))})


def _several(rng):
    return {
        str(i): shared(rng.choice((1, 3, 12, 40)), rng.choice((1, 2, 50))) for i in range(rng.choice((1, 30)))
    }


def _of_opcodes(rng):
    made = rng.choice(
        (hostile.deep, hostile.grown, hostile.keyed, hostile.called, hostile.jumbled, _copied, _claimed)
    )
    return made(rng)


def _copied(rng):
    """A long list that is made a set, an array or a type again and again."""
    call = rng.choice((b"h\0\x85R", b"h\0h\0h\0\x87R", b"h\0R"))
    name = rng.choice(
        ("builtins set", "numpy dtype", "numpy.core.multiarray _reconstruct", "collections OrderedDict")
    )
    return b"](" + b"N" * 9_000 + b"eq\0](" + (named(name) + call) * 3_000 + b"e"


def _claimed(rng):
    """Something that says that it is longer than the file."""
    count = rng.choice((2**20, 2**31, 2**32 - 1))
    form = rng.choice((b"X", b"B", b"r", b"j", b"\x8e", b"\x8d", b"\x96", b"\x95", b"\x8b"))
    return (
        b"}"
        + form
        + struct.pack("<I" if form in (b"X", b"B", b"r", b"j", b"\x8b") else "<Q", count)
        + bytes(64)
    )


def hostile_objects(rng: random.Random, whole: bytes) -> bytes:
    """Return a pickle of objects that is damaged or made up.

    Args:
        rng: Draws it.
        whole: A sound one, for damages.
    """
    if rng.random() < 0.4:
        return whole[:2] + mutate(rng, whole[2:])
    if rng.random() < 0.4:
        what = _of_opcodes(rng)
        what = b"}" + text("ema") + what + b"s" if rng.random() < 0.5 else what
        return opcodes(mutate(rng, what or b"N") if rng.random() < 0.2 else what, rng.choice(PROTOCOLS))
    made = rng.choice((_odd_object, _odd_module, _odd_tensor, _odd_call, lambda rng: recursive(), _several))(
        rng
    )
    return pickled(made if isinstance(made, dict) else {"ema": made}, rng.choice(PROTOCOLS))
