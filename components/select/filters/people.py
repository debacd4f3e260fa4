"""Verdicts of people as the measure of quality."""

from __future__ import annotations

from components.contracts.reviews import answer_id
from components.select.filter_settings import FilterSettings
from components.select.scored_samples import (
    Block,
    Filter,
    Outcome,
    Remaining,
    ScoredSample,
    split,
)


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which people call wrong, and those that nobody marked.

    None if the recipe asks no people.
    """
    verdicts = settings.people
    if verdicts is None:
        return None

    def verdict_on(scored: ScoredSample) -> bool | None:
        return verdicts.get(answer_id(scored.prompt.id, scored.sample.text))

    def unmarked(scored: ScoredSample) -> str:
        return "nobody marked it" if verdict_on(scored) is None else ""

    def wrong(scored: ScoredSample) -> str:
        return "" if verdict_on(scored) else "a person calls it wrong"

    def apply(block: Block) -> Outcome:
        marked, dropped = split(block, unmarked, "unmarked")
        passed, refused = split(marked, wrong, "people")
        return passed, [*dropped, *refused]

    return apply
