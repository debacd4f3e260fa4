"""The one back-off: the pauses between tries of a call that may pass, and when to stop trying.

Nothing here reads a clock or waits by itself: both are fields of `Patience`. There is no jitter,
because each caller is one client of its server, and tests compare the pauses.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass


def pauses(
    first_seconds: float, longest_seconds: float, *, factor: float = 2.0
) -> Iterator[float]:
    """Yield growing pauses without end.

    Args:
        first_seconds: the first pause.
        longest_seconds: pauses grow up to this one, which is repeated.
        factor: each pause is so many times the one before it.
    """
    pause_seconds = first_seconds
    while True:
        yield pause_seconds
        pause_seconds = min(factor * pause_seconds, longest_seconds)


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long a client waits for its server, and by which clock."""

    connect_seconds: float = 10.0
    answer_seconds: float = 30.0
    """Longest silence of the server within an answer."""
    first_pause_seconds: float = 1.0
    longest_pause_seconds: float = 30.0
    give_up_seconds: float = 600.0
    """Longest time that a call may keep failing."""
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class Backoff:
    """The pauses of one call. The time that `give_up_seconds` allows begins with this object."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._deadline = patience.clock() + patience.give_up_seconds
        self._pauses = pauses(
            patience.first_pause_seconds, patience.longest_pause_seconds
        )

    def wait(self, least_seconds: float = 0.0) -> bool:
        """Sleep before the next try, or return False at once if its time would be over by then.

        Args:
            least_seconds: the shortest pause that the server asked for.
        """
        pause_seconds = max(next(self._pauses), least_seconds)
        if pause_seconds > self._deadline - self._patience.clock():
            return False
        self._patience.sleep(pause_seconds)
        return True


class Stopwatch:
    """Counts the seconds since it was made."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._begin = clock()

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._clock() - self._begin


class Deadline:
    """A point in time, so many seconds after this object was made."""

    def __init__(
        self, seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._clock = clock
        self._end = clock() + seconds

    @property
    def seconds_left(self) -> float:
        """Seconds until then, 0 from then on."""
        return max(0.0, self._end - self._clock())
