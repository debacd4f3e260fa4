"""Results of a candidate, and of the champion that was measured beside it."""

from __future__ import annotations

from dataclasses import dataclass

from components.contracts import artifacts
from components.contracts.recipe import DecideSection
from components.contracts.rows import Result, TextResult, read_rows
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.contracts.summaries.evaluate import ModelScores
from components.decide.gate import Scores
from components.decide.guards import Alarm, alarms_of
from components.errors import Corrupt
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary


@dataclass(frozen=True)
class Measured:
    """Validation results and scores of one model."""

    results: tuple[Result, ...]
    """Results on validation prompts alone."""
    scores: Scores
    headline: ModelScores
    retention: dict[str, TextResult]
    """Rows of the retention split by id."""

    @classmethod
    def of(cls, context: Context, receipt: Receipt) -> Measured:
        """Read the candidate's results from an evaluate receipt."""
        return cls._read(context, receipt, read_summary(receipt, EvaluateSummary))

    @classmethod
    def of_champion(cls, context: Context, receipt: Receipt) -> Measured:
        """Read the results of the champion that was measured beside the candidate.

        Raises:
            Corrupt: The receipt has no champion.
        """
        headline = read_summary(receipt, EvaluateSummary).champion
        if headline is None:
            raise Corrupt(f"{receipt.ref} measured no champion beside its candidate")
        return cls._read(context, receipt, headline, f"{artifacts.CHAMPION}/")

    @classmethod
    def _read(
        cls, context: Context, receipt: Receipt, headline: ModelScores, prefix: str = ""
    ) -> Measured:
        rows = read_rows(fetch(context, receipt, f"{prefix}{artifacts.RESULTS}"), Result)
        # The gate must not see the test split: what decides is no test any more.
        results = tuple(row for row in rows if row.split == "validation")
        retention: dict[str, TextResult] = {}
        # A recipe without human text writes no such file.
        if f"{prefix}{artifacts.RETENTION}" in receipt.objects:
            file = fetch(context, receipt, f"{prefix}{artifacts.RETENTION}")
            texts = read_rows(file, TextResult)
            retention = {row.id: row for row in texts if row.split == "retention"}
        return cls(results, Scores.of(results), headline, retention)

    def retained(self, champion: Measured) -> list[tuple[TextResult, TextResult]]:
        """Return (champion, candidate) of every retention row.

        Raises:
            Corrupt: A row of one model has no partner of the other.
        """
        # The test of non-inferiority is of pairs: a row that one model lacks would not be in it.
        if champion.retention.keys() != self.retention.keys():
            counts = f"{len(champion.retention)} and {len(self.retention)} rows"
            raise Corrupt(
                f"champion and candidate were measured on different retention texts ({counts})"
            )
        return [(champion.retention[name], row) for name, row in sorted(self.retention.items())]


def champion_of(context: Context, evaluation: Receipt, champion_evaluation: Receipt) -> Measured:
    """Return the results of the champion that a candidate would replace.

    Args:
        context: Store of the receipts.
        evaluation: Receipt of the candidate's evaluation.
        champion_evaluation: Receipt of the champion's own evaluation, when it was a candidate.
    """
    if f"{artifacts.CHAMPION}/{artifacts.RESULTS}" in evaluation.objects:
        return Measured.of_champion(context, evaluation)
    # Older receipts measured the candidate alone.
    return Measured.of(context, champion_evaluation)


def alarms_against(
    candidate: Measured,
    champion: Measured,
    first: ModelScores,
    evaluation: EvaluateSummary,
    selection: SelectSummary,
    section: DecideSection,
) -> tuple[Alarm, ...]:
    """Return all alarms about a candidate.

    Args:
        candidate: Its results.
        champion: The results of the model it would replace.
        first: Scores of round 0's model.
        evaluation: Summary of the candidate's evaluation.
        selection: Summary of the mix that it was trained on.
        section: The recipe's bounds.

    Raises:
        Corrupt: Candidate and champion were measured on different retention texts.
    """
    # Against round 0 and not the champion: small losses would add up from round to round.
    perplexity_ratio = None
    if candidate.headline.perplexity is not None and first.perplexity:
        perplexity_ratio = candidate.headline.perplexity / first.perplexity
    retention = candidate.retained(champion)
    return alarms_of(evaluation, selection, perplexity_ratio, retention, section)
