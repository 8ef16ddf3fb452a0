"""Of the networks in a file that is taken which was meant, averaged before raw, with a line; else none."""

import logging

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from utils.weights.checkpoint import load_weights, open_checkpoint

ALPHAS = (1 - torch.linspace(1e-4, 0.02, 50, dtype=torch.float64)).cumprod(0)
BETAS = torch.linspace(1e-4, 0.02, 50)


@pytest.fixture
def state():
    torch.manual_seed(0)
    net = nn.ModuleDict(
        {"input": nn.Linear(2, 3), "blocks": nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 1)])}
    )
    return net.state_dict()


@pytest.fixture
def load(tmp_path, state, caplog):
    def load(content):
        torch.save(content, tmp_path / "w.pt")
        caplog.clear()
        with caplog.at_level(logging.INFO):
            return load_weights(tmp_path / "w.pt", {k: t.shape for k, t in state.items()}, None, ALPHAS)

    return load


def zeros(state):
    return {key: torch.zeros_like(tensor) for key, tensor in state.items()}


def below(prefix, state):
    return {f"{prefix}.{key}": tensor for key, tensor in state.items()}


def without_dots(prefix, state):
    return {prefix + key.replace(".", ""): tensor for key, tensor in state.items()}


SCHEDULE = {"betas": BETAS, "alphas_cumprod": ALPHAS.float(), "sqrt_recip_alphas": BETAS, "logvar": BETAS}
COUNTS = {"n_averaged": torch.tensor(7), "num_batches_tracked": torch.tensor(3)}
TRAINER = {
    "step": 9,
    "opt": {"state": {0: {"exp_avg": torch.ones(3, 2)}}, "param_groups": [{"lr": 1e-4}]},
    "scaler": None,
    "version": "1.0",
}


@pytest.mark.parametrize(
    ("wrap", "said"),
    [
        (lambda s: {"ema_state_dict": s, "state_dict": zeros(s)}, "EMA weights under ema_state_dict"),
        (lambda s: {"ema_state_dict": s}, "EMA weights under ema_state_dict"),
        (lambda s: {"model": zeros(s), "ema_model": s}, "EMA weights under ema_model"),
        (lambda s: {"model": zeros(s), "model_ema": s, "epoch": 3}, "EMA weights under model_ema"),
        (lambda s: {"state_dict": zeros(s), "state_dict_ema": s}, "EMA weights under state_dict_ema"),
        (lambda s: {"state_dict": {"model": zeros(s), "ema": s}}, "EMA weights under state_dict.ema"),
        (
            lambda s: {"state_dict": below("model", s), "pytorch-lightning_version": "2"},
            "weights under state_dict.model",
        ),
        (
            lambda s: {"state_dict": {**below("model", zeros(s)), **below("model_ema", s), **SCHEDULE}},
            "EMA weights under state_dict.model_ema",
        ),
        (
            lambda s: {
                "state_dict": {
                    **below("model.diffusion_model", zeros(s)),
                    **without_dots("model_ema.diffusion_model", s),
                    "model_ema.decay": torch.tensor(0.9999),
                    "model_ema.num_updates": torch.tensor(12, dtype=torch.int),
                    "first_stage_model.encoder.weight": torch.ones(3, 3),
                    **SCHEDULE,
                }
            },
            "EMA weights under state_dict.model_ema.diffusion_model",
        ),
        (lambda s: below("diffusion_model", s), "weights under diffusion_model"),
        (lambda s: {"net": s}, "weights under net"),
        (lambda s: {"net_g": below("module", s), "optim": TRAINER["opt"]}, "weights under net_g.module"),
        (lambda s: {"params_ema": s, "params": zeros(s)}, "EMA weights under params_ema"),
        (
            lambda s: {
                **TRAINER,
                "model": {**below("model", zeros(s)), **SCHEDULE},
                "ema": {
                    "initted": torch.tensor(True),
                    "step": torch.tensor(5),
                    **below("online_model.model", zeros(s)),
                    **below("ema_model.model", s),
                    **{f"ema_model.{key}": tensor for key, tensor in SCHEDULE.items()},
                },
            },
            "EMA weights under ema.ema_model.model",
        ),
        (
            lambda s: {"ema": {**below("online_model", zeros(s)), **below("ema_model", s), "step": BETAS[0]}},
            "ema.ema_model",
        ),
        (
            lambda s: {"swa": {**below("module", s), **COUNTS}, "model": zeros(s)},
            "EMA weights under swa.module",
        ),
        (lambda s: {"a": {**below("module", s), **COUNTS}, "b": zeros(s)}, "EMA weights under a.module"),
        (lambda s: {**s, **SCHEDULE, **COUNTS}, None),
        (
            lambda s: {**s, **below("ema", zeros(s))} and {**zeros(s), **below("ema", s)},
            "EMA weights under ema",
        ),
        (lambda s: {"a": {"b": {"c": {"d": s}}}}, "weights under a.b.c.d"),
        (lambda s: {"model": {**s}, "module": s}, "weights under model"),  # equal, so any of them
        (
            lambda s: {"model": s, "ema": {**zeros(s), "more.weight": torch.ones(2, 2)}},
            "took the weights under model; the EMA weights under ema are of another network",
        ),
        (
            lambda s: {"model": s | {"blocks.1.bias": torch.ones(1)}, "ema": {k: s[k] for k in [*s][:-1]}},
            "EMA weights under ema, and what they leave out from model",
        ),
    ],
)
def test_what_was_meant_is_taken_and_named_in_one_line(load, state, caplog, wrap, said):
    loaded = load(wrap(state))
    expected = dict(state)
    if said and "leave out" in said:
        expected["blocks.1.bias"] = torch.ones(1)
    assert list(loaded) == list(expected)
    assert all(torch.equal(loaded[key], tensor) for key, tensor in expected.items())
    assert len(caplog.messages) == (0 if said is None else 1)
    assert said is None or caplog.messages[0].endswith(said)


@pytest.mark.parametrize(
    ("wrap", "names"),
    [
        (lambda s: {**s, **below("module", zeros(s))}, "under the keys without a prefix and module"),
        (lambda s: {"model": s, "net": zeros(s)}, "under model and net"),
        (lambda s: {"ema_0.999": s, "ema_0.9999": zeros(s)}, "under ema_0.999 and ema_0.9999"),
        (
            lambda s: {**below("unet_cond", s), **below("unet_uncond", zeros(s))},
            "under unet_cond and unet_uncond",
        ),
    ],
)
def test_of_several_that_differ_none_is_guessed(load, state, tmp_path, wrap, names):
    with pytest.raises(ValueError, match=rf"several networks that fit the config, {names}.*--part") as caught:
        load(wrap(state))
    part = str(caught.value).rpartition(" ")[2]
    assert open_checkpoint(tmp_path / "w.pt").part(part).fits({k: t.shape for k, t in state.items()})


@pytest.mark.parametrize(
    "wrap",
    [
        lambda s: {**s, "classifier.weight": torch.ones(2, 2)},
        lambda s: {**s, "extra": torch.ones(2)},
        lambda s: {"ema": {key: s[key] for key in [*s][:3]}},
        lambda s: {**{k: s[k] for k in [*s][:3]}, **{f"module.{k}": s[k] for k in [*s][3:]}},
        lambda s: below("model", s) | {"model.head.weight": torch.ones(2, 2)},
    ],
)
def test_what_is_not_exactly_the_network_is_refused(load, state, wrap):
    with pytest.raises(ValueError, match="do not fit the config's network"):
        load(wrap(state))


@pytest.mark.parametrize(
    ("buffers", "message"),
    [
        (
            {"betas": BETAS / 2},
            "its betas are of another schedule than the config's: 50 from 5e-05 to 0.01 in",
        ),
        (
            {"model.betas": BETAS[:40]},
            "40 from 0.0001 .* 50 from 0.0001 to 0.02 by the config; change schedule",
        ),
        ({"alphas_cumprod": ALPHAS.float().flip(0)}, "its alphas_cumprod are of another"),
        ({"betas": BETAS * float("nan")}, "of another schedule"),
    ],
)
def test_another_schedule_in_the_file_is_refused(load, state, buffers, message):
    with pytest.raises(ValueError, match=message):
        load({"state_dict": {**below("model", state), **buffers}})
    for half in (torch.float16, torch.bfloat16):
        load({"state_dict": {**below("model", state), "betas": BETAS.to(half)}})


def test_an_optimizer_is_recognised(load):
    with pytest.raises(ValueError, match="an optimizer's state, not a network's weights; give the file"):
        load(TRAINER["opt"])


def test_deep_wide_and_cyclic_contents_are_gone_through_quickly(load, state):
    row = [{}]
    for _ in range(40):
        row = [{"a": row, "b": row}]
    loop = {"x": row}
    loop["self"] = loop
    assert load({"junk": loop, "rows": [[{}] * 1000] * 1000, "state_dict": state}).keys() == state.keys()


@pytest.mark.parametrize("keys", [["a." * 500_000], [f"ema.{i}" + "." * 190 for i in range(7_000)]])
def test_names_beyond_all_networks_are_refused(load, state, keys):
    with pytest.raises(ValueError, match="has more than 4000 tensors in one dict, or names beyond 120"):
        load({"model": state, "ema": dict.fromkeys(keys, torch.ones(1))})


def test_a_prefix_in_safetensors(tmp_path, state):
    save_file(
        {**below("model", state), "steps": torch.ones(1, dtype=torch.int64)}, tmp_path / "w.safetensors"
    )
    loaded = load_weights(tmp_path / "w.safetensors", {key: t.shape for key, t in state.items()})
    assert torch.equal(loaded["input.bias"], state["input.bias"])
