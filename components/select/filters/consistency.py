"""Self-consistency: the answer that most samples of a prompt agree on (2210.11610)."""

from __future__ import annotations

from collections.abc import Sequence

from components.errors import UserError
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Filter,
    Remaining,
    ScoredSample,
    by_prompt,
    split,
)
from components.statistics import binomial_upper
from components.verifiers import verify

MIN_PRECISION = 0.9
"""Least lower 95 % bound of the precision at a calibrated threshold (2502.01612)."""


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops minority answers, and all answers without a clear majority.

    Among models trained from several seeds (`train.num_peers`) the majority is a cross-seed vote
    (2502.01612). A tie is no majority, unless the recipe says `select.tie_goes_to_first`. None if
    the recipe asks for no share of votes.
    """
    ties_count = settings.section.tie_goes_to_first
    min_share = settings.section.min_vote_share
    if settings.section.calibrate_vote:
        min_share = max(min_share, calibrated_share(settings.audit, ties_count))
    if min_share == 0.0:
        return None

    def refusal(scored: ScoredSample) -> str:
        answer = f"{scored.answer[:100]!r}"
        share = f"{scored.vote_share:.2f}"
        # Of tied answers the majority is the one that was sampled first, which says nothing of it.
        if scored.answer and scored.is_tied and not ties_count:
            return f"{answer}; another answer has as many votes ({share})"
        if not scored.is_majority:
            return f"{answer}; the majority ({share}) says {scored.majority[:100]!r}"
        return (
            ""
            if scored.vote_share >= min_share
            else f"majority share {share} < {min_share:.2f}"
        )

    return lambda block: split(block, refusal, "vote")


def calibrated_share(audit: Sequence[ScoredSample], ties_count: bool = False) -> float:
    """Return the smallest share of votes from which on majorities are right often enough.

    Often enough: the lower one-sided 95 % bound of their precision (Clopper–Pearson) is at least
    MIN_PRECISION.

    Args:
        audit: Samples of prompts whose answer is known. Each prompt counts once.
        ties_count: Whether prompts with a tie count too.

    Raises:
        UserError: No share is good enough.
    """
    verdicts = _majority_verdicts(audit, ties_count)
    best = 0.0
    for min_share in sorted({share for share, _ in verdicts}):
        is_right = [right for share, right in verdicts if share >= min_share]
        num_wrong = len(is_right) - sum(is_right)
        lower_bound = 1.0 - binomial_upper(num_wrong, len(is_right))
        if lower_bound >= MIN_PRECISION:
            return min_share
        best = max(best, lower_bound)
    raise UserError(
        "select.calibrate_vote: no share of votes is right often enough: of "
        f"{len(verdicts)} audit prompts with a majority the best lower bound of the precision is "
        f"{best:.3f}, needed is {MIN_PRECISION}; give a larger audit split "
        "(data.sources[].split: audit, or data.tasks[].audit), more samples per prompt, or set "
        "select.min_vote_share by hand"
    )


def _majority_verdicts(
    audit: Sequence[ScoredSample], ties_count: bool
) -> list[tuple[float, bool]]:
    """Return (share of votes, verdict of the verifier) of the majority of each prompt."""
    verdicts: list[tuple[float, bool]] = []
    for group in by_prompt(audit):
        # All samples that voted for it agree, so the verifier is asked about the first of them.
        voters = [
            scored for scored in group if scored.sample.finished and scored.is_majority
        ]
        if not voters:
            continue
        voter = voters[0]
        if ties_count or not voter.is_tied:
            is_right = verify(voter.prompt, voter.text)
            verdicts.append((voter.vote_share, is_right))
    return verdicts
