"""Filters by a score that something else gives: a judge, a reward model, the likelihood under a
model."""

from __future__ import annotations

from collections.abc import Callable

from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, drop, scored

Refusal = Callable[[float], str]


def by_judge(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers that a judge grades below `min_score`; one it gives no grade is
    `unscored`."""
    if rules.section.judge is None:
        return None
    least = rules.section.judge.min_score
    return _filter(
        rules, "judge", lambda score: "" if score >= least else f"grade {score:g} < {least}"
    )


def by_reward(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers whose reward is below `min_score`."""
    if rules.section.reward is None:
        return None
    least = rules.section.reward.min_score
    return _filter(
        rules, "reward", lambda score: "" if score >= least else f"reward {score:.3f} < {least:g}"
    )


def by_likelihood(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers whose perplexity per token, or its ratio between champion and base, is outside
    the band."""
    section = rules.section.likelihood
    if section is None:
        return None
    bands = {"champion": section.champion, "base": section.base, "ratio": section.ratio}
    asked = [(name, band) for name, band in bands.items() if band is not None]
    filters = [_filter(rules, name, _outside(name, *band), "likelihood") for name, band in asked]

    def apply(block: Block) -> Outcome:
        kept, dropped = list(block), []
        for one in filters:
            kept, refused = one(kept)
            dropped += refused
        return kept, dropped

    return apply


def _outside(name: str, low: float, high: float) -> Refusal:
    def refusal(score: float) -> str:
        return (
            ""
            if low <= score <= high
            else f"perplexity ({name}) {score:.3f} outside {low:g} to {high:g}"
        )

    return refusal


def _filter(rules: Rules, name: str, refusal: Refusal, reason: str = "") -> Filter:
    """A filter by the scores of `rules.scorers[name]`; kept and dropped rows carry their score."""
    scorer = rules.scorers[name]

    def apply(block: Block) -> Outcome:
        kept, dropped = [], []
        for one, score in zip(block, scorer(block), strict=True):
            if score is None:
                dropped.append(drop(one, "unscored", f"{name} gave no score"))
                continue
            marked = scored(one, name, score)
            detail = refusal(score)
            if detail:
                dropped.append(drop(marked, reason or name, detail))
            else:
                kept.append(marked)
        return kept, dropped

    return apply
