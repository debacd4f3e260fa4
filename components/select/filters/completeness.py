"""Answers that were cut off, or say nothing."""

from __future__ import annotations

from components.select.filter_settings import Rules
from components.select.scored_samples import Block, Filter, Outcome, Remaining, ScoredSample, split


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers that were cut off, unless the recipe lets them through."""
    if not rules.section.require_finished:
        return None

    def refusal(one: ScoredSample) -> str:
        return "" if one.sample.finished else f"cut off after {one.sample.num_tokens} tokens"

    return lambda block: split(block, refusal, "unfinished")


def not_empty(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers without any text."""

    def apply(block: Block) -> Outcome:
        return split(block, lambda one: "" if one.text.strip() else "no text", "empty")

    return apply
