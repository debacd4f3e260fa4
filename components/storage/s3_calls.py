"""Calls of an S3 server that are counted and timed, and that end whatever the server does."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from components.retry import Stopwatch

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class S3Patience:
    """How long, and how often, a store asks its server."""

    tries: int = 4
    """Tries of one request, with growing pauses (botocore's standard retry mode)."""
    connect_seconds: float = 5.0
    answer_seconds: float = 60.0
    """Longest silence of the server within an answer."""
    call_seconds: float = 900.0
    """Longest time of one look: a request with all its tries, and its answer. A call has two."""
    # Silence alone is no bound: a server that sends a byte a minute is never silent for longer. A
    # part of 16 MiB takes so long at 19 kB/s.
    second_look_seconds: float = 0.2
    """Pause before a call whose answer broke off or looks damaged is made again."""


@dataclass
class S3Call:
    """One call of the server, for the words of an error."""

    operation: str
    """Name in S3's API: `PutObject`."""
    num_attempts: int = 0
    """Requests sent so far."""
    watch: Stopwatch = field(default_factory=Stopwatch)

    def __str__(self) -> str:
        attempts = (
            "1 attempt" if self.num_attempts == 1 else f"{self.num_attempts} attempts"
        )
        return f"{self.operation}: {attempts} in {self.watch.seconds:.1f} s"


class CallTimeout(Exception):
    """A call did not end in time."""


_in_thread = threading.local()


def bounded(call: S3Call, work: Callable[[], T], seconds: float) -> T:
    """Return the result of `work`; raise CallTimeout if it takes longer than `seconds`.

    It runs in a thread of its own, and requests that it sends are counted in `call`.
    """

    def run() -> T:
        _in_thread.call = call
        return work()

    thread = _CallThread(f"s3-{call.operation}", run)
    thread.start()
    try:
        return thread.outcome.result(seconds)
    except TimeoutError:
        # botocore's own time-outs are no TimeoutError, so this is the deadline of the future.
        raise CallTimeout from None


class _CallThread(threading.Thread, Generic[T]):
    """Does one piece of work. No pool: the end of a program waits for threads of a pool."""

    def __init__(self, name: str, work: Callable[[], T]) -> None:
        super().__init__(name=name, daemon=True)
        self.outcome: Future[T] = Future()
        self._work = work

    def run(self) -> None:
        try:
            self.outcome.set_result(self._work())
        except BaseException as error:  # noqa: BLE001 (it is raised in the thread that waits)
            self.outcome.set_exception(error)


def count_attempt(**_: Any) -> None:
    """Count one request of the call that this thread works for; for botocore's `before-send`."""
    call: S3Call | None = getattr(_in_thread, "call", None)
    if call is not None:
        call.num_attempts += 1
