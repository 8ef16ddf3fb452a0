"""The ADM networks against openai's own, element by element."""

import dataclasses

import pytest
import torch

from diffusions import precondition
from models import build_model
from models.layers import GroupNorm
from tests.models.golden_nets import adm_config, edm_adm_config, load
from utils.weights.edm_keys import to_adm
from utils.weights.tensor_file import Stored

UNETS = [
    "adm_attention_variants",
    "adm_classcond_learnsigma",
    "adm_half_mult",
    "adm_plain_tworates",
    "adm_resblock_updown",
    "adm_ssn_conv_resample_false",
]
CLASSIFIERS = ["adm_classifier_adaptive", "adm_classifier_attnpool"]


@pytest.mark.parametrize("case", UNETS + CLASSIFIERS)
def test_outputs_are_the_recorded_ones(case):
    net = load(case)
    assert net.largest_error(adm_config, torch.float32, "f32") < 2e-5  # measured at most 5e-6
    assert net.largest_error(adm_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 1e-14


@pytest.mark.parametrize("case", ["edm_adm", "edm_adm_iddpm"])
def test_the_adm_of_nvlabs_is_this_one(case, monkeypatch):
    """Told c_noise, with NVlabs' weights by openai's names.

    The recorded networks are smaller than the published ones: at least four channels a group, which is
    true of those by their widths, and no attention below 64 channels.
    """
    monkeypatch.setattr("models.adm.GroupNorm", lambda groups, channels: GroupNorm(channels // 4, channels))
    if case == "edm_adm_iddpm":
        monkeypatch.setattr("models.adm.Encoder.attention", torch.nn.Identity)
    net = load(case)
    named = {key: Stored(tensor.shape, lambda tensor=tensor: tensor) for key, tensor in net.weights.items()}
    weights = {key: stored.read() for key, stored in to_adm(named).items()}
    net = dataclasses.replace(net, weights=weights)
    assert net.largest_error(edm_adm_config, torch.float64, "f64_emb64") < 1e-9  # measured at most 1e-14
    assert net.largest_error(edm_adm_config, torch.float32, "f64_emb64") < 2e-5  # measured at most 5e-6


@pytest.mark.parametrize("case", CLASSIFIERS)
@pytest.mark.parametrize(("dtype", "recorded"), [(torch.float32, "f32"), (torch.float64, "f64")])
def test_classifier_gradients_are_the_recorded_ones(case, dtype, recorded):
    net = load(case)
    for variant, raw in net.configs.items():
        network = net.build(adm_config(raw)).to(dtype).requires_grad_(False)
        for i in range(net.num_inputs):
            x, t = net.inputs(i, dtype)
            x.requires_grad_(True)
            log_probs = network(x, t).log_softmax(dim=1)
            (gradient,) = torch.autograd.grad(
                log_probs.gather(1, net.tensors[f"in{i}.label"][:, None]).sum(), x
            )
            expected = net.tensors[f"out.{variant}.{i}.grad_{recorded}"]
            torch.testing.assert_close(gradient, expected, rtol=0, atol=2e-6)


def test_missing_surplus_and_misfit_inputs_are_refused():
    with_classes = load("adm_classcond_learnsigma")
    without = load("adm_plain_tworates")
    x, t, y = with_classes.inputs(0, torch.float32)
    conditional = with_classes.build(adm_config(with_classes.configs["a"]))
    unconditional = without.build(adm_config(without.configs["a"]))
    with pytest.raises(ValueError, match=r"needs a class in 0\.\.6, got y = None"):
        conditional(x, t)
    with pytest.raises(ValueError, match="has no classes"):
        unconditional(x, t, y)
    with pytest.raises(
        ValueError, match="8x7: this network takes heights and widths that are multiples of 2"
    ):
        unconditional(x[..., :7], t)


def test_unknown_pools_are_refused():
    config = adm_config(load("adm_classifier_attnpool").configs["a"])
    with pytest.raises(ValueError, match="'spatial': allowed are 'attention' and 'adaptive'"):
        build_model(dataclasses.replace(config, pool="spatial"))
    with pytest.raises(ValueError, match="needs num_head_channels"):
        build_model(dataclasses.replace(config, num_head_channels=None))


@pytest.mark.parametrize("case", ["cm_imagenet64_like", "cm_lsun256_like"])
@pytest.mark.parametrize("variant", ["edm", "boundary"])
@pytest.mark.parametrize(("dtype", "recorded"), [(torch.float32, "f32"), (torch.float64, "f64_emb64")])
def test_networks_of_consistency_models(case, variant, dtype, recorded):
    """What the network gives, F, and the image that follows, D; D is the only one recorded of "boundary"."""
    net = load(case)
    reads = {"use_conv2d_attention": True, "use_new_attention_order": True}  # whatever their flag says
    config = dataclasses.replace(adm_config(net.configs[variant]), **reads)
    network = net.build(config).to(dtype)
    name = {"edm": "edm_250", "boundary": "consistency"}[variant]
    for i in range(net.num_inputs):
        x, sigma, *y = net.inputs(i, dtype)
        with torch.no_grad():
            asked = []

            def network_of_y(x, told, y=y, asked=asked):
                asked.append(network(x, told, *y))
                return asked[-1]

            image = precondition(network_of_y, name, 0.002)(x, sigma.to(dtype))
        for output, kind in zip((asked[0], image), "FD", strict=True):
            expected = net.tensors.get(f"out.{variant}.{i}.{kind}.{recorded}")
            if expected is not None:
                bound = (1e-9 if dtype == torch.float64 else 5e-5) * max(1.0, float(expected.abs().max()))
                torch.testing.assert_close(output, expected, rtol=0, atol=bound)
