"""The evidence of one finished round, and a constructor of findings for the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from components.contracts.recipe import Recipe
from components.contracts.state import Plan, Verdict
from components.contracts.summaries import SelectSummary, TrainSummary
from components.decide.gate import Comparison
from components.decide.reflection.changes import Change
from components.decide.reflection.plan import Finding
from components.measures import Scores

# On a solved task a loss of 0.0004 may well double: ratios of losses alone say nothing.
NOTICEABLE_NATS = 0.01
"""A smaller change of a loss, in nats per token, is no evidence."""
# Below it there is little left to learn, so a flat curve is no sign of a bad training.
HIGH_LOSS = 0.3
"""Loss in nats per token above which something is left to learn."""
# Do not mend what works: a promoted candidate's causes fall below the priority of a change
# (`plan.MIN_PRIORITY`) unless theirs is very high.
SETTLED = 0.6
"""Factor of the priority of a cause if the candidate was promoted."""


@dataclass(frozen=True)
class Evidence:
    """Everything that the checks of reflection read about one finished round."""

    recipe: Recipe
    round: int
    verdict: Verdict
    plan: Plan
    """The settings of this round."""
    train: TrainSummary | None
    """None in a weak round, which trains nothing."""
    losses: Sequence[float | None]
    """Training loss of each step; None or not finite where a step was skipped."""
    finished_share: float
    """Share of this round's samples that the model ended itself; of the dev answers if the round
    drew no samples."""
    candidate: Scores | None
    """Scores on dev prompts; None without any."""
    select: SelectSummary
    """Summary of the mix that was trained on, or of the few samples of a weak round."""
    comparison: Comparison | None = None
    """Comparison with the champion on dev prompts; None without any."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """The round in numbers (`components.decide.reflection.measures`); a name is absent if it was
    not measured."""

    def __getitem__(self, name: str) -> float:
        """Return a measure; NaN if it is absent, so that no comparison with it holds."""
        return self.measures.get(name, float("nan"))

    @property
    def training(self) -> TrainSummary:
        """The summary of the training, for the checks of a round that had one."""
        assert self.train is not None, "a weak round's training is not checked"
        return self.train

    @property
    def trained_on_noise(self) -> bool:
        """True if words of this round's rows were changed or hidden."""
        train = self.recipe.train
        stage = train.rounds if self.plan.training == "improvement" else train.first
        return stage.augmentation is not None and stage.augmentation.is_on

    @property
    def improved(self) -> bool:
        """True if an improvement round was promoted: its training was long and large enough.

        A supervised training is not, for any of them beats a base that was never taught.
        """
        return self.verdict == "promoted" and self.plan.training == "improvement"

    def finding(
        self,
        name: str,
        priority: float,
        change: Change | None,
        description: str,
        predicted: str,
        *,
        measure: str | None = None,
        direction: Literal["up", "down"] | None = None,
        otherwise: Change | None = None,
        further: tuple[Change, ...] = (),
    ) -> Finding:
        """Return a finding about this round.

        Args:
            name: Name of the cause.
            priority: From 0 to 1, before it is lowered for a promoted candidate.
            change: Change of the plan; None if a person has to act.
            description: The evidence in words, with the numbers.
            predicted: The effect that the change should have, in words.
            measure: The measure that should move: the next round is asked whether it has.
            direction: The way it should move.
            otherwise: Change to make if `change` is at its bound or was taken back before.
            further: Changes to make if that one is too.
        """
        settled = SETTLED if self.verdict == "promoted" else 1.0
        return Finding(
            name=name,
            evidence=description,
            priority=priority * settled,
            change=change,
            predicted=predicted,
            measure=measure,
            direction=direction,
            otherwise=otherwise,
            further=further,
        )
