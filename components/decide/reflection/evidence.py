"""What reflection looks at in one finished round, and how a check says what it found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.contracts.recipe import Recipe
from components.contracts.state import Plan, Verdict
from components.contracts.summaries import SelectSummary, TrainSummary
from components.decide.gate import Comparison, Scores
from components.decide.reflection.plan import Change, Finding

NOTICEABLE_NATS = 0.01
"""A smaller change of a loss says nothing: on a solved task a loss of 0.0004 may well double."""
HIGH_LOSS = 0.3
"""Nats per token: below it there is little left to learn, so a flat curve says nothing."""
SETTLED = 0.6
"""Confidence in a cause is multiplied by this when the round was good all the same: do not mend
what works."""


@dataclass(frozen=True)
class Evidence:
    """What reflection looks at: one finished round."""

    recipe: Recipe
    round: int
    verdict: Verdict
    plan: Plan
    """The settings of this round."""
    train: TrainSummary
    losses: Sequence[float | None]
    """Training loss step by step; None or not finite where a step was skipped."""
    finished_share: float
    """Of this round's samples; of the evaluation in a round without samples."""
    candidate: Scores
    select: SelectSummary
    """Of the mix that was trained on."""
    comparison: Comparison | None = None
    measures: Mapping[str, float] = field(default_factory=dict)
    """The round in numbers (`components.decide.reflection.measures`); a name is absent where it was not
    measured."""

    def __getitem__(self, name: str) -> float:
        """A measure; NaN where it is absent, so that no comparison with it holds."""
        return self.measures.get(name, float("nan"))

    def found(
        self,
        name: str,
        confidence: float,
        change: Change | None,
        said: str,
        predicted: str,
        *,
        measure: str | None = None,
        direction: Literal["up", "down"] | None = None,
        otherwise: Change | None = None,
    ) -> Finding:
        """A cause. `measure` (and which way it should go) is how the next round is asked whether
        the change helped; `otherwise` is the change to make where `change` is at its bound or has
        been taken back before."""
        settled = SETTLED if self.verdict in ("promoted", "first") else 1.0
        return Finding(
            name=name,
            evidence=said,
            confidence=confidence * settled,
            change=change,
            predicted=predicted,
            measure=measure,
            direction=direction,
            otherwise=otherwise,
        )
