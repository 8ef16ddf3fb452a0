"""Every published wrapping loads, exactly or not at all; nothing in a file is executed."""

import json
import os
import pickle
from argparse import Namespace

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models import build_model
from tests.models.golden_nets import FOLDER, ncsnpp_config
from utils.checkpoint import load_weights


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))


@pytest.fixture
def state(net):
    return {key: tensor for key, tensor in net.state_dict().items() if tensor.is_floating_point()}


@pytest.fixture
def load(tmp_path, state):
    def load(content, name="w.pt"):
        path = tmp_path / name
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif path.suffix == ".safetensors":
            save_file(content, path)
        else:
            torch.save(content, path)
        return load_weights(path, {key: tensor.shape for key, tensor in state.items()})

    return load


def prefixed(state):
    return {f"module.{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: s,
        prefixed,
        lambda s: {"state_dict": s, "epoch": 3},
        lambda s: {"model": prefixed(s), "optimizer": {"lr": 0.1}},
        lambda s: {"model": {"a": torch.ones(1)}, "ema": {"shadow": s, "decay": 0.999, "num_updates": 5}},
        lambda s: {"ema": {"shadow": list(s.values()), "decay": 0.999}},
        lambda s: {"ema": {"shadow_params": list(s.values())[:-1]}, "model": prefixed(s), "step": 3},
        lambda s: {key: tensor.half().float() for key, tensor in s.items()},
    ],
)
def test_published_wrappings_load(load, state, wrap):
    loaded = load(wrap(state))
    assert list(loaded) == list(state) or set(loaded) == set(state)
    for key, tensor in state.items():
        torch.testing.assert_close(loaded[key], tensor, atol=1e-3, rtol=1e-3)


def test_an_average_without_the_frozen_tensors_takes_these_from_beside_it():
    facts = json.loads((FOLDER / "ncsnpp_checkpoint.json").read_text())
    recorded = load_file(FOLDER / "ncsnpp_checkpoint.safetensors")
    network = build_model(ncsnpp_config(facts["config"])).eval()
    expected = {key: tensor.shape for key, tensor in network.state_dict().items()}
    assert len(expected) == len(facts["shadow_order"]) + len(facts["model_keys_without_shadow"])
    loaded = load_weights(FOLDER / "ncsnpp_checkpoint.pth", expected)
    network.load_state_dict(loaded, strict=True, assign=True)
    assert network.sigmas[0] == 348
    with torch.no_grad():
        out = network.double()(recorded["x"].double(), recorded["sigma"])
    difference = (out - recorded["out.ema.f64_emb64"]) * recorded["sigma"][:, None, None, None]
    assert difference.abs().max() < 1e-9  # measured 1e-15; the weights before averaging are off by 0.6


def test_safetensors_and_half_precision_load_as_float32(load, state):
    loaded = load({key: tensor.half() for key, tensor in state.items()}, "w.safetensors")
    assert {tensor.dtype for tensor in loaded.values()} == {torch.float32}
    assert all(torch.equal(loaded[key], state[key].half().float()) for key in state)


def test_another_network_is_explained(load, state):
    wrong = dict(state)
    wrong["2.weight"] = torch.zeros(1, 4)
    wrong["extra"] = wrong.pop("0.bias")
    with pytest.raises(ValueError, match="do not fit") as caught:
        load(wrong)
    message = str(caught.value)
    assert "missing: 0.bias" in message
    assert "unknown: extra" in message
    assert "other shape: 2.weight is [1, 4] in the file and [1, 3] in the network" in message


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "the file is empty"),
        (b"\n<!DOCTYPE html><html>403 Forbidden</html>", "a web page instead of weights"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b"hello", "not a checkpoint"),
        (b"PK\x03\x04" + b"\0" * 90, "not a checkpoint"),
        (
            [torch.ones(2)],
            "a list of 1 tensors without names, which fits the 8 of .* in no way; give the config",
        ),
        ([torch.ones(3)], "a list of 1 tensors without names, which fits the 8 of .* in several ways; give"),
        ({"ema": {"shadow": [torch.ones(1)]}}, "do not fit(.|\n)*missing: 0.weight, .* and 3 more"),
        ([None], "a list of 1 tensors without names, .* in no way"),
        ({"step": 3}, r"no state dict; found a dict with step \(int\)"),
        (torch.ones(3), "no state dict; found a Tensor"),
    ],
)
def test_what_is_no_checkpoint_is_refused(load, content, match):
    with pytest.raises(ValueError, match=match):
        load(content)


def test_truncated_files_are_refused(load, state, tmp_path):
    for name in ("w.pt", "w.safetensors"):
        load(state, name)
        data = (tmp_path / name).read_bytes()
        for length in (len(data) // 2, len(data) - 30):
            with pytest.raises(ValueError, match="truncated"):
                load(data[:length], name)


class Payload:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (self.marker,)


def test_code_in_a_file_is_not_run_and_no_unsafe_advice_is_given(load, tmp_path):
    marker = tmp_path / "was_run"
    for content in (
        pickle.dumps(Payload(str(marker))),
        {"model": Payload(str(marker))},
        {"args": Namespace(a=1)},
    ):
        with pytest.raises(ValueError, match=r"not loaded|not a checkpoint") as caught:
            load(content)
        assert not marker.exists()
        assert "weights_only" not in str(caught.value)
        assert "safe_globals" not in str(caught.value)
    assert "argparse.Namespace" in str(caught.value)
