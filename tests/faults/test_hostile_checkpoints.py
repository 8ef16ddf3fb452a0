"""Malformed and hostile weight files: each refused with its own message; damaged ones load or are refused.

The full run: `pytest tests/faults/test_hostile_checkpoints.py --hostile_checkpoints 200`; another draw of
damages with HOSTILE_SEED=1 in the environment.
"""

import argparse
import collections
import contextlib
import gzip
import io
import json
import os
import pathlib
import pickle
import random
import resource
import tarfile
import time
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import nn

from models import CONFIG_CLASSES, build_empty, build_model
from models.ddpm_unet import DDPMUNetConfig
from tests.faults import edm_pickles as edm
from tests.faults import hostile_weights as hostile
from tests.faults.hostile_weights import archive, arrays, header, long, named, old, saved, text, zipped
from tests.faults.mutations import mutate
from utils.images.inputs import read_pair
from utils.images.latents import Latents
from utils.sources import weight_formats
from utils.weights import describe_pickle, tensor_file
from utils.weights.checkpoint import load_weights, open_checkpoint
from utils.weights.recognize import Shelf, read_config

SEED = int(os.environ.get("HOSTILE_SEED", "0"))
SECONDS, MAX_MESSAGE = 10, 4000
CONFIG = DDPMUNetConfig(
    image_size=8,
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(4,),
)
WEIGHT = torch.ones(4, 3)


def entries_of(data):
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return [(entry.filename, archive.read(entry)) for entry in archive.infolist()]


def edited(data, name, edit):
    """Return a checkpoint with one entry of its archive changed."""
    return zipped([(n, edit(d) if n.endswith(name) else d) for n, d in entries_of(data)])


def doubled(data):
    """Return a checkpoint whose archive holds an entry twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return zipped([*entries_of(data), entries_of(data)[1]])


def tarred(data):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("w.pt")
        info.size = len(data)
        archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def described(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"a": {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}}


class Payload:
    def __reduce__(self):
        return os.mkdir, ("/tmp/hostile-was-run",)


CONFIG_JSON = """{"sample_size": 16, "block_out_channels": [32, 64], "layers_per_block": 1, "norm_eps": 1e-6,
"down_block_types": ["AttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "AttnUpBlock2D"],
"attention_head_dim": null, "downsample_padding": 0, "flip_sin_to_cos": false, "freq_shift": 1,
"in_channels": 3, "out_channels": 3, "dropout": 0.0, "norm_num_groups": 32, "mid_block_scale_factor": 1}"""
LATENTS = Latents(pathlib.Path("/"), {}, (3, 4, 4))
FLAT = saved({"a": WEIGHT})
GROWN = (
    b"}("
    + b"".join(long(i) + b"N" for i in range(9_000))
    + b"uq\x00]("
    + (named("collections OrderedDict") + b")Rh\x00b") * 800
    + b"e"
)
STATE = {"a": WEIGHT}
KINDS = {
    "empty": (b"", "the file is empty"),
    "web page": (b"\n<html>403", "a web page instead of weights"),
    "lfs pointer": (b"version https://git-lfs.github.com/spec/v1", "is a Git LFS pointer"),
    "json": (b'{"_class_name": "UNet2DModel"}', "a JSON text instead of weights"),
    "hdf5": (b"\x89HDF\r\n\x1a\n", "an HDF5 file of Keras"),
    "gguf": (b"GGUF\x03", "a GGUF file of quantized weights"),
    "numpy": (arrays(np.ones(3)), "a NumPy array"),
    "numpy, cut off": (arrays(np.ones(3), np.ones(3))[:-1], "broken or truncated file of NumPy arrays"),
    "numpy, more": (arrays(np.ones(3), np.ones(3)) + b"\0", "broken or truncated file of NumPy arrays"),
    "numpy objects": (arrays(np.array([None])), "array 0 is Python objects, which could run code"),
    "numpy integers": (arrays(np.ones(3), np.ones(3, np.int64)), "array 1 is of type <i8"),
    "numpy, big-endian": (arrays(np.ones(3, ">f4")), "array 0 is of type >f4; weights are little-endian"),
    "numpy records": (arrays(np.ones(3, [("a", "f4")])), "array 0 is described wrongly"),
    "numpy, many": (arrays(np.ones(0)) * 4001, "holds more than 4000 NumPy arrays"),
    "numpy, of tomorrow": (b"\x93NUMPY\x03\0" + bytes(99), r"array 0 is of version \[3, 0\]"),
    "numpy, huge": (
        arrays(np.ones(3)).replace(b"(3,), }" + b" " * 26, b"(9999999999999, 9999999999999), }"),
        "array 0 is described wrongly",
    ),
    "numpy of another network": (arrays(np.ones(3), np.ones((2, 2))), "2 NumPy arrays without names"),
    "numpy archive": (zipped([("a.npy", b"1")]), "an archive of NumPy arrays"),
    "gzip": (gzip.compress(FLAT), "a gzip archive"),
    "tar": (tarred(FLAT), "a tar archive"),
    "zip": (zipped([("w.pt", FLAT)]), "a zip archive, but not of torch.save"),
    "zipped twice": (zipped(entries_of(FLAT), zipfile.ZIP_DEFLATED), "was zipped a second time"),
    "bomb": (
        edited(zipped([("x/data.pkl", bytes(70 * 2**20))]), "-", bytes),
        "describes its tensors in 73400320 bytes",
    ),
    "entry twice": (doubled(FLAT), "two entries of one name"),
    "torchscript": (zipped([*entries_of(FLAT), ("x/code/net.py", b"")]), "a TorchScript program"),
    "big-endian": (edited(FLAT, "byteorder", lambda _: b"big"), "written on a big-endian machine"),
    "picture": (b"\x89PNG\r\n", "a picture"),
    "garbage": (b"\x80\x02}q\x00", "not a checkpoint of torch.save, or a truncated one"),
    "cut pickle": (FLAT[: len(FLAT) // 2], "not a checkpoint of torch.save, or a truncated one"),
    "code": (pickle.dumps(Payload(), protocol=2), "holds posix.mkdir, which could run code"),
    "code inside": (saved({"model": Payload()}), "holds posix.mkdir, which could run code"),
    "whole module": (saved(nn.Linear(2, 2)), "holds torch.nn.modules.linear.Linear, which could run code"),
    "namespace": (saved({**STATE, "args": argparse.Namespace(a=1)}), "holds argparse.Namespace"),
    "path": (saved({**STATE, "dir": pathlib.PurePosixPath("x")}), "holds pathlib.PurePosixPath"),
    "defaultdict": (saved({**STATE, "log": collections.defaultdict(list)}), "holds collections.defaultdict"),
    "numpy scalar": (saved({**STATE, "loss": np.float64(1)}), "multiarray.scalar"),
    "sparse": (saved({"a": WEIGHT.to_sparse()}), "holds sparse tensors"),
    "quantized": (saved({"a": WEIGHT.to(torch.int8)}), "a is of type int8"),
    "complex": (saved({"a": WEIGHT.cfloat()}), "a is of type complex64"),
    "meta": (saved({"a": WEIGHT.to("meta")}), "of the meta device, which have no values"),
    "negated": (saved({"a": torch.complex(WEIGHT, WEIGHT).conj().imag}), "stored as its negative"),
    "stretched": (
        saved({"a": torch.ones(1).expand(10**6, 10**6)}),
        "a claims 1000000000000 numbers and stores 1, repeated by a stride of 0",
    ),
    "stretched, old format": (
        saved({"a": torch.ones(1).expand(10**6, 10**6)}, _use_new_zipfile_serialization=False),
        "claims 1000000000000 numbers and stores 1",
    ),
    "tensor cut off": (edited(FLAT, "data/0", lambda d: b""), "a is not all there, the file is broken"),
    "unknown type": (saved({"a": WEIGHT.to(torch.float8_e4m3fn)}), "a is of type float8_e4m3fn"),
    "newer pickle": (saved(STATE, pickle_protocol=4), "pickled otherwise than torch.save does by default"),
    "no tensors": (
        saved({"epoch": 3, "name": "x" * 9999}),
        r"no state dict; found a dict with epoch \(int\)",
    ),
    **{
        f"{name}, {form.__name__}": (
            form(named(name) + rest),
            f"holds {name.replace(' ', '.')}, which {what}",
        )
        for form in (archive, old)
        for name, rest, what in (
            ("builtins bytearray", long(2**33) + b"\x85R", "is neither a tensor nor a plain container"),
            ("builtins set", long(2**33) + b"\x85R", "is neither"),
            ("collections Counter", b"]\x85R", "is neither"),
            ("collections deque", b"]\x85R", "is neither"),
            ("os system", text("true") + b"\x85R", "could run code"),
        )
    },
    "nested": (archive(b"]" * 999 + b"a" * 998), "nests more than 100 containers"),
    "copied": (archive(GROWN), "its containers grow out of all proportion"),
    "long": (archive(b"N0" * 10**6 + b"N"), "pickled otherwise"),
    "many": (old(b"]" + b"Na" * 600_000), "describes more than any checkpoint does"),
    "open": (archive(b"]" * 10**5), "describes more than any checkpoint does"),
    "slow keys": (archive(b")q\x00" + b"h\x00h\x00\x86q\x00" * 60 + b"}h\x00Ns"), "keys are no plain texts"),
    "claims": (
        old(
            b"}"
            + text("a")
            + b"("
            + text("storage")
            + named("torch FloatStorage")
            + text("0")
            + text("cpu")
            + long(2**40)
            + b"tQs"
        ),
        "not a checkpoint of torch.save, or a truncated one",
    ),
    "0 beside 2^40": (
        header(described(shape=(0, 2**40, 2**40), offsets=(0, 0))),
        "broken or truncated safetensors",
    ),
    "0 beside 2^63": (header(described(shape=(0, 2**63), offsets=(0, 0))), "broken or truncated safetensors"),
    **{
        f"objects: {name}": (edm.pickled(content), message)
        for name, content, message in (
            ("plain", {"a": 1}, "a pickle without a network of NVlabs/edm or edm2"),
            ("arrays", {"a": np.ones(3)}, "a pickle without a network of NVlabs/edm or edm2"),
            ("list", [edm.network(STATE)], "a pickle without a network"),
            ("code", Payload(), "holds posix.mkdir, which could run code"),
            ("code inside", {"ema": edm.network(STATE), "x": Payload()}, "holds posix.mkdir"),
            (
                "code in a tensor",
                {"ema": edm.module({"w": edm.tensor(edm.inner(Payload()), 0, (1,), (1,))})},
                "holds posix.mkdir, which could run code",
            ),
            ("whole module", {"ema": nn.Linear(2, 2)}, "holds torch.nn.modules.linear.Linear"),
            ("version", {"ema": edm.persistent("N", {}, version=5)}, "of version 5 of torch_utils"),
            ("function", {"ema": edm.persistent("N", {}, type="func")}, "damaged or truncated pickle"),
            ("keys", {"ema": edm.network(STATE), 3: 4}, "keys are no plain texts"),
            ("numpy objects", {"a": np.array([None])}, "numpy's type O8, which are no plain numbers"),
            ("no part", {"ema": edm.module(modules={"a": 3})}, "is no module with tensors"),
            ("no tensor", {"ema": edm.module({"a": 3})}, "is no module with tensors"),
            ("two of a name", {"ema": edm.module(STATE, STATE)}, "is no module with tensors"),
            ("dots", {"ema": edm.module({"a.b": WEIGHT})}, "a network in it is called 'a.b'"),
            ("long names", {"ema": edm.module({"a" * 121: WEIGHT})}, "have more parts, or longer names"),
            ("itself", {"ema": edm.recursive()}, "have more parts"),
            ("shared", {"ema": edm.shared(15)}, "have more parts"),
            ("no storage", {"ema": edm.module({"w": edm.tensor(edm.inner(3), 0, (1,), (1,))})}, "damaged"),
            ("dict", {"ema": edm.module({"w": edm.tensor(edm.inner(STATE), 0, (), ())})}, "damaged"),
            *(
                (
                    f"bounds {view}",
                    {"ema": edm.module({"w": edm.tensor(edm.storage(), *view)})},
                    "not all there",
                )
                for view in (
                    (0, (5,), (1,)),
                    (0, (1,), (2**70,)),
                    (1, (4,), (1,)),
                    (0, (2, 2), (3, 1)),
                    (-1, (2,), (1,)),
                )
            ),
            ("backwards", {"ema": edm.module({"w": edm.tensor(edm.storage(), 3, (4,), (-1,))})}, "not all"),
            ("huge", {"ema": edm.module({"w": edm.tensor(edm.storage(), 0, (2**60,), (0,))})}, "not all"),
        )
    },
    "objects: cut off": (edm.pickled({"ema": edm.network(STATE)})[:-9], "a damaged or truncated pickle"),
    "objects: more": (edm.pickled({"ema": edm.network(STATE)}) + b"\0", "1 bytes follow the end"),
    "objects: texts": (
        edm.opcodes(b"]" + (b"X\xe8\3\0\0" + b"x" * 1000 + b"a") * 17_000),
        "holds more text than any checkpoint does",
    ),
    "objects: elsewhere": (
        edm.opcodes(b"X" + b"\x04\0\0\0here" + b"Q"),
        "a pickle with what those of NVlabs/edm and edm2 do not hold",
    ),
    "objects: by attribute": (
        edm.opcodes(text("torch._utils") + text("_rebuild_parameter.__globals__") + b"\x93"),
        "holds torch._utils._rebuild_parameter.__globals__, which could run code",
    ),
    "objects: torch.save": (
        saved(STATE, _use_new_zipfile_serialization=False, pickle_protocol=4),
        "a pickle without a network of NVlabs/edm",
    ),
    "optimizer": (saved({"state": {0: {"step": WEIGHT}}, "param_groups": []}), "an optimizer's state, not a"),
    "too short": (header(described(), b"\0\0"), "broken or truncated safetensors"),
    "endless header": ((2**40).to_bytes(8, "little") + b"{", "broken or truncated safetensors"),
    "overlap": (header({**described(), "b": described()["a"]}, bytes(4)), "broken or truncated safetensors"),
    "huge shape": (header(described(shape=(2**40, 2**40)), bytes(4)), "broken or truncated safetensors"),
    "nested header": (header(b"[" * 10**5), "broken or truncated safetensors"),
    "integers": (header(described("I32"), bytes(4)), "a is of type I32; weights are float16"),
    "eight bits": (header(described("F8_E4M3", (4,)), bytes(4)), "a is of type F8_E4M3"),
}


@pytest.mark.parametrize(("data", "message"), KINDS.values(), ids=list(KINDS))
def test_each_kind_of_wrong_file_has_a_message(tmp_path, data, message):
    suffix = ".safetensors" if "safetensors" in message or " I32" in message or "F8_" in message else ".pt"
    path = tmp_path / f"w{suffix}"
    path.write_bytes(data)
    with pytest.raises(ValueError, match=message) as caught:
        open_checkpoint(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < MAX_MESSAGE
    for advice in ("weights_only", "safe_globals", "pickle_module"):
        assert advice not in str(caught.value)
    assert not os.path.exists("/tmp/hostile-was-run")


def test_the_messages_differ():
    assert len({message for _, message in KINDS.values()}) >= 35


@pytest.fixture(scope="module")
def shapes():
    return Shelf(CONFIG_CLASSES, build_empty).shapes(CONFIG)


@pytest.fixture(scope="module")
def originals():
    """Return the bytes of one network in the formats and layouts that are read."""
    torch.manual_seed(0)
    state = build_model(CONFIG).state_dict()
    wrapped = {"ema": {"shadow_params": list(state.values())}, "model": state, "step": 3}
    return {
        "w.safetensors": save(state, {"format": "pt"}),
        "w.pt": saved(state),
        "old.pt": saved(state, _use_new_zipfile_serialization=False),
        "wrapped.pt": saved(wrapped),
        "edm.pkl": edm.pickled({"loss_fn": None, "ema": edm.network(state)}),
    }


def damage(rng, name, data):
    """Damage bytes anywhere, or what describes the tensors with the container around it kept whole."""
    if rng.random() < 0.5:
        return mutate(rng, data)
    if name == "w.safetensors":
        length = int.from_bytes(data[:8], "little")
        text = mutate(rng, data[8 : 8 + length])
        return len(text).to_bytes(8, "little") + text + data[8 + length :]
    if name in ("old.pt", "edm.pkl"):
        return mutate(rng, data[:20_000]) + data[20_000:]
    return edited(data, "data.pkl", lambda index: mutate(rng, index))


def check(path, shapes, shelf):
    """Load a file: a whole state dict, every number of which can be read, or a message."""
    try:
        state = load_weights(path, shapes, shelf.describe)
    except ValueError as error:
        message = str(error)
        assert path.name in message
        assert len(message) < MAX_MESSAGE
        assert all(c.isprintable() or c == "\n" for c in message), message
        assert "weights_only" not in message
        return False
    assert {key: tensor.shape for key, tensor in state.items()} == shapes
    for tensor in state.values():
        assert tensor.dtype == torch.float32
        float(tensor.sum())  # touches all of it
    return True


def test_damaged_checkpoints_load_or_are_refused(tmp_path, shapes, originals, request, recwarn, monkeypatch):
    monkeypatch.setattr(tensor_file, "_MAPPED_FROM", 2**12)  # as large ones are read
    shelf, loaded = Shelf(CONFIG_CLASSES, build_empty), collections.Counter()
    before = peak()
    for name, data in originals.items():
        (tmp_path / name).write_bytes(data)
        assert check(tmp_path / name, shapes, shelf)
    for i in range(request.config.getoption("--hostile_checkpoints")):
        rng = random.Random(f"{SEED}-{i}")
        name = rng.choice(list(originals))
        path = tmp_path / f"{i}-{name}"
        path.write_bytes(damage(rng, name, originals[name]))
        with in_time(i, name):
            loaded[check(path, shapes, shelf)] += 1
        path.unlink()
    assert loaded[False]
    assert peak() - before < 500_000  # kB; no damage makes it allocate what the file does not hold
    assert not [w for w in recwarn if "torch.load" in str(w.message)]


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@contextlib.contextmanager
def in_time(*what):
    since = time.process_time()
    yield
    assert time.process_time() - since < SECONDS, what


def test_made_up_pickles_and_headers_are_refused_as_weights_and_as_inputs(tmp_path, request):
    """None of them holds this network, or a pair."""
    before, shelf = peak(), Shelf(CONFIG_CLASSES, build_empty)
    for i in range(request.config.getoption("--hostile_checkpoints")):
        rng = random.Random(f"{SEED}-made-{i}")
        make = rng.choice((hostile.hostile_pickle, hostile.hostile_pickle, hostile.hostile_header))
        path = tmp_path / f"{i}.{'safetensors' if make is hostile.hostile_header else 'pth'}"
        path.write_bytes(make(rng))
        with in_time(i, make.__name__):
            assert not check(path, {"a": torch.Size([7])}, shelf)
        for read in (read_pair, weight_formats.check_whole, lambda p: LATENTS.load(str(p))):
            with in_time(i, make.__name__):
                problem = message_of(lambda: read(path))  # noqa: B023
            assert problem or read is weight_formats.check_whole
        path.unlink()
    assert peak() - before < 500_000
    assert not os.path.exists("/tmp/hostile-was-run")


def test_made_up_and_damaged_pickles_of_objects_run_nothing(tmp_path, request, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shapes = {"w": torch.Size([3]), "a.w": torch.Size([2, 2]), "a.b.w": torch.Size([1])}
    state = {key: torch.ones(shape) for key, shape in shapes.items()}
    whole = edm.pickled({"loss_fn": edm.persistent("Loss", {"p": np.float64(1)}), "ema": edm.network(state)})
    path, shelf, outcomes = tmp_path / "w.pkl", Shelf(CONFIG_CLASSES, build_empty), collections.Counter()
    path.write_bytes(whole)
    assert check(path, shapes, shelf)
    before = peak()
    for i in range(12 * request.config.getoption("--hostile_checkpoints")):
        path.write_bytes(edm.hostile_objects(random.Random(f"{SEED}-objects-{i}"), whole))
        with in_time(i):
            outcomes[check(path, shapes, shelf)] += 1
            outcomes["described"] += not message_of(lambda: describe_pickle(path))
            if i % 4 == 0:
                message_of(lambda: weight_formats.check_whole(path))
    assert min(outcomes[True], outcomes[False], outcomes["described"]) > 0
    assert peak() - before < 500_000
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]
    assert not os.path.exists("/tmp/hostile-was-run")


def test_networks_under_any_wrappers_load_whole_or_not_at_all(tmp_path, request):
    """What is loaded is one of the networks, and an average where one fits."""
    shapes = {"in.weight": (3, 2), "in.bias": (3,), "mid.0.weight": (3, 3), "out.weight": (1, 3)}
    expected = {key: torch.Size(shape) for key, shape in shapes.items()}
    outcomes = collections.Counter()
    for i in range(3 * request.config.getoption("--hostile_checkpoints")):
        rng = random.Random(f"{SEED}-wrapped-{i}")
        nets = [
            {k: torch.full(s, float(n)) for k, s in shapes.items()} for n in range(rng.choice((1, 1, 2, 3)))
        ]
        path = tmp_path / f"{i}.pt"
        path.write_bytes(saved(hostile.wrapped(rng, nets)))
        state = {}
        with in_time(i):
            problem = message_of(lambda: state.update(load_weights(path, expected)))  # noqa: B023
        path.unlink()
        outcomes["refused" if problem else "loaded"] += 1
        assert problem or any(is_mostly(state, net) for net in nets), i
    assert min(outcomes["loaded"], outcomes["refused"]) > 0


def is_mostly(state, net):
    """Whether at least half of a state is of a network; an average may lack what the raw weights have."""
    return sum(torch.equal(net[key], state[key]) for key in net) >= len(net) / 2


def message_of(call):
    """Return the message of what is refused, nothing of what is not."""
    try:
        call()
    except ValueError as error:
        message = str(error)
    else:
        return ""
    assert 0 < len(message) < MAX_MESSAGE
    assert all(c.isprintable() or c == "\n" for c in message), message
    return message


def test_numbers_of_folders_are_read_or_refused(tmp_path, request):
    facts = json.loads(CONFIG_JSON)
    scheduler = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    for i in range(3 * request.config.getoption("--hostile_checkpoints")):
        rng = random.Random(f"{SEED}-folder-{i}")
        for name, section in (("config.json", dict(facts)), ("scheduler_config.json", dict(scheduler))):
            if rng.random() < 0.7:
                section[rng.choice([*section])] = rng.choice((*hostile.NUMBERS, [1] * 99, {"a": 1}, [None]))
            text_of = json.dumps(section)
            if rng.random() < 0.2:
                text_of = mutate(rng, text_of.encode()).decode("latin1")
            (tmp_path / name).write_text(text_of, encoding="latin1")
        with in_time(i):
            message_of(lambda: build_empty(read_config(tmp_path / "config.json", CONFIG_CLASSES).model))
