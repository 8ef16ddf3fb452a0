"""What the benchmark times: our networks, diffusers' of the same shape, and a lone convolution."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from models import build_empty, build_model
from models.compiled import CompiledNetwork
from models.ddpm_unet import DDPMUNetConfig
from models.layers import UNetConfig
from models.precision import cast_network

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
CONVOLUTION = (4, 256, 64, 64)
"""Images of the lone 3x3 convolution that stands for what the machine can do, [B, C, H, W]."""

Call = Callable[[], object]


@dataclass(frozen=True)
class Contender:
    """What is timed."""

    kind: str
    """ours, ours compiled, as built (ours, neither cast nor laid out), diffusers, or convolution."""
    dtype: torch.dtype
    keeps: bool = True
    """Its process keeps the memory that it frees, as those of the commands do."""

    @property
    def name(self) -> str:
        """Return what the table calls it."""
        kept = ", freed memory kept" if self.keeps and self.kind == "diffusers" else ""
        return f"{self.kind}, {str(self.dtype).removeprefix('torch.')}{kept}"


BASE = Contender("as built", torch.float32)


def choose_contenders(config: UNetConfig, dtypes: list[torch.dtype], compiled: bool) -> list[Contender]:
    """List what is compared, in the order of the table; diffusers' where it has the same network."""
    contenders = [BASE]
    for dtype in dtypes:
        if isinstance(config, DDPMUNetConfig):
            contenders += [Contender("diffusers", dtype, keeps) for keeps in (False, True)]
        contenders += [Contender("ours compiled", dtype)] if compiled else []
        contenders += [Contender("ours", dtype), Contender("convolution", dtype)]
    return contenders


def bind(contender: Contender, config: UNetConfig, batch_size: int, device: str) -> Call:
    """Return a call of a contender, waited for."""
    call = _convolution(contender, device) or _network_call(contender, config, batch_size, device)
    if not device.startswith("cuda"):
        return call

    def wait() -> object:
        out = call()
        torch.cuda.synchronize()
        return out

    return wait


def _convolution(contender: Contender, device: str) -> Call | None:
    if contender.kind != "convolution":
        return None
    width = CONVOLUTION[1]
    x, weight = (
        torch.randn(shape, device=device).to(contender.dtype, memory_format=torch.channels_last)
        for shape in (CONVOLUTION, (width, width, 3, 3))
    )
    return lambda: torch.conv2d(x, weight, padding=1)


def _network_call(contender: Contender, config: UNetConfig, batch_size: int, device: str) -> Call:
    theirs = contender.kind == "diffusers"
    network = diffusers_twin(config) if theirs else build_model(config)
    network = randomize(network).eval().to(device)
    x, *conditions = draw_inputs(config, batch_size, device)
    if theirs and contender.dtype != torch.float32:
        network = network.to(contender.dtype).to(memory_format=torch.channels_last)
        x = x.to(contender.dtype, memory_format=torch.channels_last)
    elif contender.kind.startswith("ours"):
        network = cast_network(network, contender.dtype)
        x = x.contiguous(memory_format=torch.channels_last)
    if contender.kind == "ours compiled":
        network = CompiledNetwork(network)
    return lambda: network(x, *conditions)


def draw_inputs(config: UNetConfig, batch_size: int, device: str) -> list[torch.Tensor]:
    """Draw what the network takes: images, timesteps and, where it has classes, labels."""
    x = torch.randn(batch_size, config.in_channels, config.image_size, config.image_size, device=device)
    t = torch.full((batch_size,), 500, device=device)
    classes = getattr(config, "num_classes", None)
    return [x, t] if classes is None else [x, t, torch.zeros_like(t)]


def diffusers_twin(config: DDPMUNetConfig) -> nn.Module:
    """Build diffusers' UNet2DModel with the layers of a ddpm_unet, as google/ddpm-* are published."""
    import diffusers  # here, as it takes seconds, and each contender has a process of its own

    diffusers.logging.set_verbosity_error()
    sizes = [config.image_size >> level for level in range(len(config.channel_mult))]
    attends = ["Attn" if size in config.attention_resolutions else "" for size in sizes]
    return diffusers.UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        block_out_channels=[mult * config.model_channels for mult in config.channel_mult],
        down_block_types=[f"{attn}DownBlock2D" for attn in attends],
        up_block_types=[f"{attn}UpBlock2D" for attn in reversed(attends)],
        layers_per_block=config.num_res_blocks,
        attention_head_dim=None,
        downsample_padding=0,
        freq_shift=1,
        flip_sin_to_cos=False,
        norm_eps=1e-6,
    ).eval()


def randomize(network: nn.Module) -> nn.Module:
    """Fill the weights with noise, the same each time, so that no branch is zero."""
    torch.manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    return network


def count_gflops(config: UNetConfig) -> float:
    """Count the floating-point operations of a call with one image, products and sums apart, in 1e9."""
    network, inputs = build_empty(config).eval(), draw_inputs(config, 1, "meta")
    with torch.device("meta"), torch.inference_mode(), FlopCounterMode(display=False) as counter:
        network(*inputs)
    return counter.get_total_flops() / 1e9


def convolution_gflops() -> float:
    """Return what the lone convolution takes, counted likewise."""
    batch_size, width, *size = CONVOLUTION
    return 2 * batch_size * size[0] * size[1] * width**2 * 9 / 1e9
