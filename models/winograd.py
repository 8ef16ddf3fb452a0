"""3x3 convolutions on a CPU by minimal filtering (Winograd 1980; Lavin and Gray, CVPR 2016), down the rows.

F(m, 3) computes m rows of the output from m + 2 of the input by m + 2 products of a row with a 1x3
kernel, where the definition takes 3m. The products are six (m = 4) or four (m = 2) convolutions of
planes that hold every m-th row, by the library's own kernels; sums of rows lead to them and back.
"""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

_KERNELS = {
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1],
    ],
    2: [[1, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
}
"""By rows at a time: what the kernel of each product takes of the three rows of the 3x3 kernel."""
_ROWS = {torch.float32: 4, torch.bfloat16: 2}  # in bfloat16 the error of F(4, 3) is twice that of F(2, 3)
_LEAST_CHANNELS = 64
_LEAST_PIXELS = 32 * 32
_LEAST_PRODUCTS = 2**26  # of channels, output channels and pixels: below, the sums cost what is saved


def pays(x: Tensor, weight: Tensor) -> bool:
    """Whether `convolve` is faster than the convolution itself: decided by type and size of one image only.

    Args:
        x: Maps, shape [B, C, H, W].
        weight: Kernels, shape [K, C, 3, 3].
    """
    rows = _ROWS.get(x.dtype)
    if rows is None or x.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    if x.dtype == torch.bfloat16 and _has_amx():
        return False
    out_channels, channels = weight.shape[:2]
    pixels = x.shape[2] * x.shape[3]
    return (
        x.shape[2] % rows == 0
        and pixels >= _LEAST_PIXELS
        and min(channels, out_channels) >= _LEAST_CHANNELS
        and channels * out_channels * pixels >= _LEAST_PRODUCTS
    )


@cache
def _has_amx() -> bool:
    """Whether the CPU multiplies tiles of bfloat16: faster than the sums of rows could be formed."""
    return torch.cpu.get_capabilities().get("amx_bf16", False)


def transform(weight: Tensor) -> list[Tensor]:
    """Form the 1x3 kernels of the products, each of shape [K, C, 1, 3].

    Args:
        weight: Kernels, shape [K, C, 3, 3], of a type for which `pays` holds.
    """
    combinations = torch.tensor(_KERNELS[_ROWS[weight.dtype]], dtype=torch.float64)
    kernels = torch.einsum("pi,kcij->pkcj", combinations, weight.double()).to(weight.dtype)
    return [kernel[:, :, None].contiguous(memory_format=torch.channels_last) for kernel in kernels]


def convolve(x: Tensor, kernels: list[Tensor], bias: Tensor | None) -> Tensor:
    """Do what F.conv2d(x, weight, bias, padding=1) does, up to rounding.

    Args:
        x: Maps, shape [B, C, H, W], channels_last; H is a multiple of the rows at a time.
        kernels: What `transform` made of the weight.
        bias: Shape [K], or None.

    Returns:
        Maps, shape [B, K, H, W], channels_last.
    """
    x = x.permute(0, 2, 3, 1)
    out = x.new_empty(*x.shape[:3], len(kernels[0]))
    rows = len(kernels) - 2
    planes, results = ([maps[:, row::rows] for row in range(rows)] for maps in (x, out))
    filter_rows = _by_fours if rows == 4 else _by_twos
    filter_rows(planes, kernels, bias, results)
    return out.permute(0, 3, 1, 2)


def _by_fours(x: list[Tensor], kernels: list[Tensor], bias: Tensor | None, out: list[Tensor]) -> None:
    """F(4, 3): x and out hold the first to fourth rows of all fours; x[3] lies above the next x[0]."""
    even, odd = torch.sub(x[3], x[1], alpha=4), torch.sub(x[2], x[0], alpha=4)
    p1 = _product(even + odd, kernels[1], bias)  # the one product that each row of the output takes once
    p2 = _product(even - odd, kernels[2])
    torch.sub(x[3], x[1], out=even)
    torch.sub(x[2], x[0], out=odd)
    p3 = _product(torch.add(even, odd, alpha=2), kernels[3])
    p4 = _product(torch.sub(even, odd, alpha=2), kernels[4])
    even.sub_(x[1], alpha=4)[:, 1:].add_(x[3][:, :-1], alpha=4)
    odd.mul_(-4).sub_(x[2])[:, :-1].add_(x[0][:, 1:])
    p0, p5 = _product(even, kernels[0]), _product(odd, kernels[5])

    sum12, sum34 = p1 + p2, p3 + p4
    difference12, difference34 = p1.sub_(p2), p3.sub_(p4)
    torch.add(p0.add_(sum12), sum34, out=out[0])
    torch.add(difference12, difference34, alpha=2, out=out[1])
    torch.add(sum12, sum34, alpha=4, out=out[2])
    torch.add(p5.add_(difference12), difference34, alpha=8, out=out[3])


def _by_twos(x: list[Tensor], kernels: list[Tensor], bias: Tensor | None, out: list[Tensor]) -> None:
    """F(2, 3): x and out hold the first and second rows of all twos; x[1] lies above the next x[0]."""
    p1, p2 = _product(x[0] + x[1], kernels[1], bias), _product(x[1] - x[0], kernels[2])
    above, below = x[1].neg(), x[0].clone()
    above[:, 1:].add_(x[1][:, :-1])
    below[:, :-1].sub_(x[0][:, 1:])
    p0, p3 = _product(above, kernels[0]), _product(below, kernels[3])
    torch.add(p0.add_(p1), p2, out=out[0])
    torch.sub(p1.sub_(p2), p3, out=out[1])


def _product(rows: Tensor, kernel: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve each row, [B, T, W, C] -> [B, T, W, K], with a 1x3 kernel."""
    return F.conv2d(rows.permute(0, 3, 1, 2), kernel, bias, padding=(0, 1)).permute(0, 2, 3, 1)
