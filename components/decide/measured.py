"""Results of a candidate, and of the champion that was measured beside it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts import artifacts
from components.contracts.recipe import DecideSection
from components.contracts.rows import Result, TextResult, read_rows
from components.contracts.state import ModelRecord
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.contracts.summaries.evaluate import ModelScores
from components.decide.guards import Alarm, alarms_of
from components.errors import Corrupt
from components.measures import Scores
from components.runtime.context import Context
from components.runtime.receipts import Receipt, fetch, read_summary

Texts = Mapping[str, TextResult]
"""`split/id` of a human text → its likelihood under one model."""


@dataclass(frozen=True)
class Measured:
    """Validation and dev results of one model, and their scores."""

    results: tuple[Result, ...]
    """Results on validation prompts alone."""
    scores: Scores
    headline: ModelScores
    texts: Texts
    """Likelihood of the human texts."""
    dev: tuple[Result, ...] = ()
    """Results on dev prompts: what reflection reads. Empty without such prompts."""

    @property
    def dev_scores(self) -> Scores | None:
        """Scores on the dev prompts; None without any."""
        return Scores.of(self.dev, self.headline.metric) if self.dev else None

    def record(self, goal_slice: str) -> ModelRecord:
        """Return the scores of the model as the campaign's history has them."""
        dev_scores = self.dev_scores
        return ModelRecord(
            metric=self.headline.metric,
            score=self.scores.value(goal_slice),
            interval=self.scores.interval(goal_slice),
            overall=self.scores.value(),
            test_score=self.headline.measured["test"][""].value,
            dev_score=dev_scores.value() if dev_scores is not None else None,
            slices=self.scores.slices,
            pass_at_k=self.headline.pass_at_k,
            perplexity=self.headline.perplexity,
            label_accuracy=self.headline.label_accuracy,
            macro_f1=self.headline.macro_f1,
            brier=self.headline.brier,
        )

    @property
    def retention(self) -> Texts:
        """The texts of the retention split."""
        return retention_texts(self.texts)

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
        rows = list(
            read_rows(fetch(context, receipt, f"{prefix}{artifacts.RESULTS}"), Result)
        )
        # The gate must not see the test split: what decides is no test any more.
        results = tuple(row for row in rows if row.split == "validation")
        texts = _read_texts(context, receipt, prefix)
        # Nor must the plan see validation: prompts that steer a campaign prove nothing about it.
        dev = tuple(row for row in rows if row.split == "dev")
        return cls(results, Scores.of(results, headline.metric), headline, texts, dev)


def retention_texts(texts: Texts) -> Texts:
    """Return the texts of the retention split alone."""
    return {name: text for name, text in texts.items() if text.split == "retention"}


def texts_of(context: Context, receipt: Receipt) -> Texts:
    """Return the likelihood of human texts under the candidate of an evaluate receipt."""
    return _read_texts(context, receipt)


def _read_texts(context: Context, receipt: Receipt, prefix: str = "") -> Texts:
    name = f"{prefix}{artifacts.RETENTION}"
    # A recipe without human text writes no such file.
    if name not in receipt.objects:
        return {}
    rows = read_rows(fetch(context, receipt, name), TextResult)
    return {f"{row.split}/{row.id}": row for row in rows}


def champion_of(
    context: Context, evaluation: Receipt, champion_evaluation: Receipt
) -> Measured:
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
    first: Measured,
    evaluation: EvaluateSummary,
    selection: SelectSummary,
    section: DecideSection,
    earlier_champions: Sequence[Texts] = (),
) -> tuple[Alarm, ...]:
    """Return all alarms about a candidate.

    Args:
        candidate: Its results.
        champion: The results of the model it would replace.
        first: The results of the model that signs of collapse are measured against.
        evaluation: Summary of the candidate's evaluation.
        selection: Summary of the mix that it was trained on.
        section: The recipe's bounds.
        earlier_champions: The human texts of the champions so far, the base among them.

    Raises:
        Corrupt: Candidate and champion were measured on different retention texts.
    """
    # The test of non-inferiority is of pairs: a row that one model lacks would not be in it.
    if champion.retention.keys() != candidate.retention.keys():
        counts = f"{len(champion.retention)} and {len(candidate.retention)} rows"
        raise Corrupt(
            f"champion and candidate were measured on different retention texts ({counts})"
        )
    # Against the best of all champions: ten promotions that each lose what the margin allows would
    # lose ten times as much.
    champions = [champion.texts, *earlier_champions]
    best = max(
        champions, key=lambda texts: _gain(retention_texts(texts), candidate.retention)
    )
    pairs = common_texts(retention_texts(best), candidate.retention)
    ratios = [perplexity_ratio(first, candidate)]
    ratios += [text_ratio(texts, candidate.texts) for texts in champions]
    ratio = max((known for known in ratios if known is not None), default=None)
    return alarms_of(evaluation, selection, ratio, pairs, section)


def perplexity_ratio(first: Measured, candidate: Measured) -> float | None:
    """Return the candidate's perplexity over that of an earlier model, of the same texts.

    None if either was not measured, or none of their texts is the same.
    """
    if not first.texts or not candidate.texts:
        # Older receipts have the perplexity alone.
        if candidate.headline.perplexity is None or not first.headline.perplexity:
            return None
        return candidate.headline.perplexity / first.headline.perplexity
    return text_ratio(first.texts, candidate.texts)


def text_ratio(old: Texts, new: Texts) -> float | None:
    """Return the new perplexity over the old one, of the same texts; None if none is the same."""
    # A run that continues the campaign may measure more texts, or fewer: other texts have another
    # perplexity, whatever the model.
    pairs = common_texts(old, new)
    num_tokens = sum(after.num_tokens for _, after in pairs)
    if num_tokens == 0:
        return None
    loss_gain = math.fsum(
        (after.loss - before.loss) * after.num_tokens for before, after in pairs
    )
    return math.exp(loss_gain / num_tokens)


def common_texts(old: Texts, new: Texts) -> list[tuple[TextResult, TextResult]]:
    """Return the results of the texts that both models were measured on, by name.

    A text that was cut at another length is another text.
    """
    pairs = [(old[name], new[name]) for name in sorted(old.keys() & new.keys())]
    return [
        (before, after)
        for before, after in pairs
        if before.num_tokens == after.num_tokens
    ]


def _gain(old: Texts, new: Texts) -> float:
    """Return how much better the old model is at the texts, as a mean of token accuracies."""
    pairs = common_texts(old, new)
    if not pairs:
        return -math.inf
    gains = [before.token_accuracy - after.token_accuracy for before, after in pairs]
    return math.fsum(gains) / len(gains)
