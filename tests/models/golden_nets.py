"""Reads the recorded tiny networks of tests/golden/unet."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from models import build_model
from models.adm import ADMClassifierConfig, ADMConfig
from models.ddpm_unet import DDPMUNetConfig
from models.edm2_unet import EDM2UNetConfig
from models.lucidrains_unet import LucidrainsUNetConfig
from models.ncsnpp import NCSNPPConfig
from models.song_unet import SongUNetConfig
from models.xyf_unet import XyfAdaGNUNetConfig, XyfUNetConfig

FOLDER = Path(__file__).resolve().parents[1] / "golden" / "unet"


@dataclass(frozen=True)
class GoldenNet:
    """One recorded network: shared weights, inputs, and the outputs of each variant."""

    configs: dict[str, dict[str, Any]]
    """The reference program's own arguments, by variant."""
    weights: dict[str, Tensor]
    tensors: dict[str, Tensor]
    num_inputs: int

    def inputs(self, i: int, dtype: torch.dtype) -> list[Tensor]:
        """Return x, t or sigma and, where there is one, y."""
        names = [f"in{i}.{name}" for name in ("t", "sigma", "y")]
        return [self.tensors[f"in{i}.x"].to(dtype)] + [self.tensors[n] for n in names if n in self.tensors]

    def build(self, config: Any) -> nn.Module:
        """Build on the meta device and load strictly, as the commands do."""
        with torch.device("meta"):
            network = build_model(config)
        network.load_state_dict({k: v.clone() for k, v in self.weights.items()}, strict=True, assign=True)
        return network.eval()

    def largest_error(self, to_config: Callable[[dict], Any], dtype: torch.dtype, recorded: str) -> float:
        """Return the largest difference from the recorded outputs, over variants and inputs."""
        errors = []
        for variant, raw in self.configs.items():
            network = self.build(to_config(raw)).to(dtype)
            for i in range(self.num_inputs):
                with torch.no_grad():
                    out = network(*self.inputs(i, dtype))
                assert out.dtype == dtype
                errors.append(self.error(out, variant, i, recorded))
        return max(errors)

    def error(self, out: Tensor, variant: str, i: int, recorded: str) -> float:
        """Return the largest difference from a recorded output, before any division by sigma."""
        expected = self.tensors[f"out.{variant}.{i}.{recorded}"]
        assert out.shape == expected.shape
        difference = out - expected
        if self.configs[variant].get("scale_by_sigma"):
            difference = difference * self.tensors[f"in{i}.sigma"][:, None, None, None]
        return float(difference.abs().max())


def load(case: str) -> GoldenNet:
    """Read one case, by its file name without suffix."""
    facts = json.loads((FOLDER / f"{case}.json").read_text())
    tensors = load_file(FOLDER / f"{case}.safetensors")
    weights = {
        name.removeprefix("weights."): tensor.float() * facts["int8_weight_scale"]
        if tensor.dtype == torch.int8
        else tensor
        for name, tensor in tensors.items()
        if name.startswith("weights.")
    }
    configs = {name: variant["config"] for name, variant in facts["variants"].items()}
    return GoldenNet(configs, weights, tensors, len(facts["inputs"]))


def adm_config(raw: dict) -> ADMConfig | ADMClassifierConfig:
    """Translate openai's arguments: rates to pixels, -1 to None."""
    values = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    values.pop("use_fp16", None)
    values["attention_resolutions"] = tuple(
        raw["image_size"] // rate for rate in raw["attention_resolutions"]
    )
    for key in ("num_head_channels", "num_heads_upsample"):
        values[key] = None if values[key] == -1 else values[key]
    if "pool" not in raw:
        return ADMConfig(**values)
    del values["num_heads_upsample"]
    return ADMClassifierConfig(**values)


def ddpm_config(raw: dict) -> DDPMUNetConfig:
    """Translate pesser's arguments."""
    return DDPMUNetConfig(
        image_size=raw["resolution"],
        in_channels=raw["in_channels"],
        out_channels=raw["out_ch"],
        model_channels=raw["ch"],
        channel_mult=tuple(raw["ch_mult"]),
        num_res_blocks=raw["num_res_blocks"],
        attention_resolutions=tuple(raw["attn_resolutions"]),
        dropout=raw["dropout"],
        conv_resample=raw["resamp_with_conv"],
    )


def lucidrains_config(raw: dict) -> LucidrainsUNetConfig:
    """Translate lucidrains' arguments: one flag a level to pixels, by default the last alone."""
    size, num_levels = raw["image_size"], len(raw["dim_mults"])
    full = raw.get("full_attn", [False] * (num_levels - 1) + [True])
    channels = raw.get("channels", 3)
    return LucidrainsUNetConfig(
        image_size=size,
        in_channels=channels,
        out_channels=channels * (2 if raw.get("learned_variance") else 1),
        model_channels=raw["dim"],
        init_channels=raw.get("init_dim"),
        channel_mult=tuple(raw["dim_mults"]),
        attention_resolutions=tuple(size >> i for i, on in enumerate(full) if on),
        num_heads=raw.get("attn_heads", 4),
        num_head_channels=raw.get("attn_dim_head", 32),
        fourier_features=raw.get("learned_sinusoidal_dim"),
    )


def ncsnpp_config(raw: dict) -> NCSNPPConfig:
    """Translate score_sde's arguments, all of a config's data and model sections in one."""
    assert (raw["resblock_type"], raw["progressive_combine"]) == ("biggan", "sum")
    assert (raw["embedding_type"], raw["fir_kernel"]) == ("fourier", [1, 3, 3, 1])
    return NCSNPPConfig(
        image_size=raw["image_size"],
        in_channels=raw["num_channels"],
        out_channels=raw["num_channels"],
        model_channels=raw["nf"],
        channel_mult=tuple(raw["ch_mult"]),
        num_res_blocks=raw["num_res_blocks"],
        attention_resolutions=tuple(raw["attn_resolutions"]),
        dropout=raw["dropout"],
        progressive=raw["progressive"],
        progressive_input=raw["progressive_input"],
        fir=raw["fir"],
        skip_rescale=raw["skip_rescale"],
        centered=raw["centered"],
        scale_by_sigma=raw["scale_by_sigma"],
        num_scales=raw["num_scales"],
    )


def _of_edm(raw: dict) -> dict[str, Any]:
    return {
        "image_size": raw["img_resolution"],
        "in_channels": raw["img_channels"],
        "out_channels": raw["img_channels"],
        "model_channels": raw["model_channels"],
        "channel_mult": tuple(raw["channel_mult"]),
        "num_res_blocks": raw["num_blocks"],
        "attention_resolutions": tuple(raw["attn_resolutions"]),
        "dropout": raw["dropout"],
        "num_classes": raw["label_dim"] or None,
    }


def song_config(raw: dict) -> SongUNetConfig:
    """Translate NVlabs' arguments of a SongUNet."""
    assert raw["model_type"] == "SongUNet"
    return SongUNetConfig(
        **_of_edm(raw),
        embedding=raw["embedding_type"],
        channel_mult_noise=raw["channel_mult_noise"],
        resample_filter=tuple(raw["resample_filter"]),
        encoder_type=raw["encoder_type"],
        decoder_type=raw["decoder_type"],
        augment_dim=raw.get("augment_dim", 0),
    )


def edm2_config(raw: dict) -> EDM2UNetConfig:
    """Translate NVlabs' arguments of a network of EDM2."""
    return EDM2UNetConfig(
        **_of_edm(raw),
        num_head_channels=raw["channels_per_head"],
        channel_mult_noise=raw.get("channel_mult_noise"),
        channel_mult_emb=raw.get("channel_mult_emb"),
    )


def edm_adm_config(raw: dict) -> ADMConfig:
    """Translate NVlabs' arguments of a DhariwalUNet; with iDDPM around it, it learned its variance."""
    assert raw["model_type"] == "DhariwalUNet"
    fields = _of_edm(raw)
    fields["out_channels"] *= 2 if raw["precond"] == "iDDPMPrecond" else 1
    return ADMConfig(
        **fields,
        num_head_channels=64,
        resblock_updown=True,
        use_scale_shift_norm=True,
        use_new_attention_order=True,
        label_optional=True,
    )


def xyf_config(raw: dict, image_size: int = 8) -> XyfUNetConfig | XyfAdaGNUNetConfig:
    """Translate xyfJASON's arguments: one flag a level to pixels."""
    shared = {
        "image_size": image_size,
        "in_channels": raw["in_channels"],
        "out_channels": raw["out_channels"],
        "model_channels": raw["dim"],
        "channel_mult": tuple(raw["dim_mults"]),
        "num_res_blocks": raw["num_res_blocks"],
        "attention_resolutions": tuple(image_size >> i for i, on in enumerate(raw["use_attn"]) if on),
        "dropout": raw["dropout"],
    }
    if "num_classes" not in raw:
        return XyfUNetConfig(**shared, num_heads=raw["n_heads"])
    assert raw["resblock_updown"]
    return XyfAdaGNUNetConfig(
        **shared, num_classes=raw["num_classes"], num_head_channels=raw["attn_head_dims"]
    )
