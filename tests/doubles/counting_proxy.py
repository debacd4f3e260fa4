"""A relay before a server that counts the bytes each way, and calls back at one of them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Literal

from tests.doubles.network import Proxy

Direction = Literal["sent", "received"]


class CountingProxy(Proxy):
    """Lets everything pass."""

    def __init__(self, endpoint: str) -> None:
        self._lock = threading.Lock()
        self.count_anew()
        super().__init__(endpoint)
        self.upwards = partial(self._count, "sent")
        self.downwards = partial(self._count, "received")

    def count_anew(self) -> None:
        """Count from zero, and call nobody."""
        with self._lock:
            self._counts: dict[Direction, int] = {"sent": 0, "received": 0}
            self._watched: tuple[Direction, int, Callable[[], object]] | None = None

    def counted(self, direction: Direction) -> int:
        """Return the bytes that clients have sent or received."""
        return self._counts[direction]

    def call_at(
        self, direction: Direction, num_bytes: int, call: Callable[[], object]
    ) -> None:
        """Call once, before byte `num_bytes` goes that way."""
        with self._lock:
            self._watched = (direction, num_bytes, call)

    def _count(self, direction: Direction, data: bytes) -> bytes:
        call: Callable[[], object] | None = None
        with self._lock:
            self._counts[direction] += len(data)
            if self._watched is not None:
                watched, limit, wanted = self._watched
                if watched == direction and self._counts[direction] >= limit:
                    self._watched = None
                    call = wanted
        if call is not None:
            call()
        return data
