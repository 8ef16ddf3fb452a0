"""The numbers that networks must give, against diffusers itself on random weights of small networks."""

import json

import pytest
import torch
from diffusers import DDPMScheduler, ScoreSdeVeScheduler

from tests.utils.weights.test_diffusers_folder import DDPM, NCSNPP, network_of
from tools import check_published
from utils.sources import read_registry


@pytest.fixture(params=["ddpm", "ncsnpp"])
def folder(request, tmp_path, monkeypatch):
    """A folder that diffusers saved, called as a published network whose numbers are known."""
    facts, scheduler = {"ddpm": (DDPM, DDPMScheduler()), "ncsnpp": (NCSNPP, ScoreSdeVeScheduler())}[
        request.param
    ]
    path = tmp_path / "tiny-16"
    network = network_of(facts)
    network.save_pretrained(path)
    scheduler.save_pretrained(path)
    noise = torch.randn(1, 3, 16, 16, generator=torch.manual_seed(0))
    with torch.no_grad():
        numbers = network(noise, torch.tensor([10])).sample[0, 0, 0, :30].tolist()
    monkeypatch.setattr(check_published, "PUBLISHED", tmp_path / "published.json")

    def publish(change: float) -> None:
        values = {"google/tiny-16": [numbers[0] + change, *numbers[1:]], "google/other": numbers}
        check_published.PUBLISHED.write_text(json.dumps({"values": values}))

    publish(0)
    return path, publish


def test_a_network_that_gives_them(folder, capsys):
    assert check_published.main([str(folder[0])]) == 0
    line, last = capsys.readouterr().out.splitlines()
    assert float(line.partition("at most ")[2].split()[0]) < 2e-5
    assert last == "1 of 1 networks within 0.001"


def test_a_network_that_does_not(folder, capsys):
    folder[1](0.002)
    assert check_published.main([str(folder[0])]) == 3
    assert "at most 2.0e-03 from the 16 numbers of google/tiny-16" in capsys.readouterr().out


def test_what_is_not_known_is_said(folder, capsys):
    with pytest.raises(SystemExit, match="2"):
        check_published.main(["fruits64"])
    assert "fruits64: no numbers are known of it, but of google/tiny-16" in capsys.readouterr().err


def test_the_published_numbers_are_those_of_registered_networks():
    published = check_published.read_published()
    assert len(published) == 10
    assert published.keys() <= read_registry().keys()
    assert {len(numbers) for numbers in published.values()} == {30}
