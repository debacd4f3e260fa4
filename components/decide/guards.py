"""Alarms that may block a proved candidate: collapse, lost knowledge, a mix that teaches errors."""

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
"""With fewer retention rows a bound says little, and the sentence says so."""


@dataclass(frozen=True)
class Alarm:
    """Evidence against a candidate."""

    measure: str
    """`perplexity`, `retention`, `teaches_errors`, `bias`, `self_agreement`, or one of evaluate's
    measures: `distinct_2`, `pass_at_k`, `length`."""
    blocks: bool
    """True if the candidate must not be promoted; False for a warning."""
    reason: str
    """One sentence with the numbers."""


def alarms_of(
    evaluation: EvaluateSummary,
    selection: SelectSummary,
    perplexity_ratio: float | None,
    retention: Sequence[tuple[TextResult, TextResult]],
    section: DecideSection,
) -> tuple[Alarm, ...]:
    """Return all alarms about a candidate, those that block first.

    Args:
        evaluation: Summary of evaluate, which measures collapse against earlier models.
        selection: Summary of select.
        perplexity_ratio: The candidate's perplexity on human text over that of the best of the base
            and all champions; None if it was not measured.
        retention: (champion, candidate) of each row of the retention split.
        section: The bounds.
    """
    alarms = [
        *_perplexity(perplexity_ratio, section.max_perplexity_ratio),
        *_retention(retention, section.retention_margin),
        *_collapse(evaluation),
        *_errors_taught(selection),
        *_biased(selection, section.max_bias),
    ]
    return tuple(sorted(alarms, key=lambda alarm: not alarm.blocks))


def _perplexity(ratio: float | None, max_ratio: float) -> list[Alarm]:
    # Like all measures of collapse it warns half way to the bound that blocks.
    warning_ratio = 1 + (max_ratio - 1) / 2
    if ratio is None or ratio <= warning_ratio:
        return []
    reason = (
        f"collapse guard: perplexity on human text is {ratio:.3f} times that of the best model so far, "
        f"at most {max_ratio:.3f} is allowed"
    )
    return [Alarm("perplexity", ratio > max_ratio, reason)]


def _retention(
    pairs: Sequence[tuple[TextResult, TextResult]], margin: float | None
) -> list[Alarm]:
    """Return an alarm unless the lower 95 % bound of the gain is above minus the margin.

    This is a test of non-inferiority of the token accuracy.

    Args:
        pairs: (champion, candidate) of each retention row.
        margin: Share of tokens that may be lost; None allows any loss.
    """
    if margin is None or not pairs:
        return []
    gains = [new.token_accuracy - old.token_accuracy for old, new in pairs]
    mean = math.fsum(gains) / len(gains)
    lower = bootstrap_lower(gains, range(len(gains)))
    if lower > -margin:
        return []
    # A small sample can fail the test although nothing was lost on average.
    lost = "lost" if mean < 0 else "may have lost"
    reason = (
        f"retention guard: the candidate {lost} human text: "
        f"token accuracy {100 * mean:+.2f} points on {len(gains)} rows, "
        f"lower 95 % bound {100 * lower:+.2f}, above {-100 * margin:+.2f} is needed"
    )
    if len(gains) < FEW_TEXTS:
        reason += f"; {len(gains)} rows say little: give more retention text"
    return [Alarm("retention", True, reason)]


def _collapse(evaluation: EvaluateSummary) -> list[Alarm]:
    """Return the blocks and warnings of evaluate, but for the perplexity."""
    signs = [(sign, True) for sign in evaluation.blocks]
    signs += [(sign, False) for sign in evaluation.warnings]
    # The perplexity is compared with the recipe's bound instead (`_perplexity`).
    return [
        Alarm(sign.measure, blocks, f"collapse guard: {sign.why}")
        for sign, blocks in signs
        if sign.measure != "perplexity"
    ]


def _biased(selection: SelectSummary, max_distance: float | None) -> list[Alarm]:
    """Return an alarm if the accepted answers are distributed unlike those of labelled rows."""
    distance = selection.bias.get("answer")
    # The first mix has no samples, and so no distance.
    if max_distance is None or distance is None or distance <= max_distance / 2:
        return []
    reason = (
        f"bias guard: the answers of accepted samples are {distance:.3f} from those of labelled "
        f"rows (Jensen-Shannon distance), at most {max_distance:.3f} is allowed"
    )
    return [Alarm("bias", distance > max_distance, reason)]


def _errors_taught(selection: SelectSummary) -> list[Alarm]:
    """Return an alarm if the filters' rows are shown to be hardly better than the model's answers
    (2510.16657), and a warning if that is not known."""
    names = ", ".join(selection.teaches_errors)
    if not names:
        # What is trained on is no better for sure, but the gate will prove the candidate or not.
        if selection.why_unproved is None:
            return []
        return [Alarm("teaches_errors", False, f"not proved: {selection.why_unproved}")]
    reason = selection.why_blocked
    if not reason:
        reason = f"by the audit set, what {names} kept is hardly better than the model itself"
    return [Alarm("teaches_errors", True, f"the mix teaches errors: {reason}")]


def self_agreement(
    history: Sequence[RoundRecord], measures: Mapping[str, float], level: int
) -> tuple[Alarm, ...]:
    """Return a warning if samples agree more than in an earlier round but are right less often.

    Both are signs of collapse in loops without labels (2505.21444). The warning is about the model
    that sampled, so it comes a round after that model was trained. It needs an audit split; each
    audit prompt counts once.

    Args:
        history: Earlier rounds.
        measures: This round in numbers.
        level: Difficulty of this round; only rounds of the same difficulty are compared.
    """
    needed = {"agreement", "audit_accuracy", "audit_prompts"}
    # Longer problems are harder: agreement and accuracy of different levels are not comparable.
    same_level = [record for record in history if record.level == level]
    earlier = [record for record in same_level if needed <= record.measures.keys()]
    if not earlier or not needed <= measures.keys():
        return ()
    # Against the round that was right most often: a slow decline has no single step.
    best = max(earlier, key=lambda record: record.measures["audit_accuracy"])
    accuracy = measures["audit_accuracy"]
    best_accuracy = best.measures["audit_accuracy"]
    agreement = measures["agreement"]
    best_agreement = best.measures["agreement"]
    num_prompts = round(measures["audit_prompts"])
    num_best_prompts = round(best.measures["audit_prompts"])
    standard_errors = two_proportions_z(
        accuracy, num_prompts, best_accuracy, num_best_prompts
    )
    if agreement <= best_agreement or standard_errors > -Z_95_ONE_SIDED:
        return ()
    reason = (
        f"collapse guard: {accuracy:.3f} of the samples are right on the audit split, "
        f"in round {best.round} {best_accuracy:.3f}, but they agree with each other more "
        f"({agreement:.3f}, {best_agreement:.3f}): the loop grows sure of what is wrong"
    )
    return (Alarm("self_agreement", False, reason),)
