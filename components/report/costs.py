"""What a run cost, from the attempt records of its tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from components.runtime.receipts import Attempt


@dataclass(frozen=True)
class Totals:
    """What the run cost. Seconds are of all attempts, failed ones too."""

    wall_seconds: float
    """From the first to the last sign of life, of each time the run was started, added up."""
    task_seconds: float
    compute_seconds: float
    tokens: float
    peak_memory_bytes: int

    @property
    def share_not_computing(self) -> float | None:
        """1 − compute seconds / wall seconds; None where no step measured its compute."""
        if not self.compute_seconds or not self.wall_seconds:
            return None
        return max(0.0, 1.0 - self.compute_seconds / self.wall_seconds)


def tokens_of(attempt: Attempt) -> float:
    """Tokens generated and trained on in one attempt."""
    return sum(amount for name, amount in attempt.costs.items() if name.startswith("tokens"))


def totals_of(attempts: Sequence[Attempt]) -> Totals:
    """Add up attempts, given in order of their start."""
    starts: dict[int, list[Attempt]] = {}
    number = 0
    for one in attempts:
        number += one.step == "prepare"  # every start of a run begins with it
        starts.setdefault(number, []).append(one)
    return Totals(
        wall_seconds=sum(
            max(one.started + one.seconds for one in some) - some[0].started
            for some in starts.values()
        ),
        task_seconds=sum(one.seconds for one in attempts),
        compute_seconds=_compute_seconds(attempts),
        tokens=sum(tokens_of(one) for one in attempts),
        peak_memory_bytes=max((one.peak_memory_bytes for one in attempts), default=0),
    )


def _compute_seconds(attempts: Sequence[Attempt]) -> float:
    """Compute seconds, where attempts that overlap in time (shards side by side) count as the
    longest of them."""
    total, until, longest = 0.0, 0.0, 0.0
    for one in attempts:
        if one.started >= until:
            total, longest = total + longest, 0.0
        longest = max(longest, one.costs.get("compute_seconds", 0.0))
        until = max(until, one.started + one.seconds)
    return total + longest
