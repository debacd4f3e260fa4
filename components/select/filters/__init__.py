"""The filters over samples, in order: each splits a block into passed and dropped samples.

A module has one function for each of its filters: `(settings, remaining) -> Filter | None`. It
returns None if the recipe does not ask for the filter. A filter that must see all samples before it
can decide on one calls `remaining`, and stands in a later pass than the filters it relies on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from components.select.filter_settings import FilterSettings
from components.select.filters import (
    choice,
    classes,
    completeness,
    consistency,
    contamination,
    difficulty,
    hint_leaks,
    influence,
    length,
    near_duplicates,
    people,
    repeats,
    score_bounds,
    verifier,
)
from components.select.scored_samples import Filter, Remaining


@dataclass(frozen=True)
class Entry:
    """A filter and its name in the account."""

    name: str
    filter_of: Callable[[FilterSettings, Remaining], Filter | None]
    """Returns the filter, or None if the recipe does not ask for it."""
    checks_quality: bool = True
    """True for a filter that aims at right answers: the audit measures its precision."""


VERIFIER = "verifier"
PASSES: tuple[tuple[Entry, ...], ...] = (
    # Filters that look at one prompt at a time. Contamination is the first, so that no later filter
    # learns anything from samples of evaluation prompts.
    (
        Entry("contamination", contamination.filter_of, checks_quality=False),
        Entry("no_answer", completeness.answered, checks_quality=False),
        Entry("unfinished", completeness.filter_of),
        Entry("empty", completeness.not_empty),
        Entry(VERIFIER, verifier.filter_of),
        Entry("function", verifier.by_function),
        Entry("no_class", classes.filter_of),
        # Nobody marks audit answers.
        Entry("people", people.filter_of, checks_quality=False),
        Entry("hint", hint_leaks.filter_of, checks_quality=False),
        Entry("vote", consistency.filter_of),
    ),
    # Length needs the median over all answers that are right.
    (
        Entry("length", length.filter_of),
        Entry("difficulty", difficulty.filter_of, checks_quality=False),
        Entry("duplicate", repeats.exact, checks_quality=False),
        Entry("same_path", repeats.paths, checks_quality=False),
    ),
    # Near-duplicates are searched among all rows that are left, before the cap counts them and
    # before a model is asked about them.
    (
        Entry("near_duplicate", near_duplicates.filter_of, checks_quality=False),
        Entry("cap", repeats.few_per_prompt, checks_quality=False),
        Entry("judge", score_bounds.by_judge),
        Entry("reward", score_bounds.by_reward),
        Entry("likelihood", score_bounds.by_likelihood),
        Entry("influence", influence.filter_of),
    ),
    # A choice among everything that may be trained on.
    (Entry("choice", choice.filter_of, checks_quality=False),),
)
"""Cheap and certain filters come first, so that those which run a model see the fewest rows."""
BEFORE_VERIFIER = ("contamination", "no_answer", "unfinished", "empty")
"""Filters of the first pass that drop samples before the verifier has seen them."""
