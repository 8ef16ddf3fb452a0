"""transformers' CLIP text models: from the tokens of a text to the states that a network is told."""

from typing import Any

import torch
from torch import Tensor, nn

from models.wrapped import Wrapped

KINDS = ("CLIPTextModel", "CLIPTextModelWithProjection")


class TextEncoder(Wrapped):
    """A CLIP text model (Radford et al. 2021, arXiv:2103.00020) under its own keys."""

    float32_modules = ()

    def __init__(self, kind: str, facts: dict[str, Any]):
        """
        Args:
            kind: Name of its class, one of KINDS.
            facts: The fields of its config.json.

        Raises:
            ValueError: transformers is not installed, or makes no such model of these fields.
        """
        theirs = _make(kind, facts)
        super().__init__(theirs)
        self.projects = kind == KINDS[1]
        self.num_tokens, self.vocabulary = theirs.config.max_position_embeddings, theirs.config.vocab_size

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Read texts.

        Args:
            tokens: [B, num_tokens].

        Returns:
            States of the last layer behind its norm [B, num_tokens, width]; those of the layer before it
            without; and the text as a whole [B, projected width], None where it does not project.
        """
        out = self.theirs(tokens, output_hidden_states=True)
        return out[1] if self.projects else out[0], out.hidden_states[-2], out[0] if self.projects else None


def _make(kind: str, facts: dict[str, Any]) -> nn.Module:
    with torch.device("cpu"):  # what it makes at its import is no network's
        try:
            import transformers
        except ImportError:
            raise ValueError(
                "text needs transformers, which is not installed: pip install -r requirements-text.txt"
            ) from None
    try:
        return getattr(transformers, kind)(transformers.CLIPTextConfig(**facts))
    except Exception as error:  # of whatever kind the field makes them
        raise ValueError(f"transformers makes no {kind} of these fields: {str(error)[:200]}") from None
