"""Summary of a decision."""

from __future__ import annotations

from typing import ClassVar

from components.contracts.state import StopReason, Verdict
from components.contracts.summaries.summary import Summary


class DecideSummary(Summary):
    """The verdict on a candidate, and whether the campaign goes on."""

    written_by: ClassVar[tuple[str, ...]] = ("decide",)
    round: int
    verdict: Verdict
    why: str
    """One sentence with the numbers."""
    go: bool
    """False if the campaign ends with this round."""
    stop: StopReason | None
    """Why it ends; None if it goes on."""
    accuracy: float
    """Validation accuracy of the candidate over the goal's slice, 0 to 1."""
    p_value: float | None
    """p of the gate's test; None if there was no champion to compare with."""
    champion: str
    """Ref of the train receipt of the best model after this round."""
    alarms: tuple[str, ...]
    """Measures that spoke against the candidate."""
    causes: tuple[str, ...]
    """Names of the causes that reflection found."""
