"""A budget that threads share: who asks for more than is left waits until others give back."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager


class Budget:
    """Amounts of something, in use by several threads and together at most a total.

    Who asks first is served first, so that a large amount is not for ever overtaken by small ones. No one
    waits while holding a part: a thread that has one takes another at once, so no two wait for each other.
    """

    def __init__(self, total: int):
        self._total = self._left = total
        self._waiting: deque[object] = deque()
        self._changed = threading.Condition()
        self._own = threading.local()

    @contextmanager
    def hold(self, amount: int) -> Iterator[None]:
        """Hold an amount; one above the total counts as all of it."""
        amount = min(amount, self._total)
        depth = getattr(self._own, "depth", 0)
        if depth == 0:
            self._wait(amount)
        else:
            with self._changed:
                self._left -= amount
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            with self._changed:
                self._left += amount
                self._changed.notify_all()

    def _wait(self, amount: int) -> None:
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                self._changed.wait_for(lambda: self._waiting[0] is ticket and amount <= self._left)
                self._left -= amount
            finally:  # also where a signal ended the wait
                self._waiting.remove(ticket)
                self._changed.notify_all()
