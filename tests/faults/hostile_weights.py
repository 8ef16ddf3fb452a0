"""Hostile files of weights, latents and folders, each drawn from a seeded generator."""

import io
import json
import random
import struct
import zipfile

import numpy as np
import torch

from tests.faults.mutations import INTERESTING, mutate

NUMBERS = (
    *INTERESTING,
    -1,
    2**40,
    2**63,
    2**64,
    10**400,
    0.5,
    1e308,
    float("nan"),
    float("inf"),
    True,
    None,
    "x",
    [],
)
GLOBALS = (
    *("builtins bytearray", "builtins set", "builtins frozenset", "builtins complex", "builtins list"),
    *("builtins eval", "os system", "posix mkdir", "collections Counter", "collections deque"),
    *("collections OrderedDict", "collections defaultdict", "_codecs encode", "torch Size", "torch device"),
    *("torch FloatStorage", "torch.storage UntypedStorage", "torch.nn.parameter Parameter", "torch Tensor"),
    *(
        "torch._utils _rebuild_tensor_v2",
        "torch._utils _rebuild_tensor_v3",
        "torch._utils _rebuild_parameter",
    ),
    *("torch._utils _rebuild_parameter_with_state", "torch.serialization _get_layout", "torch float32"),
    *("torch.storage _load_from_bytes", "torch._tensor _rebuild_from_type_v2", "__builtin__ xrange"),
)


def saved(content, **options) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(entries, compression=zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in entries:
            archive.writestr(name, data)
    return buffer.getvalue()


def arrays(*values) -> bytes:
    """Return arrays one after another, as equinox saves them."""
    buffer = io.BytesIO()
    for value in values:
        np.save(buffer, value)
    return buffer.getvalue()


def archive(opcodes: bytes) -> bytes:
    """Return a file of torch.save with these opcodes as its index."""
    index = b"\x80\x02" + opcodes + b"."
    return zipped(
        [("x/data.pkl", index), ("x/byteorder", b"little"), ("x/version", b"3\n"), ("x/data/0", bytes(64))]
    )


def old(opcodes: bytes) -> bytes:
    """Return a file in the format before 2020 with these opcodes as its content."""
    whole = saved(1, _use_new_zipfile_serialization=False)
    head = whole[: whole.index(b"\x80\x02K\x01.")]
    return head + b"\x80\x02" + opcodes + b"." + b"\x80\x02]q\x00." + bytes(64)


def named(text: str) -> bytes:
    module, name = text.split(" ")
    return f"c{module}\n{name}\n".encode()


def long(number: int) -> bytes:
    data = number.to_bytes(number.bit_length() // 8 + 1, "little", signed=True)[:255]
    return b"\x8a" + bytes([len(data)]) + data


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def storage(rng: random.Random) -> bytes:
    count = rng.choice((0, 1, 16, 17, 2**20, 2**31, 2**40, 2**62, 2**70))
    kind = rng.choice(("torch FloatStorage", "torch.storage UntypedStorage", "torch ByteStorage"))
    return b"(" + text("storage") + named(kind) + text("0") + text("cpu") + long(count) + b"tQ"


def tensor(rng: random.Random) -> bytes:
    sizes = [rng.choice((0, 1, 2, 4, 16, 2**20, 2**40, 2**62)) for _ in range(rng.choice((0, 1, 2, 4, 70)))]
    strides = [rng.choice((0, 1, 2, 4, 2**40, -1)) for _ in sizes]
    numbers = [b"(" + b"".join(map(long, part)) + b"t" for part in (sizes, strides)]
    offset = long(rng.choice((0, 1, 15, -1, 2**40)))
    hooks = named("collections OrderedDict") + b")R"
    return (
        named("torch._utils _rebuild_tensor_v2")
        + b"("
        + storage(rng)
        + offset
        + b"".join(numbers)
        + b"\x89"
        + hooks
        + b"tR"
    )


def deep(rng: random.Random) -> bytes:
    opening, closing = rng.choice(((b"]", b"a"), (b"}K\x01", b"s"), (b"", b"\x85")))
    count = rng.choice((50, 99, 101, 10_000, 200_000))
    return opening * count + (b"N" if not opening else b"") + closing * (count - 1 if opening else count)


def grown(rng: random.Random) -> bytes:
    """A container that is doubled again and again through the memo, or copied."""
    times = rng.choice((10, 25, 1000, 50_000))
    item = rng.choice(
        (b"h\x00h\x00\x86q\x00", b"h\x00h\x00h\x00\x87q\x00", b"](h\x00h\x00eq\x00", b"h\x00\x85q\x00")
    )
    if rng.random() < 0.5:
        return b"]q\x00" + item * min(times, 1000)
    wide = b"](" + b"N" * 9_000 + b"eq\x00"
    call = rng.choice((named("torch Size"), named("collections OrderedDict"), named("builtins bytearray")))
    return wide + b"](" + (call + b"h\x00\x85R") * min(times, 3000) + b"e"


def keyed(rng: random.Random) -> bytes:
    """A dict whose keys take for ever to hash or to compare."""
    key = b")q\x00" + b"h\x00h\x00\x86q\x00" * rng.choice((3, 40)) + b"0"
    numbers = b"".join(long(i * (2**61 - 1)) + b"N" for i in range(rng.choice((10, 4000))))
    return rng.choice((key + b"}h\x00Ns", b"}(" + numbers + b"u", b"}" + storage(rng) + b"Ns"))


def called(rng: random.Random) -> bytes:
    arguments = b"".join(
        rng.choice((b"N", long(2**33), b"]", text("a"), b")", b"}", b"\x88")) for _ in range(rng.randrange(4))
    )
    what = rng.choice((b"R", b"\x81", b"b", b"Rb"))
    return named(rng.choice(GLOBALS)) + b"(" + arguments + b"t" + what


def jumbled(rng: random.Random) -> bytes:
    return bytes(
        rng.choice(b"(t)\x85\x86\x87]}aesuN\x88\x89K\x05h\x00q\x00Rb\x81Q0\x8f\x93\x8c")
        for _ in range(rng.randrange(400))
    )


PICKLES = (deep, grown, keyed, called, called, jumbled, tensor, tensor)


def hostile_pickle(rng: random.Random) -> bytes:
    opcodes = rng.choice(PICKLES)(rng)
    if rng.random() < 0.5:
        opcodes = b"}" + text("a") + opcodes + b"s"
    if rng.random() < 0.2:
        opcodes = mutate(rng, opcodes or b"N")
    return rng.choice((archive, old))(opcodes)


def header(facts, data=b"") -> bytes:
    words = facts if isinstance(facts, bytes) else json.dumps(facts).encode()
    return len(words).to_bytes(8, "little") + words + data


def hostile_header(rng: random.Random) -> bytes:
    """A safetensors file whose header does not tell the truth."""
    facts = {"a": {"dtype": "F32", "shape": [4, 3], "data_offsets": [0, 48]}}
    at = rng.choice(("dtype", "shape", "data_offsets", "shape"))
    odd = [rng.choice((0, 0, 1, *NUMBERS)) for _ in range(rng.choice((0, 1, 2, 3, 100)))]
    facts["a"][at] = rng.choice((odd, odd, rng.choice(NUMBERS), "F8_E4M3", {"a": 1}))
    if rng.random() < 0.2:
        facts[rng.choice(("__metadata__", "b"))] = rng.choice((facts["a"], 5, {"x": 1}, None, []))
    data = header(facts, bytes(rng.choice((0, 47, 48, 48, 48, 49))))
    return mutate(rng, data) if rng.random() < 0.2 else data


WRAPPERS = (
    "model",
    "state_dict",
    "net",
    "ema",
    "ema_model",
    "model_ema",
    "shadow",
    "0",
    "module",
    "params",
    "a.b",
)
PREFIXES = (
    "",
    "",
    "module.",
    "_orig_mod.",
    "model.",
    "diffusion_model.",
    "ema.",
    "net_g.module.",
    "ema_model.model.",
)
BUFFERS = {
    "betas": torch.linspace(1e-4, 0.02, 1000),
    "alphas_cumprod": torch.linspace(1, 0, 1000),
    "n_averaged": torch.tensor(3),
    "num_batches_tracked": torch.tensor(3),
    "decay": torch.tensor(0.9),
}


def wrapped(rng: random.Random, networks: list[dict[str, torch.Tensor]]) -> dict | list:
    """Lay networks, buffers, an optimizer and odd things under wrappers and prefixes."""
    content: dict = {"epoch": 3}
    for network in networks:
        prefix = rng.choice(PREFIXES)
        laid = {prefix + key: value for key, value in network.items()}
        if rng.random() < 0.3:
            laid |= {rng.choice(("", prefix)) + name: BUFFERS[name] for name in rng.sample([*BUFFERS], 2)}
        if rng.random() < 0.15:
            del laid[rng.choice([*laid])]
        if rng.random() < 0.1:
            laid["extra.weight"] = torch.ones(2, 2)
        place = content
        for name in rng.choices(WRAPPERS, k=rng.randrange(4)):
            place = place.setdefault(name, {}) if isinstance(place.get(name, {}), dict) else place
        form = rng.random()
        if form < 0.15:
            place[rng.choice(WRAPPERS)] = list(laid.values())
        else:
            place.update(laid)
    if rng.random() < 0.3:
        content["optimizer"] = {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": []}
    return [content, {"state": {}}, 3, 700, *networks[:1]] if rng.random() < 0.1 else content
