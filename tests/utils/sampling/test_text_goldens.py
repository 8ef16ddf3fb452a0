"""Networks from text compute what was recorded of diffusers: tests/golden/latent/README.md."""

import json
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("transformers", reason="needs transformers: requirements-text.txt")

from diffusions import DDIM, classifier_free_at_once
from models.text_unet import embed_guidance
from utils.jobs import Launch
from utils.sampling.networks import Network, load_network
from utils.sampling.processes import read_config
from utils.sampling.texts import tell

GOLDEN = Path(__file__).parents[2] / "golden/latent"
CPU = torch.device("cpu")
NAMES = ("sd1", "sd2_v", "sdxl")
CLOSE = {"rtol": 0, "atol": 5e-5}


@cache
def recorded(name: str) -> tuple[dict, dict[str, torch.Tensor], Network]:
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    config = read_config(GOLDEN / name / "model_index.json")
    network = load_network(config, GOLDEN / name, Launch(0, 1, CPU, torch.float32))
    return facts, load_file(GOLDEN / f"{name}.safetensors"), network


def told(name: str) -> tuple[torch.Tensor, ...]:
    """Return what the network is told: row 0 the negative prompt, row 1 the prompt."""
    facts, _, network = recorded(name)
    return tell(network, [facts["negative_prompt"], facts["prompt"]], 1.0, CPU)


@pytest.fixture(autouse=True)
def no_gradients():
    with torch.inference_mode():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_autoencoder_states_and_calls_are_as_recorded(name):
    _, golden, network = recorded(name)
    image = golden["image"] * 2 - 1
    scaling = network.config.autoencoder.scaling
    latent = network.space.encode(image)
    torch.testing.assert_close(latent, golden["vae.mean"] * scaling, **CLOSE)
    decoded = network.space.decode(latent, image.shape[2:])
    torch.testing.assert_close(decoded, golden["vae.decoded_mean"].clamp(-1, 1), **CLOSE)
    states = told(name)
    torch.testing.assert_close(states[0], golden["unet.0.text"], **CLOSE)
    for call in ("0", "last"):
        t = golden[f"unet.{call}.t"].reshape(1).expand(2)
        out = network.module(golden[f"unet.{call}.sample"], t, *states)
        torch.testing.assert_close(out, golden[f"unet.{call}.out"], **CLOSE)


def decode_from_theirs(name: str, first: int, last: int) -> torch.Tensor:
    """Return the picture of our DDIM on their noise, prompt, scale and levels, in [0, 1].

    Args:
        name: Of what was recorded.
        first: Timestep of level 1, below theirs, or theirs.
        last: Level that is the image.
    """
    facts, golden, network = recorded(name)
    theirs = [int(t) for t in golden["timesteps"].flip(0)]
    timesteps = [first, *theirs] if first < theirs[0] else theirs
    process = DDIM(network.trained.schedule, timesteps, network.trained.prediction, clip_denoised=False)
    towards_first = tuple(part.flip(0) for part in told(name))
    both = network.model(towards_first)
    guided = classifier_free_at_once(both, facts["guidance_scale"])
    x = process.diffuse(golden["z0_sampled"], process.num_steps, golden["start_noise"])
    for level in range(process.num_steps, last, -1):
        x = process.step(guided, x, level, level - 1)
    return network.space.decode(x, golden["image"].shape[2:]) / 2 + 0.5


@pytest.mark.parametrize("name", ["sd1", "sd2_v"])
def test_our_ddim_gives_their_picture_on_their_levels(name):
    final = recorded(name)[1]["final"]
    theirs = decode_from_theirs(name, first=0, last=1)  # which ends at the noise of timestep 0
    assert (theirs - final).abs().max() < 0.01 / 255
    ours = decode_from_theirs(name, first=1, last=0)  # which ends at the image itself
    assert 1 / 255 < (ours - final).abs().max() < 2 / 255


def test_our_ddim_gives_the_picture_of_their_euler():
    final = recorded("sdxl")[1]["final"]
    assert (decode_from_theirs("sdxl", first=1, last=0) - final).abs().max() < 0.01 / 255


def test_their_strength_depends_on_the_number_of_steps_and_ours_does_not():
    """0.6 of 10 steps with an offset of 1 begins at timestep 501; t0 0.6 is timestep 599 of any number."""
    _, golden, network = recorded("sd1")
    assert int(golden["timesteps"][0]) == 501
    for num_steps in (10, 25, 50):
        timesteps = range(1000 // num_steps - 1, 1000, 1000 // num_steps)
        process = DDIM(network.trained.schedule, timesteps)
        assert process.timesteps[process.level_at(0.6) - 1] == 599


def test_zeros_stand_for_no_prompt_at_all_where_the_folder_says_so():
    facts, _, network = recorded("sdxl")
    assert facts["negative_prompt"] is not None
    none, empty = (tell(network, [text], 1.0, CPU) for text in (None, ""))
    assert all(not part.any() for part in none)
    assert all(part.any() for part in empty)
    _, _, network = recorded("sd1")
    assert torch.equal(*(tell(network, [text], 1.0, CPU)[0] for text in (None, "")))


def test_the_embedding_of_guidance_is_that_of_latent_consistency_models():
    """As LatentConsistencyModelPipeline.get_guidance_scale_embedding forms it."""
    from diffusers import LatentConsistencyModelPipeline

    scales = torch.tensor([1.0, 4.0, 8.5])
    wanted = LatentConsistencyModelPipeline.get_guidance_scale_embedding(None, scales - 1, embedding_dim=32)
    torch.testing.assert_close(embed_guidance(scales, 32), wanted, rtol=0, atol=2e-3)  # of sines of 7500
