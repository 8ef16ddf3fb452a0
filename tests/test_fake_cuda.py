"""What the GPU that is not there refuses and notes, so that the tests on it can fail."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses.fake_tensor import DynamicOutputShapeException

from tests.fake_cuda import CUDA, DOWNLOAD, READ, UPLOAD, Log, fake_cuda

LOOKS = {
    "item": lambda x: x.sum().item(),
    "tolist": lambda x: x.sum((1, 2, 3)).tolist(),
    "bool": lambda x: bool((x > 0).all()),
    "float": lambda x: float(x.sum()),
    "max": lambda x: max(x.sum(), x.mean()),
}
COPIES = {
    "cpu": (DOWNLOAD, lambda x: x.cpu()),
    "to": (DOWNLOAD, lambda x: x.to("cpu", torch.float64)),
    "tensor": (UPLOAD, lambda x: torch.tensor([1, 2], device=CUDA)),
    "table": (UPLOAD, lambda x: torch.linspace(0, 1, 5).to(x.device)),
    "rows": (UPLOAD, lambda x: x[[1, 0]]),
    "copy_": (UPLOAD, lambda x: x.clone().copy_(torch.ones(2, 32, 8, 8))),
}
MIXED = {
    "devices": lambda x: x + torch.ones(2, 32, 8, 8),
    "convolution": lambda x: F.conv2d(x.half(), torch.empty(4, 32, 3, 3, device=CUDA)),
    "linear": lambda x: F.linear(x.half(), torch.empty(4, 8, device=CUDA)),
    "product": lambda x: x.half() @ x,
    "norm": lambda x: F.group_norm(x.half(), 4, torch.empty(32, device=CUDA)),
    "attention": lambda x: F.scaled_dot_product_attention(x.half(), x, x),
}


@pytest.mark.parametrize("name", LOOKS)
def test_a_look_at_a_value_is_noted(name):
    log = Log()
    with fake_cuda(log):
        x = torch.empty(2, 32, 8, 8, device=CUDA)
        log.tick()
        LOOKS[name](x)
    assert log.events == {(1, READ): 1}


@pytest.mark.parametrize("name", COPIES)
def test_a_copy_that_is_waited_for_is_noted(name):
    event, copy = COPIES[name]
    log = Log()
    with fake_cuda(log):
        copy(torch.empty(2, 32, 8, 8, device=CUDA))
        torch.ones(2).pin_memory().to(CUDA, non_blocking=True)
    assert log.events == {(0, event): 1}


@pytest.mark.parametrize("name", MIXED)
def test_what_a_gpu_refuses_is_refused(name):
    with fake_cuda(Log()), pytest.raises((RuntimeError, AssertionError), match=r"device|dtype|of \{"):
        MIXED[name](torch.empty(2, 32, 8, 8, device=CUDA))


def test_what_depends_on_values_is_refused():
    with fake_cuda(Log()):
        x = torch.empty(2, 3, device=CUDA)
        with pytest.raises(DynamicOutputShapeException):
            x[x > 0]


def test_modules_move_and_gradients_need_ordinary_weights():
    layer = nn.Linear(8, 8)
    with fake_cuda(Log()):
        moved = layer.to(CUDA)  # in inference mode
        assert {x.device for x in moved.parameters()} == {CUDA}
        with torch.inference_mode(False), torch.enable_grad():
            x = torch.empty(2, 8, device=CUDA, requires_grad=True)
            with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
                moved(x)
