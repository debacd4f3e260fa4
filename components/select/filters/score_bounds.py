"""Bounds on scores from outside: a judge's grade, a reward, the likelihood under a model."""

from __future__ import annotations

from collections.abc import Callable

from components.contracts.rows import Dropped
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    NoScore,
    Outcome,
    Remaining,
    ScoredSample,
    drop,
    with_score,
)

Refusal = Callable[[float], str]
"""Returns the reason to drop an answer with this score, empty to keep it."""


def by_judge(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers graded below `min_score`; None without a judge.

    An answer without a grade is dropped as `unscored`.
    """
    if settings.section.judge is None:
        return None
    min_score = settings.section.judge.min_score

    def refusal(score: float) -> str:
        return "" if score >= min_score else f"grade {score:g} < {min_score}"

    return _filter(settings, "judge", refusal, "judge")


def by_reward(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers with a reward below `min_score`; None without a reward."""
    if settings.section.reward is None:
        return None
    min_score = settings.section.reward.min_score

    def refusal(score: float) -> str:
        return "" if score >= min_score else f"reward {score:.3f} < {min_score:g}"

    return _filter(settings, "reward", refusal, "reward")


def by_likelihood(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers whose perplexity per token is outside a band.

    There are bands for the perplexity under the champion, under the base, and for their ratio. None
    if the recipe does not ask for it.
    """
    section = settings.section.likelihood
    if section is None:
        return None
    bands = {"champion": section.champion, "base": section.base, "ratio": section.ratio}
    filters = [
        _filter(settings, name, _outside(name, *band), "likelihood")
        for name, band in bands.items()
        if band is not None
    ]

    def apply(block: Block) -> Outcome:
        passed = list(block)
        dropped: list[Dropped] = []
        # One band after the other: only what is left costs the forward pass of the next model.
        for apply_band in filters:
            passed, dropped_by_band = apply_band(passed)
            dropped += dropped_by_band
        return passed, dropped

    return apply


def _outside(name: str, low: float, high: float) -> Refusal:
    def refusal(score: float) -> str:
        if low <= score <= high:
            return ""
        return f"perplexity ({name}) {score:.3f} outside {low:g} to {high:g}"

    return refusal


def _filter(
    settings: FilterSettings, name: str, refusal: Refusal, reason: str
) -> Filter:
    """Return a filter by the scores of `settings.scorers[name]`; all its rows carry their score.

    Args:
        settings: Holds the scorers.
        name: Name of the scorer and of the score.
        refusal: Verdict on a score.
        reason: Reason of dropped rows.
    """
    scorer = settings.scorers[name]

    def apply(block: Block) -> Outcome:
        passed: list[ScoredSample] = []
        dropped: list[Dropped] = []
        for unscored, score in zip(block, scorer(block), strict=True):
            # Never passed unscored: a judge that fails would let everything through.
            if score is None or isinstance(score, NoScore):
                detail = f"{name} gave no score" if score is None else score.reason
                dropped.append(drop(unscored, "unscored", detail))
                continue
            # Dropped rows carry the score too: it shows how far they were from the bound.
            scored = with_score(unscored, name, score)
            if detail := refusal(score):
                dropped.append(drop(scored, reason, detail))
            else:
                passed.append(scored)
        return passed, dropped

    return apply
