"""Samples without an answer, answers that were cut off, and answers without text."""

from __future__ import annotations

from components.select.filter_settings import FilterSettings
from components.select.scored_samples import Filter, Remaining, ScoredSample, split


def answered(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops what an endpoint refused to answer, with its words."""
    return lambda block: split(
        block, lambda scored: scored.sample.no_answer, "no_answer"
    )


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers which were cut off; None if the recipe allows them."""
    if not settings.section.require_finished:
        return None

    def refusal(scored: ScoredSample) -> str:
        # A piece of text may stop anywhere.
        if scored.sample.finished or scored.prompt.is_text:
            return ""
        return f"cut off after {scored.sample.num_tokens} tokens"

    return lambda block: split(block, refusal, "unfinished")


def not_empty(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers without any text."""

    def refusal(scored: ScoredSample) -> str:
        # An answer keeps its white space, but white space alone is none.
        return "" if scored.text.strip() else "no text"

    return lambda block: split(block, refusal, "empty")
