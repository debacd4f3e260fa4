"""Costs of a run, from the attempt records of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.runtime.attempts import Attempt


@dataclass(frozen=True)
class Totals:
    """Costs of a run. Seconds are of all attempts, failed ones too."""

    wall_seconds: float
    """From the first to the last sign of life of each start of the run, added up."""
    task_seconds: float
    """Seconds of all tasks; tasks side by side both count."""
    compute_seconds: float
    """Seconds of sampling, training and measuring; of tasks side by side the longest counts."""
    tokens: float
    """Tokens generated and trained on."""
    peak_memory_bytes: int
    """Memory of the largest task, at its peak."""

    @property
    def share_not_computing(self) -> float | None:
        """1 − compute seconds / wall seconds; None where no step measured its compute."""
        if not self.compute_seconds or not self.wall_seconds:
            return None
        return max(0.0, 1.0 - self.compute_seconds / self.wall_seconds)


def tokens_of(attempt: Attempt) -> float:
    """Return the tokens generated and trained on in an attempt."""
    tokens = [
        amount for name, amount in attempt.costs.items() if name.startswith("tokens")
    ]
    return sum(tokens)


def totals_of(attempts: Sequence[Attempt]) -> Totals:
    """Return the sums over attempts, which are in order of their start."""
    attempts_by_start: dict[int, list[Attempt]] = {}
    start_number = 0
    for attempt in attempts:
        # Every start of a run begins with it.
        start_number += attempt.step == "prepare"
        attempts_by_start.setdefault(start_number, []).append(attempt)
    wall_seconds = 0.0
    for start_attempts in attempts_by_start.values():
        end = max(attempt.started + attempt.seconds for attempt in start_attempts)
        wall_seconds += end - start_attempts[0].started
    return Totals(
        wall_seconds=wall_seconds,
        task_seconds=sum(attempt.seconds for attempt in attempts),
        compute_seconds=_compute_seconds(attempts),
        tokens=sum(tokens_of(attempt) for attempt in attempts),
        peak_memory_bytes=max(
            (attempt.peak_memory_bytes for attempt in attempts), default=0
        ),
    )


def _compute_seconds(attempts: Sequence[Attempt]) -> float:
    """Return the compute seconds; of attempts that overlap in time, the longest counts."""
    # Shards run side by side: their sum could exceed the wall time.
    total = 0.0
    group_end = 0.0
    group_longest = 0.0
    for attempt in attempts:
        if attempt.started >= group_end:
            total += group_longest
            group_longest = 0.0
        group_longest = max(group_longest, attempt.costs.get("compute_seconds", 0.0))
        group_end = max(group_end, attempt.started + attempt.seconds)
    return total + group_longest
