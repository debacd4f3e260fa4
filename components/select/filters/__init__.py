"""The filters over samples, in the order they work: each gives back what it keeps and what it
drops, with a reason.

A module has one function, or a few for filters that belong together, `(rules, remaining) -> Filter
| None`; None: the recipe does not ask for it. Filters that must see all samples before they can
decide on one begin a pass of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.select.filter_settings import Rules
from components.select.filters import (
    completeness,
    consistency,
    contamination,
    difficulty,
    diversity,
    hint_leaks,
    influence,
    length,
    near_duplicates,
    repeats,
    score_bounds,
    verifier,
)
from components.select.scored_samples import Filter, Remaining


@dataclass(frozen=True)
class Entry:
    """One filter of the account."""

    name: str
    filter_of: Callable[[Rules, Remaining], Filter | None]
    checks_quality: bool = True
    """Whether it means to keep right answers: then the audit measures how well it does."""


VERIFIER = "verifier"
PASSES: tuple[tuple[Entry, ...], ...] = (
    (
        Entry("contamination", contamination.filter_of, checks_quality=False),
        Entry("unfinished", completeness.filter_of),
        Entry("empty", completeness.not_empty),
        Entry(VERIFIER, verifier.filter_of),
        Entry("function", verifier.by_function),
        Entry("hint", hint_leaks.filter_of, checks_quality=False),
        Entry("vote", consistency.filter_of),
    ),
    (
        Entry("length", length.filter_of),
        Entry("difficulty", difficulty.filter_of, checks_quality=False),
        Entry("duplicate", repeats.exact, checks_quality=False),
        Entry("same_path", repeats.paths, checks_quality=False),
    ),
    (
        Entry("near_duplicate", near_duplicates.filter_of, checks_quality=False),
        Entry("cap", repeats.few_per_prompt, checks_quality=False),
        Entry("judge", score_bounds.by_judge),
        Entry("reward", score_bounds.by_reward),
        Entry("likelihood", score_bounds.by_likelihood),
        Entry("influence", influence.filter_of),
    ),
    (Entry("diversity", diversity.filter_of, checks_quality=False),),
)
"""Cheap and certain ones first; what costs a model's forward pass sees only rows that are worth it.
"""
BEFORE_VERIFIER = ("contamination", "unfinished", "empty")
"""Filters of the first pass whose drops say nothing of what the verifier thinks of an answer."""
