"""Compiled networks: the same prediction, translated once whatever the batches."""

import shutil

import pytest
import torch
import torch._inductor.config
from torch import nn
from torch._dynamo.testing import CompileCounter

from models.compiled import CompiledNetwork
from models.layers import Conv3x3, GroupNorm, SiLU, add
from models.precision import cast_network
from tests.models.golden_nets import edm2_config, load, song_config
from tools.studies.contenders import randomize


class Block(nn.Module):
    """Norm, activation, convolution and sum, as all networks have them; each costs seconds to translate."""

    float32_modules = ()

    def __init__(self):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 32, 1), GroupNorm(32, 32)
        self.act, self.last = SiLU(), Conv3x3(32, 32)

    def forward(self, x, t):
        h = self.first(x.to(self.first.weight.dtype))
        return add(self.last(self.act(self.norm(h))), h * t[:, None, None, None])


def batch(size):
    generator = torch.Generator().manual_seed(size)
    return torch.randn(size, 3, 8, 8, generator=generator), torch.arange(size)


@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler, g++")
def test_compiled_networks_predict_the_same(monkeypatch):
    """Without what takes the compiler longer than that: processes, trials of the processor, headers."""
    settings = torch._inductor.config
    monkeypatch.setattr(settings, "compile_threads", 1)
    monkeypatch.setattr(settings.cpp, "vec_isa_ok", True, raising=False)
    monkeypatch.setattr(settings, "cpp_cache_precompile_headers", False, raising=False)
    network = cast_network(randomize(Block()), torch.float32)
    with torch.inference_mode():
        expected = [network(*batch(size)) for size in (3, 2)]
        compiled = CompiledNetwork(network)
        for size, result in zip((3, 2), expected, strict=True):
            torch.testing.assert_close(compiled(*batch(size)), result, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("case", "config"), [("edm_ncsnpp", song_config), ("edm2_cond", edm2_config)])
def test_a_network_is_one_graph(case, config):
    net = load(case)
    network = cast_network(net.build(config(net.configs["a"])), torch.float32)
    network.compile(backend="eager", fullgraph=True, dynamic=False)
    with torch.inference_mode():
        out = network(*net.inputs(0, torch.float32))
    assert net.error(out, "a", 0, "f64_emb64") < 2e-5


class Sum(nn.Module):
    """Adds its condition to its images, and notes the shapes that it meets."""

    def __init__(self):
        super().__init__()
        self.largest = 99

    def forward(self, x, t):
        if len(x) > self.largest:
            raise torch.OutOfMemoryError
        return x + t[:, None, None, None]


def test_batches_are_padded_to_the_largest_and_translated_once(monkeypatch):
    counter, compile_module = CompileCounter(), nn.Module.compile
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: compile_module(self, backend=counter, **k))
    compiled = CompiledNetwork(Sum())
    for size in (4, 1, 3, 4):
        x, t = batch(size)
        assert torch.equal(compiled(x, t), x + t[:, None, None, None])
    assert counter.frame_count == 1


def test_after_memory_ran_out_smaller_batches_are_not_padded_to_what_did_not_fit(monkeypatch):
    monkeypatch.setattr(nn.Module, "compile", lambda self, **k: None)
    compiled = CompiledNetwork(Sum())
    compiled.network.largest = 3
    with pytest.raises(torch.OutOfMemoryError):
        compiled(*batch(4))
    x, t = batch(2)
    assert torch.equal(compiled(x, t), x + t[:, None, None, None])
