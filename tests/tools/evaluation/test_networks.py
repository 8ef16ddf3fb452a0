"""The networks that judge pictures: whose weights they take, and where these come from."""

import pytest
import torch

from tools.evaluation import networks


def test_lpips_takes_the_weights_that_torchvision_publishes(tmp_path):
    pytest.importorskip("torchmetrics", reason="needs requirements-eval.txt")
    torchvision = pytest.importorskip("torchvision")
    torch.manual_seed(0)
    layers = torchvision.models.alexnet(weights=None).features
    torch.save({f"features.{key}": value for key, value in layers.state_dict().items()}, tmp_path / "w.pth")
    seen = networks.load_lpips("alex", tmp_path / "w.pth").net(x := torch.randn(1, 3, 64, 64))
    assert torch.allclose(seen[0], layers[:2](x))
    assert torch.allclose(seen[-1], layers[:12](x))
    torch.save({}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="not the weights of AlexNet"):
        networks.load_lpips("alex", tmp_path / "w.pth")


def test_weights_are_fetched_when_asked_and_checked(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(torch.hub, "download_url_to_file", lambda *given: asked.append(given))
    path = networks.find("alex", tmp_path / "own", download=True)
    assert asked == [("https://download.pytorch.org/models/alexnet-owt-7be5be79.pth", str(path), "7be5be79")]
