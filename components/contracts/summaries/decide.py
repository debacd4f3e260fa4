"""Summary of a decision."""

from __future__ import annotations

from typing import ClassVar

from components.contracts.recipe import Metric
from components.contracts.state import StopReason, Verdict
from components.contracts.summaries.summary import Summary


class ChampionSummary(Summary):
    """The base model as the first champion."""

    written_by: ClassVar[tuple[str, ...]] = ("champion",)
    champion: str
    """Ref of the prepare receipt that holds it."""
    metric: Metric
    score: float
    """By the goal's metric on validation, over its slice."""
    test_score: float


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
    weak: bool = False
    """True if too few samples were accepted to train a candidate."""
    metric: Metric
    score: float
    """Of the candidate, by the goal's metric on validation, over its slice; in a weak round of the
    champion."""
    p_value: float | None
    """p of the gate's test; None in a weak round, which compares nothing."""
    champion: str
    """Ref of the receipt of the best model after this round: of train, or of prepare if it is the
    base."""
    alarms: tuple[str, ...]
    """Measures that spoke against the candidate."""
    causes: tuple[str, ...]
    """Names of the causes that reflection found."""
