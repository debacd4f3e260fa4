"""Diagnosis: from a round's numbers to likely causes, each with one bounded change of the plan."""

from __future__ import annotations

from collections.abc import Callable

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
    too_little_capacity,
    underfitting,
)

Check = Callable[[Evidence], Finding | None]
# A tuple and no registry: a check that is not in this list is not made. Their order has no meaning,
# because findings are sorted by confidence.
CHECKS: tuple[Check, ...] = (
    optimizer_trouble,
    learning_rate_too_high,
    learning_rate_too_low,
    overfitting,
    underfitting,
    too_little_capacity,
    forgetting,
    base_not_mastered,
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


def diagnose(evidence: Evidence) -> list[Finding]:
    """Return all findings, the most confident first; empty if nothing stands out."""
    findings = []
    for check in CHECKS:
        finding = check(evidence)
        if finding is not None:
            findings.append(finding)
    # By name too, so that equal confidences give the same plan every time.
    return sorted(findings, key=lambda finding: (-finding.confidence, finding.name))
