"""What may block a candidate that is proved better: collapse, lost knowledge, a mix that teaches
errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from components.contracts.recipe import DecideSection
from components.contracts.rows import TextResult
from components.contracts.state import RoundRecord
from components.contracts.summaries import EvaluateSummary, SelectSummary
from components.statistics import Z_95_ONE_SIDED, bootstrap_lower, two_proportions_z

FEW_TEXTS = 30
"""Below so many retention rows a bound says little, and the sentence says so."""


@dataclass(frozen=True)
class Alarm:
    """Something that speaks against a candidate."""

    measure: str
    """perplexity, retention, teaches_errors, self_agreement, or one of evaluate's: distinct_2,
    pass_at_k, length."""
    blocks: bool
    """False: a warning."""
    why: str
    """One sentence with the numbers."""


def alarms_of(
    evaluation: EvaluateSummary,
    selection: SelectSummary,
    perplexity_ratio: float | None,
    retention: Sequence[tuple[TextResult, TextResult]],
    section: DecideSection,
) -> tuple[Alarm, ...]:
    """All alarms about a candidate, those that block first.

    `evaluation` and `selection` are the summaries of evaluate (which measures collapse against
    round 0) and select. `perplexity_ratio` is the candidate's on human text over that of round 0's
    model, None where it is not measured; `retention` are (champion, candidate) of the retention
    split's rows.
    """
    found = [
        *_perplexity(perplexity_ratio, section.max_perplexity_ratio),
        *_retention(retention, section.retention_margin),
        *_collapse(evaluation),
        *_errors_taught(selection),
    ]
    return tuple(sorted(found, key=lambda alarm: not alarm.blocks))


def _perplexity(ratio: float | None, most: float) -> list[Alarm]:
    """Warns at half of what blocks, like all measures of collapse."""
    if ratio is None or ratio <= 1 + (most - 1) / 2:
        return []
    text = f"collapse guard: perplexity on human text is {ratio:.3f} times that of round 0, at most {most:.3f} is allowed"
    return [Alarm("perplexity", ratio > most, text)]


def _retention(pairs: Sequence[tuple[TextResult, TextResult]], margin: float | None) -> list[Alarm]:
    """Non-inferiority: the lower 95 % bound of what was gained must be above minus the margin."""
    if margin is None or not pairs:
        return []
    gains = [new.token_accuracy - old.token_accuracy for old, new in pairs]
    mean, lower = math.fsum(gains) / len(gains), bootstrap_lower(gains, range(len(gains)))
    if lower > -margin:
        return []
    few = (
        f"; {len(gains)} rows say little: give more retention text"
        if len(gains) < FEW_TEXTS
        else ""
    )
    lost = "lost" if mean < 0 else "may have lost"
    text = (
        f"retention guard: the candidate {lost} human text: token accuracy {100 * mean:+.2f} points on {len(gains)} "
        f"rows, lower 95 % bound {100 * lower:+.2f}, above {-100 * margin:+.2f} is needed{few}"
    )
    return [Alarm("retention", True, text)]


def _collapse(evaluation: EvaluateSummary) -> list[Alarm]:
    """Blocks and warnings of evaluate; its perplexity is compared here, with the recipe's bound."""
    signs = [
        *((sign, True) for sign in evaluation.blocks),
        *((sign, False) for sign in evaluation.warnings),
    ]
    return [
        Alarm(sign.measure, blocks, f"collapse guard: {sign.why}")
        for sign, blocks in signs
        if sign.measure != "perplexity"
    ]


def _errors_taught(selection: SelectSummary) -> list[Alarm]:
    """A filter that rejects fewer errors than the model makes teaches errors (2510.16657)."""
    names = selection.teaches_errors
    if not names:
        return []
    why = f"by the audit set, what {', '.join(names)} kept is no better than the model itself"
    text = f"the mix teaches errors: {selection.why_blocked or why}"
    return [Alarm("teaches_errors", True, text)]


def self_agreement(
    history: Sequence[RoundRecord], measures: Mapping[str, float], level: int
) -> tuple[Alarm, ...]:
    """A warning where samples agree more than in an earlier round of the same difficulty and are
    right less, both on the way to collapse in loops without labels (2505.21444). It is about the
    model that sampled, so it comes a round after the one that made it. Needs an audit split; each
    of its prompts counts once."""
    needed = {"agreement", "audit_accuracy", "audit_prompts"}
    before = [one for one in history if one.level == level and needed <= one.measures.keys()]
    if not before or not needed <= measures.keys():
        return ()
    best = max(before, key=lambda one: one.measures["audit_accuracy"])
    (now, num), (was, num_was) = (
        (own["audit_accuracy"], round(own["audit_prompts"])) for own in (measures, best.measures)
    )
    surer = measures["agreement"] > best.measures["agreement"]
    if not surer or two_proportions_z(now, num, was, num_was) > -Z_95_ONE_SIDED:
        return ()
    text = (
        f"collapse guard: {now:.3f} of the samples are right on the audit split, in round {best.round} {was:.3f}, but "
        f"they agree with each other more ({measures['agreement']:.3f}, {best.measures['agreement']:.3f}): the loop "
        "grows sure of what is wrong"
    )
    return (Alarm("self_agreement", False, text),)
