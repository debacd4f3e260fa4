"""Answers of unusual length: errors tend to be short (2502.01612)."""

from __future__ import annotations

from collections import Counter, defaultdict

from components.select.filter_settings import Rules
from components.select.scored_samples import Filter, Remaining, ScoredSample, split


def filter_of(rules: Rules, remaining: Remaining) -> Filter | None:
    """Drops answers far from the median length (characters) of their slice, which is that of all
    that remain."""
    lengths: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for block in remaining():
        for one in block:
            lengths[one.slice][len(one.text)] += 1
    medians = {name: _median(counts) for name, counts in lengths.items()}
    low, high = rules.section.min_length_ratio, rules.section.max_length_ratio

    def refusal(one: ScoredSample) -> str:
        median = medians.get(one.slice)
        if median is None:  # a slice of audit prompts alone: there is nothing to compare with
            return ""
        ratio = len(one.text) / max(1, median)
        return (
            ""
            if low <= ratio <= high
            else f"{len(one.text)} characters, {ratio:.2f} of the median of its slice"
        )

    return lambda block: split(block, refusal, "length")


def _median(counts: Counter[int]) -> float:
    """The median of a sample given by its counts; between the two middle ones if their number is
    even."""
    total, below, lower = counts.total(), 0, 0
    for value in sorted(counts):
        below += counts[value]
        if 2 * below == total:
            lower = value
            continue
        if 2 * below > total:
            return (lower + value) / 2 if 2 * (below - counts[value]) == total else value
    return lower
