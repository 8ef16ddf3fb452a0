"""Every network family on a GPU that is not there: what it creates is on it, and its layers get one type."""

import pytest
import torch

from models.precision import cast_network
from tests.fake_cuda import CUDA, Log, fake_cuda
from tests.models.golden_nets import load
from tests.models.test_precision import CASES


@pytest.mark.parametrize("case", CASES)
def test_a_call_waits_for_nothing(case):
    net = load(case)
    network = net.build(CASES[case](next(iter(net.configs.values()))))
    log = Log()
    with fake_cuda(log):
        network = cast_network(network.to(CUDA), torch.bfloat16)
        inputs = [x.to(CUDA) for x in net.inputs(0, torch.float32)]
        log.events.clear()
        out = network(*inputs)
    assert (out.device, out.dtype) == (CUDA, torch.float32)
    assert log.events == {}
