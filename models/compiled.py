"""Networks translated by torch.compile, once for all calls."""

import torch
from torch import Tensor, nn


class CompiledNetwork(nn.Module):
    """A network that torch.compile translates at its first call, for the largest batch that it meets.

    Smaller batches, as the last of a run, are padded to that size, for each size would be translated anew.
    """

    def __init__(self, network: nn.Module):
        """
        Args:
            network: On its device and in its precision; compiled in place.
        """
        super().__init__()
        self.network = network
        self._size = 0
        network.compile(dynamic=False)

    def forward(self, x: Tensor, *conditions: Tensor) -> Tensor:
        """Do what the network does.

        Args:
            x: Images, shape [B, C, H, W].
            conditions: What it is told of each, shape [B].
        """
        self._size = max(self._size, len(x))
        try:
            out = self.network(*(self._pad(rows) for rows in (x, *conditions)))
        except torch.OutOfMemoryError:
            self._size = 0
            raise
        return out[: len(x)]

    def _pad(self, rows: Tensor) -> Tensor:
        missing = self._size - len(rows)
        rows = torch.cat([rows, rows[-1:].expand(missing, *rows.shape[1:])]) if missing else rows
        return rows.contiguous(memory_format=torch.channels_last) if rows.ndim == 4 else rows
