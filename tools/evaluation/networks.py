"""Networks that judge pictures, from local weights: LPIPS by torchmetrics, Inception by torch-fidelity."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tools.demo import judge

LAYERS = ("64", "192", "768", "2048")
_RELEASES = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
_PACKAGES = "is not installed; pip install -r requirements-eval.txt"


@dataclass(frozen=True)
class Weights:
    """A published file of weights."""

    of: str
    file: str
    """Its name, which ends in the first digits of its SHA-256."""
    site: str


PUBLISHED = {
    "alex": Weights("AlexNet", "alexnet-owt-7be5be79.pth", "https://download.pytorch.org/models/"),
    "vgg": Weights("VGG16", "vgg16-397923af.pth", "https://download.pytorch.org/models/"),
    "squeeze": Weights("SqueezeNet", "squeezenet1_1-b8a52dc0.pth", "https://download.pytorch.org/models/"),
    "inception": Weights("Inception v3", "weights-inception-2015-12-05-6726825d.pth", _RELEASES),
}


def find(name: str, folder: Path | None, download: bool) -> Path:
    """Find a file of weights, in a folder or where torch keeps what it downloads.

    Args:
        name: Of the network, as in `PUBLISHED`.
        folder: Looked into first.
        download: Fetch it where it is missing, into the folder or else to torch's.

    Raises:
        ValueError: It is missing; the text says what to put where.
        OSError: It cannot be fetched.
    """
    weights = PUBLISHED[name]
    places = [*([folder] if folder else []), Path(torch.hub.get_dir(), "checkpoints")]
    for place in places:
        if (place / weights.file).is_file():
            return place / weights.file
    if not download:
        looked = " or ".join(map(str, places))
        raise ValueError(
            f"the weights of {weights.of} are missing: put {weights.site}{weights.file} into {looked}, "
            "or add --download"
        )
    places[0].mkdir(parents=True, exist_ok=True)
    digits = re.search(r"-([0-9a-f]{8})\.pth$", weights.file)[1]
    torch.hub.download_url_to_file(weights.site + weights.file, str(places[0] / weights.file), digits)
    return places[0] / weights.file


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a broken file
        raise ValueError(f"{path}: not a file of tensors alone, or a broken one; download it again") from None
    if not isinstance(state, dict):
        raise ValueError(f"{path}: holds no state dict; download it again")
    return state


def load_lpips(net: str, path: Path) -> nn.Module:
    """Return LPIPS: pictures in [-1, 1], twice [B, 3, H, W] -> distances [B, 1, 1, 1].

    Args:
        net: alex, vgg or squeeze.
        path: Weights of that network, as torchvision publishes them; the linear layers on top come with
            torchmetrics.

    Raises:
        ValueError: Other weights, or torchmetrics is missing.
    """
    try:
        # the class around it takes no weights of one's own, and gives no values image by image
        from torchmetrics.functional.image.lpips import _NoTrainLpips
    except ImportError:
        raise ValueError(f"torchmetrics {_PACKAGES}") from None
    module, state = _NoTrainLpips(net=net, pnet_rand=True), _read(path)
    keys = {key: re.sub(r"^slices?\.?\d+\.", "features.", key) for key in module.net.state_dict()}
    try:
        module.net.load_state_dict({key: state[found] for key, found in keys.items()})
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of {PUBLISHED[net].of}: {_first_line(error)}") from None
    return module


def load_inception(path: Path, layer: str) -> nn.Module:
    """Return the features of Inception v3 in TensorFlow's edition, which KID and FID are defined with.

    Args:
        path: Its weights, as torch-fidelity publishes them.
        layer: One of `LAYERS`; 2048 is the usual one.

    Raises:
        ValueError: Other weights, or torch-fidelity is missing.
    """
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise ValueError(f"torch-fidelity {_PACKAGES}") from None
    _read(path)  # torch-fidelity would unpickle anything
    try:
        network = FeatureExtractorInceptionV3("inception", [layer], feature_extractor_weights_path=str(path))
    except (KeyError, RuntimeError) as error:
        raise ValueError(f"{path}: not the weights of Inception v3: {_first_line(error)}") from None
    return _Inception(network)


class _Inception(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures)[0]


def load_judge(path: Path) -> nn.Module:
    """Return the 192 features of a classifier of the demo's fruits, saved by `tools.demo.judge`.

    Raises:
        ValueError: The file holds something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path)
        network = judge.judge_network(len(state[max(state, key=_depth)]))
        network.load_state_dict(state)
    except (OSError, SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise ValueError(f"{path}: not a judge of tools.demo.judge: {_first_line(error)}") from None
    return _Judge(network[:-1].eval())


class _Judge(nn.Module):
    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, pictures: Tensor) -> Tensor:
        return self.network(pictures.float() / 127.5 - 1)


def _depth(key: str) -> int:
    return int(key.partition(".")[0])


def _first_line(error: Exception) -> str:
    return (str(error) or repr(error)).splitlines()[0]
