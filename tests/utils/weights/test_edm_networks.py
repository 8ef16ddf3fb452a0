"""Pickles of NVlabs/edm and edm2: their tensors, bit by bit, and how their networks were made."""

import json
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tests.faults import edm_pickles as edm
from utils.sources.weight_formats import check_whole
from utils.weights import describe_pickle, open_checkpoint
from utils.weights.tensor_file import open_tensors

GOLDEN = Path(__file__).parents[2] / "golden/pickles/edm.tar.xz"
MARKERS = ("PICKLE_CODE_RAN", "EVIL_PAYLOAD_RAN")
DTYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN) as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.fixture(autouse=True)
def nothing_runs(tmp_path, monkeypatch):
    """Let a test fail in which a line of a file was run: it would leave a file in the working directory."""
    monkeypatch.chdir(tmp_path)
    yield
    assert not [name for name in MARKERS if os.path.exists(name)]


def written(content, protocol=4, name="w.pkl"):
    path = Path(name).resolve()
    path.write_bytes(edm.pickled(content, protocol))
    return path


def check_equal(path, expected):
    """Compare what a file holds under ema with tensors, in order, and in their types before they are read."""
    described = open_tensors(path).content["ema"]
    assert list(described) == list(expected)
    (state,) = open_checkpoint(path).states
    assert state.where == "ema"
    for key, tensor in expected.items():
        assert DTYPES[described[key].dtype] == tensor.dtype, key
        found = state.named[key].read()
        assert found.dtype == torch.float32
        assert found.shape == tensor.shape
        assert torch.equal(found.view(torch.int32), tensor.float().view(torch.int32)), key  # zeros with sign


@pytest.mark.parametrize("name", ["tiny", "tiny_song", "tiny_ncsn_2022names", "tiny_edm2"])
def test_networks_of_the_programs_load_bit_by_bit(golden, name):
    path = golden / f"{name}.pkl"
    expected = load_file(golden / f"{name}.safetensors")
    order = json.loads((golden / "keys.json").read_text()) if name == "tiny_song" else None
    described = open_tensors(path).content["ema"]
    assert described.keys() == expected.keys()
    check_equal(path, {key: expected[key] for key in order or described})
    check_whole(path)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("evil_global", "holds builtins.exec, which could run code"),
        ("evil_inner", "holds builtins.exec, which could run code"),
        ("evil_bounds", "a tensor in it is not all there"),
    ],
)
def test_hostile_files_of_the_format_are_refused(golden, name, message):
    for read in (open_checkpoint, describe_pickle, check_whole):
        with pytest.raises(ValueError, match=message):
            read(golden / f"{name}.pkl")


def test_a_description_says_how_a_network_was_made(golden):
    song = describe_pickle(golden / "tiny_song.pkl")
    assert song.keys() == {"ema", "loss_fn", "augment_pipe"}
    ema = song["ema"]
    assert ema["class_name"] == "EDMPrecond"
    assert ema["init_args"] == []
    assert ema["init_kwargs"]["model_type"] == "SongUNet"
    assert ema["init_kwargs"]["channel_mult"] == [1, 2]
    assert ema["attributes"] == {
        **{"img_resolution": 8, "img_channels": 3, "label_dim": 3, "use_fp16": False},
        **{"sigma_min": 0, "sigma_max": float("inf"), "sigma_data": 0.5},
    }
    assert ema["modules"].keys() == {"model"}
    assert ema["modules"]["model"]["class_name"] == "SongUNet"
    assert ema["modules"]["model"]["init_kwargs"]["embedding_type"] == "positional"
    assert "modules" not in ema["modules"]["model"]
    assert song["loss_fn"]["attributes"]["P_mean"] == -1.2
    edm2 = describe_pickle(golden / "tiny_edm2.pkl")
    assert edm2["encoder"]["class_name"] == "StandardRGBEncoder"
    assert edm2["ema"]["modules"]["logvar_linear"]["init_args"] == [128, 1]
    assert edm2["ema"]["attributes"]["use_fp16"] is True
    json.dumps(edm2)


class Block(nn.Module):
    """A module with every kind of tensor that a state dict holds or leaves out."""

    def __init__(self):
        super().__init__()
        numbers = torch.arange(24.0)
        self.weight = nn.Parameter(numbers.reshape(4, 6).t()[1:, ::2])
        self.register_parameter("bias", None)
        self.gain = nn.Parameter(torch.tensor(1.5).half())
        self.none = nn.Parameter(torch.empty(0, 3))
        self.register_buffer("wide", torch.linspace(0, 1, 5, dtype=torch.float64))
        self.register_buffer("unsaved", torch.ones(2), persistent=False)
        self.register_buffer("brain", torch.ones(3).bfloat16() / 3)
        self.parts = nn.ModuleDict({"32x32_conv": nn.ModuleDict()})
        self.register_module("missing", None)
        self.scale = np.float64(0.5) ** 0.5
        self.counts = (np.int64(3), np.bool_(True), np.float32(0.25))

    def __reduce__(self):
        return edm.persistent("Block", self.__dict__).__reduce__()


class Net(Block):
    def __init__(self):
        super().__init__()
        self.parts["32x32_conv"]["first"] = Block()
        self.tied = nn.ModuleDict({"again": self.parts["32x32_conv"]["first"]})
        self._init_args, self._init_kwargs = (
            (3,),
            {"mult": [1, 2], "name": "x", "inner": edm.EasyDict(a=None)},
        )


@pytest.mark.parametrize("protocol", edm.PROTOCOLS)
def test_any_module_has_the_state_dict_that_torch_gives(protocol):
    net = Net()
    array = edm.persistent("Encoder", {"scale": np.ones(4, np.float32)}) if protocol < 5 else None
    path = written(edm.EasyDict(encoder=array, ema=net, dataset_kwargs=edm.EasyDict(path="x")), protocol)
    check_equal(path, net.state_dict())
    described = describe_pickle(path)["ema"]
    assert described["init_args"] == [3]
    assert described["init_kwargs"] == {"mult": [1, 2], "name": "x", "inner": {"a": None}}
    assert described["attributes"] == {"scale": 0.5**0.5, "counts": [3, True, 0.25]}
    assert type(described["attributes"]["counts"][1]) is bool


def test_several_networks_are_several_states():
    path = written({"G": edm.network({"a.w": torch.ones(2)}), "G_ema": edm.network({"a.w": torch.zeros(2)})})
    assert [state.where for state in open_checkpoint(path).states] == ["G", "G_ema"]
    assert open_checkpoint(path).fits({"a.w": torch.Size([2])})[0].where == "G_ema"


def test_only_these_pickles_are_described(tmp_path):
    torch.save({"a": torch.ones(2)}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match=r"w\.pt: no pickle of NVlabs/edm or edm2"):
        describe_pickle(tmp_path / "w.pt")
    path = written(
        {"ema": edm.persistent("Net", edm.module().made[1][0]["state"] | {"_init_args": (Net(),)})}
    )
    with pytest.raises(ValueError, match="made with more than plain values"):
        describe_pickle(path)
