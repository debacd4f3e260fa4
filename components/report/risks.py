"""What a person weighs before a release: rivals, slices that got worse, warnings, prompts lost."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from components.measures import measure_of, percent
from components.report.costs import Totals
from components.report.views import RunView
from components.report.words import seconds_text

MAX_SLICES = 12
"""Slices that got worse, on the page."""


@dataclass(frozen=True)
class LostSlice:
    """A slice of the test split on which the champion is worse than the base."""

    name: str
    num_prompts: int
    before: str
    after: str


def lost_slices(view: RunView) -> list[LostSlice]:
    """Return the slices of test on which the champion is worse than the base, the worst first."""
    base, champion = view.base_evaluation, view.champion_evaluation
    if base is None or champion is None:
        return []
    measure = measure_of(champion.metric)
    before = base.measured.get("test", {})
    worse: list[tuple[float, LostSlice]] = []
    for name, after in champion.measured.get("test", {}).items():
        old = before.get(name)
        if not name or old is None or not measure.improves(old.value, after.value):
            continue
        lost = LostSlice(
            name, after.n, measure.text(old.value), measure.text(after.value)
        )
        worse.append((abs(old.value - after.value), lost))
    worse.sort(key=lambda pair: (-pair[0], pair[1].name))
    return [lost for _, lost in worse[:MAX_SLICES]]


def risks(view: RunView) -> Iterator[str]:
    """Yield what speaks for a second look, a sentence each."""
    publication, champion = view.publication, view.champion_evaluation
    if publication is not None and not publication.target_met:
        yield "The goal of the recipe is not reached."
    if view.answers is not None and view.answers.num_lost:
        answers = view.answers
        share = percent(answers.num_lost / answers.num_prompts)
        yield (
            f"{answers.num_lost:,} of {answers.num_prompts:,} test prompts ({share}) were answered "
            "better by the base model."
        )
    if publication is not None:
        for rival in publication.rivals:
            if rival.verdict == "non-inferior":
                yield f"It may be worse than {rival.name} within the margin: {rival.why}."
    if champion is not None:
        for warning in champion.warnings:
            yield f"A sign of collapse warns: {warning.why}."
        if champion.skipped:
            yield f"Not measured: {', '.join(champion.skipped)}."


def cost_sentence(totals: Totals) -> str:
    """Return what the run has cost, in a sentence."""
    return (
        f"The run took {seconds_text(totals.task_seconds)} of tasks "
        f"({seconds_text(totals.wall_seconds)} of wall time) and {totals.tokens:,.0f} tokens."
    )
