"""Cases of a promise: carried out, counted, and those that failed named."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

MAX_SHOWN = 40
"""Broken cases that are printed."""


@dataclass(frozen=True)
class Case:
    """One case. `check` returns words for what is wrong; empty if the promise was kept."""

    name: str
    check: Callable[[], str]


@dataclass
class Count:
    """The outcome of all cases of one promise."""

    promise: str
    total: int = 0
    broken: list[str] = field(default_factory=list)

    def add(self, name: str, fault: str) -> None:
        """Count one case; `fault` says what is wrong and is empty if the promise was kept."""
        self.total += 1
        if fault:
            self.broken.append(f"{name}: {fault}")

    @property
    def passed(self) -> int:
        """Cases in which the promise was kept."""
        return self.total - len(self.broken)

    def __str__(self) -> str:
        return f"promise {self.promise}: {self.passed} of {self.total} cases kept"


def count(promise: str, cases: Iterable[Case], workers: int = 1) -> Count:
    """Carry out all cases, that many side by side, and print the count."""
    outcome = Count(promise)
    with ThreadPoolExecutor(workers) as pool:
        running = [(case.name, pool.submit(case.check)) for case in cases]
        for name, future in running:
            error = future.exception()
            fault = (
                f"{type(error).__name__}: {error}"
                if error is not None
                else future.result()
            )
            outcome.add(name, fault)
    print(outcome, flush=True)
    for line in outcome.broken[:MAX_SHOWN]:
        print(f"  broken: {line}", flush=True)
    return outcome
