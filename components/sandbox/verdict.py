"""The result of a check."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Verdict:
    """A graded verdict on one answer."""

    score: float
    """0 is wrong, 1 is right; an answer counts as right from the source's `threshold` on."""
    reason: str = ""
    """Why, in words; kept with an answer that is dropped."""
