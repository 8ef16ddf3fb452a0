"""Networks, what surrounds them and samplers together, in float64, against whole runs of the programs."""

import dataclasses
import json

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from diffusions import (
    DDPM,
    Consistency,
    Heun,
    classifier_free,
    karras_sigmas,
    make_karras_schedule,
    match_timesteps,
    precondition,
)
from diffusions.process import Process
from tests.models.golden_nets import FOLDER, adm_config, edm2_config, load, song_config

SAMPLERS = FOLDER.parent / "samplers"
EDM = {
    "ddpmpp_edm8": ("edm_ddpmpp_uncond", "edm"),
    "ncsnpp_edm5": ("edm_ncsnpp", "edm"),
    "ddpmpp_vp6": ("edm_ddpmpp_uncond", "vp"),
    "ncsnpp_ve5": ("edm_ncsnpp", "ve"),
}


def read(family: str, case: str) -> tuple[dict, dict[str, Tensor]]:
    facts = json.loads((SAMPLERS / f"{family}.json").read_text())["cases"][case]
    tensors = load_file(SAMPLERS / f"{family}.safetensors")
    own = {key.removeprefix(f"{case}/"): x for key, x in tensors.items() if key.startswith(f"{case}/")}
    return facts, {**own, **{key: x for key, x in tensors.items() if "/" not in key}}


def built(case: str, to_config) -> torch.nn.Module:
    net = load(case)
    return net.build(to_config(next(iter(net.configs.values())))).double()


def sample(process: Process, model, x: Tensor, noises: list[Tensor] = ()) -> Tensor:
    drawn = iter(noises)
    step = process.start(model, lambda: next(drawn).double())
    with torch.no_grad():
        for level in range(process.num_steps, 0, -1):
            x = step(x, level, level - 1)
    return x


def karras(sampler: type[Process], num_steps: int, low: float = 0.002, clips: bool = False) -> Process:
    schedule = make_karras_schedule(low, 80.0, 1000)
    timesteps = match_timesteps(schedule, karras_sigmas(low, 80.0, num_steps))
    return sampler(schedule, timesteps, "x0", clip_denoised=clips)


def assert_near(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() < 1e-9 * expected.abs().max()


@pytest.mark.parametrize("case", EDM)
def test_edm(case):
    network, name = EDM[case]
    facts, golden = read("edm_net", case)
    model = precondition(built(network, song_config), name, 0.002)
    # the program clamps the grid to what the class around the network says of itself
    process = karras(Heun, facts["args"]["num_steps"], 0.02 if name == "ve" else 0.002)
    assert_near(sample(process, model, golden["z"].double() * 80), golden["final.f64"])


@pytest.mark.parametrize("case", ["plain6", "guided6"])
def test_edm2_and_its_guidance_by_another_network(case):
    facts, golden = read("edm2", case)
    labels = torch.tensor(facts["labels"])
    network, away = built("edm2_cond", edm2_config), built("edm2_uncond", edm2_config)
    model = precondition(lambda x, t: network(x, t, labels), "edm", 0.002)
    if "guidance" in facts["args"]:
        model = classifier_free(model, precondition(away, "edm", 0.002), facts["args"]["guidance"])
    assert_near(sample(karras(Heun, 6), model, golden["z"].double() * 80), golden["final.f64"])


@pytest.mark.parametrize("case", ["onestep", "multistep_0_22_39", "heun6", "ancestral5"])
def test_consistency_models(case):
    """Their programs clip; of their noise, the first is the start."""
    facts, golden = read("consistency_net", case)
    net, labels = load("cm_imagenet64_like"), torch.tensor(facts["y"])
    reads = {"use_conv2d_attention": True, "use_new_attention_order": True}
    config = dataclasses.replace(adm_config(next(iter(net.configs.values()))), **reads)
    network = net.build(config).double()
    name = "consistency" if facts["distillation"] else "edm_250"
    model = precondition(lambda x, t: network(x, t, labels), name, 0.002)
    if facts["distillation"]:
        kept = [39 - t for t in reversed((facts["ts"] or [0, 39])[:-1])]
        process = Consistency(make_karras_schedule(0.002, 80.0, facts["steps"]), kept)
    else:
        process = karras({"heun": Heun, "ancestral": DDPM}[facts["sampler"]], facts["steps"], clips=True)
    first, *noises = golden["noise"]
    found = sample(process, model, first.double() * 80, noises)
    assert_near(found.clamp(-1, 1), golden["final.f64"])
