"""From texts to tokens, by transformers' tokenizers."""

from pathlib import Path

import torch
from torch import Tensor

from utils.log import once
from utils.quote import plain, quote


class Tokenizer:
    """The tokenizer of a folder."""

    def __init__(self, folder: Path, num_tokens: int, vocabulary: int):
        """
        Args:
            folder: As transformers saves it: tokenizer.json, or vocab.json and merges.txt.
            num_tokens: Of a text, with what begins and ends it.
            vocabulary: Tokens that the encoder knows.

        Raises:
            ValueError: It cannot be read, or has more tokens than the encoder knows.
        """
        from transformers import CLIPTokenizer  # whoever reads text has it

        try:
            self._theirs = CLIPTokenizer.from_pretrained(str(folder), local_files_only=True)
        except Exception as error:  # of whatever kind a broken file makes them
            raise ValueError(f"{folder}: not a readable tokenizer ({plain(error)[:200]})") from None
        self._num_tokens = num_tokens
        if len(self._theirs) > vocabulary:
            raise ValueError(
                f"{folder}: has {len(self._theirs)} tokens and its text encoder knows {vocabulary}; "
                "they are not of one model"
            )

    def __call__(self, texts: list[str]) -> Tensor:
        """Return the tokens of texts [B, num_tokens], cut and padded; what is cut off is said."""
        for text in texts:
            if lost := self.lost(text):
                most = self._num_tokens - 2
                once(f"warning: prompt {quote(text)}: only {most} tokens are read; lost: {lost}")
        given = {"padding": "max_length", "truncation": True, "max_length": self._num_tokens}
        return torch.tensor(self._theirs(texts, **given)["input_ids"])

    def lost(self, text: str) -> str:
        """Return the end of a text that is cut off; nothing where all of it is read."""
        tokens = self._theirs(text, add_special_tokens=False)["input_ids"]
        return self._theirs.decode(tokens[self._num_tokens - 2 :]).strip()
