"""Self-consistency: the answer that most samples of a prompt agree on (2210.11610)."""

from __future__ import annotations

from collections.abc import Sequence

from components.errors import UserError
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import Filter, Remaining, ScoredSample, by_prompt, split
from components.statistics import binomial_upper
from components.verifiers import verify

WANTED_PRECISION = 0.9
"""What the lower 95 % bound of the precision must be at a calibrated threshold (2502.01612)."""


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Drops minority answers, and all answers of prompts without a clear majority. Among models
    trained from several seeds (`train.num_peers`) the majority is a cross-seed vote (2502.01612).

    A tie is no majority: which of the answers was sampled first says nothing about them. With
    `select.tie_goes_to_first` it is one.
    """
    ties_count = settings.section.tie_goes_to_first
    least = settings.section.min_vote_share
    if settings.section.calibrate_vote:
        least = max(least, calibrated_share(settings.audit, ties_count))
    if least == 0.0:
        return None

    def refusal(one: ScoredSample) -> str:
        if one.answer and one.is_tied and not ties_count:
            return f"{one.answer[:100]!r}; another answer has as many votes ({one.vote_share:.2f})"
        if not one.answer or one.answer != one.majority:
            return f"{one.answer[:100]!r}; the majority ({one.vote_share:.2f}) says {one.majority[:100]!r}"
        return (
            "" if one.vote_share >= least else f"majority share {one.vote_share:.2f} < {least:.2f}"
        )

    return lambda block: split(block, refusal, "vote")


def calibrated_share(audit: Sequence[ScoredSample], ties_count: bool = False) -> float:
    """The smallest majority share from which on majorities are right with a lower 95 % bound
    (Clopper–Pearson) of WANTED_PRECISION on the audit samples; each prompt counts once, and not at
    all if it is tied, unless `ties_count`. UserError if there is none."""
    shares: list[tuple[float, bool]] = []
    for own in by_prompt(audit):
        voter = next(
            (
                one
                for one in own
                if one.answer and one.answer == one.majority and one.sample.finished
            ),
            None,
        )
        if voter is not None and (ties_count or not voter.is_tied):
            shares.append((voter.vote_share, verify(voter.prompt, voter.text)))
    best = 0.0
    for least in sorted({share for share, _ in shares}):
        verdicts = [right for share, right in shares if share >= least]
        low = 1.0 - binomial_upper(len(verdicts) - sum(verdicts), len(verdicts))
        if low >= WANTED_PRECISION:
            return least
        best = max(best, low)
    raise UserError(
        f"select.calibrate_vote: no share of votes is right often enough: of {len(shares)} audit "
        f"prompts with a majority the best lower bound of the precision is {best:.3f}, needed is {WANTED_PRECISION}; "
        "give a larger audit split (data.sources[].split: audit, or data.tasks[].audit), more samples per prompt, or set "
        "select.min_vote_share by hand"
    )
