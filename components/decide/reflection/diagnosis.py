"""Diagnosis: from a round's numbers to likely causes, each with one bounded change of the plan."""

from __future__ import annotations

from collections.abc import Callable

from components.decide.reflection.capacity_causes import (
    stopped_too_soon,
    too_little_capacity,
)
from components.decide.reflection.data_causes import (
    duplicate_flood,
    evaluation_contamination,
    label_noise,
    labelled_share_too_low,
    low_diversity,
    stop_token_wrong,
    temperature_too_high,
    too_few_accepted,
    truncation,
    verifier_false_negatives,
    verifier_too_lenient,
)
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.plan import Finding
from components.decide.reflection.training_causes import (
    base_not_mastered,
    forgetting,
    learning_rate_too_high,
    learning_rate_too_low,
    optimizer_trouble,
    overfitting,
    underfitting,
)

Check = Callable[[Evidence], Finding | None]
# Tuples and no registry: a check that is not in these lists is not made. Their order has no meaning,
# because findings are sorted by priority.
TRAINING_CHECKS: tuple[Check, ...] = (
    optimizer_trouble,
    learning_rate_too_high,
    learning_rate_too_low,
    overfitting,
    underfitting,
    stopped_too_soon,
    too_little_capacity,
    forgetting,
    base_not_mastered,
)
"""Checks of a training and its candidate."""
DATA_CHECKS: tuple[Check, ...] = (
    truncation,
    stop_token_wrong,
    too_few_accepted,
    low_diversity,
    temperature_too_high,
    verifier_false_negatives,
    verifier_too_lenient,
    label_noise,
    duplicate_flood,
    evaluation_contamination,
    labelled_share_too_low,
)
"""Checks of samples, verifier and mix, which a weak round has too."""
CHECKS = (*TRAINING_CHECKS, *DATA_CHECKS)


CONTRADICTIONS: tuple[frozenset[str], ...] = (
    frozenset({"overfitting", "underfitting"}),
    frozenset({"overfitting", "too_little_capacity"}),
    frozenset({"overfitting", "stopped_too_soon"}),
    frozenset({"learning_rate_too_high", "learning_rate_too_low"}),
    frozenset({"low_diversity", "temperature_too_high"}),
    frozenset({"verifier_false_negatives", "verifier_too_lenient"}),
    frozenset({"stop_token_wrong", "truncation"}),
)
"""Pairs of causes that cannot both be true of one round."""


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return all findings, that of the highest priority first; empty if nothing stands out.

    Of two that contradict each other only the first is told.
    """
    findings = []
    for check in DATA_CHECKS if evidence.train is None else CHECKS:
        finding = check(evidence)
        if finding is not None:
            findings.append(finding)
    # By name too, so that equal priorities give the same plan every time.
    findings.sort(key=lambda finding: (-finding.priority, finding.name))
    kept: list[Finding] = []
    for finding in findings:
        pairs = (frozenset({finding.name, other.name}) for other in kept)
        if not any(pair in CONTRADICTIONS for pair in pairs):
            kept.append(finding)
    return kept
