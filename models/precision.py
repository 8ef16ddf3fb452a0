"""Networks in the precision and memory layout that they run fastest in."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_ALIGNMENT = 64  # bytes; on a CPU a product of matrices rounds differently where one lies across it


def cast_network(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Prepare a network for prediction: weights cast and fused once, channels_last, no gradients of them.

    Weights are moved to aligned memory, so that results do not depend on where a mapped file holds them.
    Those of convolutions and linear layers take `dtype`, except in the submodules that the network
    names in `float32_modules`; norms and embeddings stay in float32. Gradients with respect to the
    input remain possible, as classifier guidance needs them.

    Args:
        network: A network of this package in float32; changed in place.
        dtype: One of float32, bfloat16, float16.

    Returns:
        The same network, in eval mode.

    Raises:
        ValueError: Another dtype.
    """
    if dtype not in DTYPES:
        raise ValueError(f"dtype {dtype}: allowed are {', '.join(map(str, DTYPES))}")
    for module in network.modules():
        if hasattr(module, "fuse"):
            module.fuse()
    kept = tuple(f"{name}." for name in network.float32_modules)
    for name, module in network.named_modules():
        if isinstance(module, _ConvNd | nn.Linear) and not f"{name}.".startswith(kept):
            module.to(dtype)
    network.to(memory_format=torch.channels_last)
    for parameter in network.parameters():
        if parameter.device.type == "cpu" and parameter.data_ptr() % _ALIGNMENT:
            parameter.data = parameter.data.clone()
    return network.eval().requires_grad_(False)
