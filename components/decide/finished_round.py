"""A finished round that is to be decided, and the outcome of the decision."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts.state import AlphaAccount, Verdict
from components.contracts.summaries import EvaluateSummary, SelectSummary, TrainSummary
from components.decide.gate import Comparison, Ruling
from components.decide.guards import Alarm
from components.decide.measured import Measured
from components.runtime.campaign import Campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_summary


@dataclass(frozen=True)
class Summaries:
    """The summaries of a round's receipts."""

    mix: SelectSummary
    train: TrainSummary | None
    """None in a weak round, which trains nothing."""
    evaluate: EvaluateSummary

    @classmethod
    def of(cls, mix: Receipt, train: Receipt, evaluate: Receipt) -> Summaries:
        """Read the receipts of a round; in a weak one the last two are the champion's."""
        selection = read_summary(mix, SelectSummary)
        is_weak = selection.why_weak is not None
        return cls(
            mix=selection,
            train=None if is_weak else read_summary(train, TrainSummary),
            evaluate=read_summary(evaluate, EvaluateSummary),
        )


@dataclass(frozen=True)
class EarlierEvaluations:
    """Receipts of evaluate that a candidate is compared with."""

    champion: Receipt
    """The champion's own, when it was the candidate."""
    first: Receipt
    """That of the model that signs of collapse are measured against."""


@dataclass(frozen=True)
class FinishedRound:
    """A round that is to be decided, and where it belongs."""

    context: Context
    campaign: Campaign
    mix: Receipt
    """Receipt of the mix that was trained on."""
    train: Receipt
    evaluate: Receipt
    summaries: Summaries
    earlier: EarlierEvaluations

    @property
    def is_weak(self) -> bool:
        """True if too few samples were accepted, so that no candidate was trained."""
        return self.summaries.train is None


@dataclass(frozen=True)
class Outcome:
    """The verdict on a candidate, and what it rests on."""

    verdict: Verdict
    ruling: Ruling
    candidate: Measured
    """In a weak round the champion stands here too."""
    champion: Measured
    comparison: Comparison | None
    """None in a weak round, which has no candidate to compare."""
    alarms: tuple[Alarm, ...]
    measures: dict[str, float]
    alpha_account: AlphaAccount
    """The account after the round."""

    @property
    def best(self) -> Measured:
        """The champion after this round."""
        return self.candidate if self.verdict == "promoted" else self.champion
