"""From texts to what a network is told of them."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from models.glide import GLIDE
from models.precision import cast_network
from models.text_encoder import TextEncoder
from utils import sources
from utils.config import Config
from utils.jobs import Launch
from utils.pipelines import BytePairs, PipelineConfig, Tokenizer, load_part
from utils.weights import read_json

Told = tuple[Tensor, ...]
"""What a network is told of one text: states [tokens, width], and where it takes them pooled ones [width]."""
_KEPT = 256
"""Texts of which the states are kept."""
_GPT2 = "hf://openai-community/gpt2"


class Reader:
    """Reads texts, each once."""

    def __init__(self):
        self._known: dict[str | None, Told] = {}

    def read(self, texts: list[str | None]) -> list[Told]:
        """Return what a network is told of texts; None stands for nothing at all."""
        for text in dict.fromkeys(texts):
            if text not in self._known:
                self._known[text] = self._read(text)
        found = [self._known[text] for text in texts]
        for text in list(self._known)[:-_KEPT]:  # of a list with a prompt for each picture
            del self._known[text]
        return found

    def has_read(self, texts: Iterable[str | None]) -> bool:
        """Whether it knows what a network is told of some texts."""
        return all(text in self._known for text in texts)

    def rest(self) -> None:
        """Give back memory until a text comes that was not read before."""

    def _read(self, text: str | None) -> Told:
        raise NotImplementedError


class OwnReader(Reader):
    """Reads texts by what a network holds for that itself, as GLIDE's do."""

    def __init__(self, network: GLIDE, folder: Path, device: torch.device):
        """
        Args:
            network: On its device.
            folder: That may hold GPT-2's tokenizer; else it comes from the hub.
            device: Of the network.

        Raises:
            ValueError: A tokenizer that is missing, broken or another.
        """
        super().__init__()
        self._network, self._device, config = network, device, network.config
        self._tokens = BytePairs(*_find_gpt2(folder), config.text_context, config.vocabulary - 1)

    @torch.inference_mode()
    def _read(self, text: str | None) -> Told:
        tokens, mask = (part.to(self._device) for part in self._tokens(text or ""))
        return (self._network.read(tokens, mask)[0].cpu(),)


def _find_gpt2(folder: Path) -> list[Path]:
    for names in BytePairs.files:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    try:
        return [sources.parse(f"{_GPT2}/{name}").fetch() for name in BytePairs.files[0]]
    except OSError as error:
        names = " or ".join(" and ".join(pair) for pair in BytePairs.files)
        raise ValueError(
            f"{folder}: has no tokenizer of GPT-2 ({names}), and it could not be fetched: {error}"
        ) from None


class FolderReader(Reader):
    """Reads texts by the encoders of a pipeline."""

    def __init__(self, config: PipelineConfig, folder: Path, launch: Launch):
        """
        Args:
            config: Of the pipeline.
            folder: Its files.
            launch: Where the encoders run, in float32.

        Raises:
            ValueError: Encoders or tokenizers that are missing, broken or of another model.
        """
        super().__init__()
        self._config, self._folder, self._launch = config, folder, launch
        self._parts: list[tuple[Tokenizer, TextEncoder]] = []
        self._load()

    def rest(self) -> None:
        """Give back the memory of the encoders, see `Reader.rest`."""
        self._parts = []

    def _load(self) -> None:
        self._parts = [_load_encoder(self._folder, *part, self._launch) for part in self._config.texts]

    @torch.inference_mode()
    def _read(self, text: str | None) -> Told:
        if not self._parts:
            self._load()
        device = self._launch.device
        read = [encoder(tokenizer([text or ""]).to(device)) for tokenizer, encoder in self._parts]
        last, before, whole = zip(*read, strict=True)
        if len(self._parts) == 1:
            return (last[0][0].cpu(),)
        told = torch.cat(before, dim=2)[0].cpu(), whole[-1][0].cpu()
        return tuple(map(torch.zeros_like, told)) if text is None and self._config.zero_without else told


def _load_encoder(folder: Path, name: str, kind: str, launch: Launch) -> tuple[Tokenizer, TextEncoder]:
    with torch.device("meta"):
        encoder = TextEncoder(kind, read_json(folder / name / "config.json"))
    tokens = folder / name.replace("text_encoder", "tokenizer")
    tokenizer = Tokenizer(tokens, encoder.num_tokens, encoder.vocabulary)
    load_part(encoder, folder / name)
    return tokenizer, cast_network(encoder.to(launch.device), torch.float32)


def make_reader(config: Config, weights: Path, network: nn.Module, launch: Launch) -> Reader | None:
    """Return what reads texts for a network, None for one that is told none.

    Args:
        config: Of the network.
        weights: Its file or folder.
        network: On its device.
        launch: Where it runs.

    Raises:
        ValueError: Encoders or tokenizers that are missing, broken or of another model.
    """
    if isinstance(config, PipelineConfig):
        return FolderReader(config, weights, launch)
    return OwnReader(network, weights.parent, launch.device) if isinstance(network, GLIDE) else None
