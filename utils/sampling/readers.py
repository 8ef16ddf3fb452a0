"""From texts to what a network is told of them."""

from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from models.precision import cast_network
from models.text_encoder import TextEncoder
from utils.jobs import Launch
from utils.pipelines import PipelineConfig, Tokenizer, load_part
from utils.weights import read_json

Told = tuple[Tensor, ...]
"""What a network is told of one text: states [tokens, width], and where it takes them pooled ones [width]."""


class Reader:
    """Reads texts by the encoders of a pipeline; each text once."""

    def __init__(self, config: PipelineConfig, folder: Path, launch: Launch):
        """
        Args:
            config: Of the pipeline.
            folder: Its files.
            launch: Where the encoders run, in float32.

        Raises:
            ValueError: Encoders or tokenizers that are missing, broken or of another model.
        """
        self._config, self._folder, self._launch = config, folder, launch
        self._parts: list[tuple[Tokenizer, TextEncoder]] = []
        self._known: dict[str | None, Told] = {}
        self._load()

    def read(self, texts: list[str | None]) -> list[Told]:
        """Return what a network is told of texts; None stands for nothing at all."""
        for text in dict.fromkeys(texts):
            if text not in self._known:
                self._known[text] = self._read(text)
        return [self._known[text] for text in texts]

    def has_read(self, texts: Iterable[str | None]) -> bool:
        """Whether it knows what a network is told of some texts."""
        return all(text in self._known for text in texts)

    def rest(self) -> None:
        """Give back the memory of the encoders until a text comes that was not read before."""
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
