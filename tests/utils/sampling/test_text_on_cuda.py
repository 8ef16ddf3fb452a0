"""Networks from text on a GPU that is not there: devices and types are not mixed, nothing is read back."""

from pathlib import Path

import pytest
import torch

pytest.importorskip("transformers", reason="needs transformers: requirements-text.txt")

from models import build_empty
from models.precision import cast_network
from tests.fake_cuda import CUDA, READ, Log, fake_cuda, with_values
from utils.images import Prompt
from utils.jobs import Launch
from utils.sampling import networks
from utils.sampling.networks import Network
from utils.sampling.processes import read_config, read_trained
from utils.sampling.spaces import LatentSpace
from utils.sampling.texts import TextGuidance
from utils.settings import Edit

GOLDEN = Path(__file__).parents[2] / "golden/latent"


class Told:
    """A reader of texts whose states have no values."""

    def __init__(self, *shapes: tuple[int, ...]):
        self.shapes = shapes

    def read(self, texts):
        return [tuple(torch.empty(shape, device="cpu") for shape in self.shapes) for _ in texts]

    def has_read(self, texts) -> bool:
        return False


TOLD = {"sd1": ((16, 32),), "sdxl": ((16, 64), (32,))}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", TOLD)
def test_an_edit_stays_on_its_device_in_each_precision(name, dtype):
    config, log = read_config(GOLDEN / name / "model_index.json"), Log()
    trained = with_values(read_trained)(config)
    with fake_cuda(log):
        parts = [build_empty(part).to_empty(device=CUDA) for part in (config.model, config.autoencoder)]
        unet = cast_network(parts[0], dtype)
        autoencoder = cast_network(parts[1], torch.float32 if dtype == torch.float16 else dtype)
        network = Network(config, unet, trained, space=LatentSpace(autoencoder), reader=Told(*TOLD[name]))
        edit = Edit(t0=(0.5,), guidance_scale=7.5, negative_prompt="blue")
        guidance = TextGuidance(edit, networks.Chosen(None), config, [Prompt("red")])
        bound = guidance.load(network, Launch(0, 1, CUDA, dtype)).bind([Prompt("red")] * 2)
        images = torch.zeros(2, 3, 35, 33, device=CUDA)
        latents = network.space.encode(images)
        assert latents.shape == (2, 4, 18, 17)
        log.events.clear()
        predicted = bound.guided.at(1.0)(latents, torch.full((2,), 500, device=CUDA))
        made = network.space.decode(predicted, images.shape[2:])
        assert (made.shape, made.device, made.dtype) == (images.shape, CUDA, torch.float32)
        assert not [event for _, event in log.events if event == READ]
