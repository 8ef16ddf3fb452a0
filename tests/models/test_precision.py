"""What cast_network casts, what it leaves, and how close the result stays to float32."""

import pytest
import torch
from torch import Tensor

from models import build_model
from models.precision import cast_network
from tests.models.golden_nets import (
    GoldenNet,
    adm_config,
    ddpm_config,
    edm2_config,
    load,
    lucidrains_config,
    ncsnpp_config,
    song_config,
    xyf_config,
)

CASES = {
    "adm_classcond_learnsigma": adm_config,
    "adm_classifier_attnpool": adm_config,
    "lucidrains_base": lucidrains_config,
    "edm2_cond": edm2_config,
    "edm_ddpmpp_cond": song_config,
    "edm_ncsnpp": song_config,
    "ncsnpp_church_family": ncsnpp_config,
    "ncsnpp_cifar_family": ncsnpp_config,
    "pesser_base": ddpm_config,
    "xyf_unet": xyf_config,
    "xyf_adagn_updown": xyf_config,
}
FLOAT32_KEYS = {
    "adm_classcond_learnsigma": (
        "time_embed.",
        "label_emb.",
        "out.",
        ".in_layers.0.",
        ".out_layers.0.",
        ".norm.",
    ),
    "adm_classifier_attnpool": ("time_embed.", "out.", ".in_layers.0.", ".out_layers.0.", ".norm."),
    "lucidrains_base": ("time_mlp.", "final_conv.", ".g", ".mem_kv"),
    "edm2_cond": ("emb_noise.", "emb_label.", "out_", ".emb_gain"),
    "edm_ddpmpp_cond": ("map_", ".norm0.", ".norm1.", ".norm2.", "dec.16x16_aux_"),
    "edm_ncsnpp": ("map_", ".norm0.", ".norm1.", ".norm2.", "dec.16x16_aux_"),
    "ncsnpp_church_family": (
        *(f"all_modules.{i}." for i in (0, 1, 2, 17, 18, 23, 24, 28, 29)),
        ".GroupNorm_",
        ".NIN_",
    ),
    "ncsnpp_cifar_family": (*(f"all_modules.{i}." for i in (0, 1, 2, 23, 24)), ".GroupNorm_", ".NIN_"),
    "pesser_base": ("temb.", "norm_out.", "conv_out.", ".norm1.", ".norm2.", ".norm."),
    "xyf_unet": ("time_embed.", "last_conv.", ".blk1.0.", ".blk2.0.", ".norm."),
    "xyf_adagn_updown": ("time_embed.", "class_embed.", "last_conv.", ".blk1.0.", ".gn.", ".norm."),
}


@pytest.fixture(params=CASES)
def case(request) -> str:
    return request.param


@pytest.fixture
def net(case) -> GoldenNet:
    return load(case)


def build(case: str, net: GoldenNet, dtype: torch.dtype) -> torch.nn.Module:
    return cast_network(net.build(CASES[case](next(iter(net.configs.values())))), dtype)


def relative_error(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm())


@pytest.mark.parametrize(
    ("dtype", "bound"), [(torch.bfloat16, 0.03), (torch.float16, 0.004)]
)  # measured 0.023, 0.003
def test_low_precision_stays_close_and_returns_float32(case, net, dtype, bound):
    variant = next(iter(net.configs))
    network = build(case, net, dtype)
    for i in range(net.num_inputs):
        with torch.no_grad():
            out = network(*net.inputs(i, torch.float32))
        assert out.dtype == torch.float32
        assert relative_error(out, net.tensors[f"out.{variant}.{i}.f64_emb64"]) < bound


def test_float32_keeps_the_recorded_outputs(case, net):
    variant = next(iter(net.configs))
    network = build(case, net, torch.float32)
    for i in range(net.num_inputs):
        with torch.no_grad():
            out = network(*net.inputs(i, torch.float32))
        assert net.error(out, variant, i, "f64_emb64") < 2e-5


def test_norms_embeddings_and_output_heads_stay_in_float32(case, net):
    network = build(case, net, torch.bfloat16)
    for key, parameter in network.named_parameters():
        kept = any(key.startswith(part) if part[0] != "." else part in key for part in FLOAT32_KEYS[case])
        assert parameter.dtype == (torch.float32 if kept else torch.bfloat16), key
        assert not parameter.requires_grad, key
        if parameter.dim() == 4:
            assert parameter.is_contiguous(memory_format=torch.channels_last), key
    assert not network.training


def test_in_place_activations_change_neither_inputs_nor_results(case, net):
    network = build(case, net, torch.float32)
    inputs = net.inputs(0, torch.float32)
    before = inputs[0].clone()
    with_gradients = network(*inputs)
    with torch.no_grad():
        without_gradients = network(*inputs)
        again = network(*inputs)
    assert torch.equal(inputs[0], before)
    assert torch.equal(without_gradients, with_gradients)
    assert torch.equal(without_gradients, again)


@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.1), (torch.float16, 0.015)])
def test_classifier_gradients_survive_low_precision(dtype, bound):
    net = load("adm_classifier_attnpool")
    network = build("adm_classifier_attnpool", net, dtype)
    for i in range(net.num_inputs):
        x, t = net.inputs(i, torch.float32)
        x.requires_grad_(True)
        log_probs = network(x, t).log_softmax(dim=1)
        (gradient,) = torch.autograd.grad(log_probs.gather(1, net.tensors[f"in{i}.label"][:, None]).sum(), x)
        assert gradient.dtype == torch.float32
        assert relative_error(gradient, net.tensors[f"out.a.{i}.grad_f64"]) < bound  # measured 0.07 and 0.009


def test_other_dtypes_are_refused():
    net = load("pesser_base")
    with pytest.raises(
        ValueError, match=r"torch.float64: allowed are torch.float32, torch.bfloat16, torch.float16"
    ):
        build("pesser_base", net, torch.float64)


def test_weights_are_aligned_wherever_a_file_held_them(case, net):
    with torch.device("meta"):
        network = build_model(CASES[case](next(iter(net.configs.values()))))
    shifted = {key: torch.cat([tensor.new_empty(1), tensor.flatten()]) for key, tensor in net.weights.items()}
    state = {key: shifted[key][1:].view(tensor.shape) for key, tensor in net.weights.items()}
    network.load_state_dict(state, assign=True)
    assert any(parameter.data_ptr() % 64 for parameter in network.parameters())
    values = {name: parameter.clone() for name, parameter in network.named_parameters()}
    cast_network(network, torch.float32)
    for name, parameter in network.named_parameters():
        assert parameter.data_ptr() % 64 == 0
        if case != "edm2_cond":  # whose weights are normalized
            assert parameter.shape != values[name].shape or torch.equal(parameter, values[name])
