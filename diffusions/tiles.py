"""Networks on pictures of other sizes than their own: in overlapping tiles, or padded to what they take."""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[..., Tensor]
"""(x [B, C, H, W], then what is told of each picture, each [B, ...]) -> [B, C', H, W]."""


class Tiles:
    """Overlapping squares of a picture, whose predictions are averaged (MultiDiffusion, Bar-Tal et al. 2023).

    With tiles T_i and a window w, sin^2 along each axis, the prediction at a pixel p of the picture is

        f(x, t)(p) = sum_i w_i(p) f(T_i x, t)(p) / sum_i w_i(p)                       (arXiv:2302.08113)

    over the tiles that hold p. It is linear in the predictions of one state at one level, so it is the same
    average in every form of prediction.
    """

    def __init__(self, side: int, most: int, overlap: float = 0.5):
        """
        Args:
            side: Height and width of a tile, in pixels.
            most: Tiles a network call; fewer need less memory and change nothing else.
            overlap: Share of a tile that its neighbour covers, at least; below 1.
        """
        self.side, self.most, self._stride = side, most, max(1, int(side * (1 - overlap)))
        self._plans: dict = {}

    def starts(self, length: int) -> list[int]:
        """Return where tiles begin along a side of a picture: evenly spaced, from border to border.

        Raises:
            ValueError: The picture is smaller than a tile.
        """
        room = length - self.side
        if room < 0:
            raise ValueError(f"a picture {length} pixels wide or high: the tiles have {self.side}")
        num_steps = -(-room // self._stride)
        return [i * room // num_steps for i in range(num_steps)] + [room]

    def count(self, width: int, height: int) -> int:
        """Return the number of tiles of a picture."""
        return len(self.starts(width)) * len(self.starts(height))

    def over(self, network: Network) -> Network:
        """Return a network for pictures of any size from a tile's on, which calls this one on their tiles."""

        def on_tiles(x: Tensor, *told: Tensor) -> Tensor:
            places, rows, windows = self._plan(x)
            if len(places) == len(x):
                return network(x, *told)
            out = None
            for first in range(0, len(places), self.most):
                part = slice(first, first + self.most)
                cut = torch.stack([self._cut(x[row], top, left) for row, top, left in places[part]])
                cut = cut.contiguous(memory_format=torch.channels_last)
                predicted = network(cut, *(facts[rows[part]] for facts in told))
                if out is None:
                    out = predicted.new_zeros(len(x), predicted.shape[1], *x.shape[2:])
                for (row, top, left), tile in zip(places[part], predicted, strict=True):
                    self._cut(out[row], top, left).addcmul_(tile, windows[top, left].to(tile.dtype))
            return out

        return on_tiles

    def _plan(self, x: Tensor) -> tuple[list[tuple[int, int, int]], Tensor, dict[tuple[int, int], Tensor]]:
        """Return the tiles of pictures as (picture, top, left), whose they are, and the window of each place.

        Made once for pictures of a shape: a GPU is handed both at the first call alone.
        """
        key = x.shape[0], *x.shape[2:], x.device, x.dtype
        if key not in self._plans:
            down, across = (self._windows(length) for length in x.shape[2:])
            places = [(row, top, left) for row in range(len(x)) for top in down for left in across]
            rows = torch.tensor([row for row, _, _ in places]).to(x.device)
            outer = torch.stack([torch.outer(a, b) for a in down.values() for b in across.values()])
            named = [(top, left) for top in down for left in across]
            self._plans = {key: (places, rows, dict(zip(named, outer.to(x), strict=True)))}
        return self._plans[key]

    def _cut(self, picture: Tensor, top: int, left: int) -> Tensor:
        return picture[:, top : top + self.side, left : left + self.side]

    def _windows(self, length: int) -> dict[int, Tensor]:
        """Return the windows of the tiles along a side by their starts, float64; at a pixel they sum to 1."""
        rise = torch.arange(0.5, self.side, dtype=torch.float64) * (math.pi / self.side)
        window, total = rise.sin().square(), torch.zeros(length, dtype=torch.float64)
        starts = self.starts(length)
        for start in starts:
            total[start : start + self.side] += window
        return {start: window / total[start : start + self.side] for start in starts}


def padded(network: Network, multiple: int) -> Network:
    """Return a network for pictures of any height and width from `multiple` on.

    What it is shown is continued by reflection, on both sides, to the next multiple, and what it predicts
    is cut again.

    Args:
        network: Takes heights and widths that are multiples.
        multiple: Of so many pixels.
    """

    def on_padded(x: Tensor, *told: Tensor) -> Tensor:
        height, width = x.shape[2:]
        (top, below), (left, right) = margins(height, multiple), margins(width, multiple)
        if not below and not right:
            return network(x, *told)
        around = F.pad(x, (left, right, top, below), mode="reflect")
        return network(around, *told)[:, :, top : top + height, left : left + width]

    return on_padded


def margins(length: int, multiple: int) -> tuple[int, int]:
    """Return what a side lacks to the next multiple, before it and, as much or one more, behind it."""
    missing = -length % multiple
    return missing // 2, missing - missing // 2
