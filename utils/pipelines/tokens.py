"""From texts to tokens, by the tokenizers of transformers and its library tokenizers."""

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


class BytePairs:
    """The tokenizer of GPT-2, as GLIDE reads texts: in lower case, padded by its token of the end."""

    files = (("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe"))
    """What its two files may be called."""

    def __init__(self, vocabulary: Path, merges: Path, num_tokens: int, end: int):
        """
        Args:
            vocabulary: JSON of tokens and their numbers.
            merges: Pairs that are merged, a line each.
            num_tokens: Of a text.
            end: Token that pads.

        Raises:
            ValueError: The library tokenizers is not installed, or the files cannot be read, or are others.
        """
        try:
            from tokenizers import ByteLevelBPETokenizer
        except ImportError:
            raise ValueError(
                "text needs tokenizers, which is not installed: pip install -r requirements-text.txt"
            ) from None
        try:
            self._theirs = ByteLevelBPETokenizer(str(vocabulary), str(merges))
        except Exception as error:  # of whatever kind a broken file makes them
            raise ValueError(f"{vocabulary}: not a readable tokenizer ({plain(error)[:200]})") from None
        if self._theirs.get_vocab_size() != end + 1:
            raise ValueError(
                f"{vocabulary}: has {self._theirs.get_vocab_size()} tokens and the network knows {end + 1}"
            )
        self._num_tokens, self._end = num_tokens, end

    def __call__(self, text: str) -> tuple[Tensor, Tensor]:
        """Return the tokens of a text [1, num_tokens], and true where they are not padding."""
        tokens = self._theirs.encode(text.lower()).ids
        if len(tokens) > self._num_tokens:
            lost = self._theirs.decode(tokens[self._num_tokens :]).strip()
            once(f"warning: prompt {quote(text)}: only {self._num_tokens} tokens are read; lost: {lost}")
        kept = tokens[: self._num_tokens]
        padding = self._num_tokens - len(kept)
        mask = [True] * len(kept) + [False] * padding
        return torch.tensor([kept + [self._end] * padding]), torch.tensor([mask])
