"""Verdicts of the gate on models that differ as told, with alarms."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from components.contracts.recipe import DecideSection, Goal
from components.contracts.rows import Result
from components.contracts.summaries import SelectSummary
from components.contracts.summaries.evaluate import CollapseAlarm
from components.decide.gate import Comparison, compare
from components.decide.guards import Alarm, alarms_of
from components.statistics import alpha_of_round
from tests.unit.crafted import evaluate_summary, results_of

SECTION = DecideSection(goal=Goal(threshold=0.9), max_rounds=5)
LEVEL = alpha_of_round(SECTION.alpha, SECTION.max_rounds)


def paired(
    wins: int, losses: int, both: int = 0, neither: int = 0
) -> tuple[list[Result], list[Result]]:
    """Results of a champion and a candidate that differ as told."""
    champion = [False] * wins + [True] * losses + [True] * both + [False] * neither
    candidate = [True] * wins + [False] * losses + [True] * both + [False] * neither
    return results_of({"": champion}), results_of({"": candidate})


@functools.cache
def compared(wins: int, losses: int, both: int = 0, neither: int = 0) -> Comparison:
    return compare(*paired(wins, losses, both, neither), SECTION, LEVEL)


def alarms(
    ratio: float | None,
    texts: Sequence[Any] = (),
    blocks: tuple[CollapseAlarm, ...] = (),
    warnings: tuple[CollapseAlarm, ...] = (),
    teaches_errors: tuple[str, ...] = (),
    why_unproved: str | None = None,
    bias: float = 0.0,
    section: DecideSection = SECTION,
) -> tuple[Alarm, ...]:
    """Alarms about a candidate with this perplexity on human text against round 0."""
    evaluation = evaluate_summary(blocks=blocks, warnings=warnings)
    selection = SelectSummary(
        round=1,
        labelled_rows=0,
        teaches_errors=teaches_errors,
        why_unproved=why_unproved,
        bias={"answer": bias},
    )
    return alarms_of(evaluation, selection, ratio, texts, section)
