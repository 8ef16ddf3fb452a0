"""Every published wrapping loads, exactly or not at all; nothing in a file is executed."""

import json
import os
import pickle
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from models import build_model
from tests.models.golden_nets import FOLDER, ncsnpp_config
from utils.weights.checkpoint import load_weights, open_checkpoint

ROOT = Path(__file__).resolve().parents[3]


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


def zeroed(state):
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


def other(state):
    """Return the state dict of a network that differs in one shape."""
    return {**state, "2.bias": torch.ones(7)}


def parted(name, state):
    return {f"{name}.{key}": tensor for key, tensor in state.items()}


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
        lambda s: {f"_orig_mod.module.{key}": tensor for key, tensor in s.items()},
        lambda s: {"state_dict": {"model": prefixed(s)}},
        lambda s: [prefixed(s), {"state": {}, "param_groups": []}, 3, 700],
        lambda s: [prefixed(zeroed(s)), {"state": {}}, 3, 700, s],
        lambda s: {"model": prefixed(s), "ema": {"shadow": dict(list(s.items())[:-2])}},
        lambda s: {f"unet_cond.{key}": tensor for key, tensor in s.items()},
        lambda s: {"model": {**parted("unet_uncond", {"a": torch.ones(1)}), **parted("unet_cond", s)}},
        lambda s: {"ema": {"shadow": {**parted("unet_cond", other(s)), **parted("unet_uncond", s)}}},
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
        ([None], "no state dict; found a list"),
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
        with pytest.raises(ValueError, match=r"not loaded|not a checkpoint|pickled otherwise") as caught:
            load(content)
        assert not marker.exists()
        assert "weights_only" not in str(caught.value)
        assert "safe_globals" not in str(caught.value)
    assert "argparse.Namespace" in str(caught.value)


@pytest.fixture
def saved(tmp_path):
    def saved(content, **options):
        torch.save(content, tmp_path / "w.pt", **options)
        return tmp_path / "w.pt"

    return saved


def test_two_networks_in_a_file_can_be_told_apart(saved, state):
    path = saved({"model": {**parted("unet_cond", state), **parted("unet_uncond", zeroed(state))}})
    found = open_checkpoint(path)
    for name, value in (("unet_uncond", 0), ("model.unet_cond", state["2.bias"])):
        assert found.part(name).states[0].named["2.bias"].read() == value
    with pytest.raises(
        ValueError, match=r"has no part 'unet'; its parts are model\.unet_cond, model\.unet_unc"
    ):
        found.part("unet")
    with pytest.raises(ValueError, match="has no part 'unet'; its parts are"):
        open_checkpoint(saved(state)).part("unet")


def test_a_list_of_two_networks_is_named_by_what_lies_beside_it(saved, state):
    both = {**parted("unet_cond", zeroed(state)), **parted("unet_uncond", zeroed(other(state)))}
    average = [tensor + 1 for tensor in both.values()]
    path = saved({"model": both, "ema": {"shadow": average}})
    expected = {key: tensor.shape for key, tensor in state.items()}
    assert all((tensor == 1).all() for tensor in load_weights(path, expected).values())


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_views_strides_and_types_are_kept_or_made_float32(saved, options):
    big = torch.randn(600, 600)
    tensors = {
        "slice": big[5:590, 3:595],
        "transposed": big.T,
        "double": big.double()[1:],
        "half": big.half(),
        "bfloat": big.bfloat16(),
        "parameter": nn.Parameter(big),
        "last": torch.randn(256, 128, 3, 3).to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.0),
        "none": torch.empty(0, 3),
    }
    loaded = load_weights(saved(tensors, **options), {key: t.shape for key, t in tensors.items()})
    for key, tensor in tensors.items():
        assert torch.equal(loaded[key], tensor.float()), key
        assert (loaded[key].dtype, loaded[key].requires_grad) == (torch.float32, False)


def test_only_what_is_needed_is_read_and_it_can_be_changed(saved, state, monkeypatch):
    big = torch.ones(1000, 300)
    path = saved({"model": {"a": big}, "optimizer": {"state": {0: torch.zeros(1000, 1000)}}})
    loaded = load_weights(path, {"a": big.shape})["a"]
    loaded.add_(1)
    assert loaded.sum() == 2 * big.numel()
    assert load_weights(path, {"a": big.shape})["a"].sum() == big.numel()  # the file is as it was


def test_the_form_of_a_file_is_told_by_its_content(tmp_path, state):
    save_file(state, tmp_path / "really_safetensors.pt", {"format": "pt", "about": "x"})
    torch.save(state, tmp_path / "w.bin")
    expected = {key: tensor.shape for key, tensor in state.items()}
    for name in ("really_safetensors.pt", "w.bin"):
        assert load_weights(tmp_path / name, expected).keys() == state.keys()


def test_an_explanation_is_part_of_the_message(saved):
    with pytest.raises(ValueError, match="do not fit the config's network; they are green\n  missing: a"):
        load_weights(saved({"b": torch.ones(1)}), {"a": torch.Size([1])}, lambda *_: "they are green")


def test_a_limit_on_open_files_is_not_reached(saved):
    path = saved({str(i): torch.full((2**18,), float(i)) for i in range(40)})
    code = (
        "import resource, sys; from pathlib import Path; from utils.weights import open_checkpoint\n"
        "found = open_checkpoint(Path(sys.argv[1])).views()[0]\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24))\n"
        "tensors = [stored.read() for stored in found.values()]\n"
        "assert [float(tensor.mean()) for tensor in tensors] == list(range(40))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
