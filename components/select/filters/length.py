"""Answers of unusual length: errors tend to be short (2502.01612)."""

from __future__ import annotations

from collections import Counter, defaultdict

from components.select.filter_settings import FilterSettings
from components.select.scored_samples import Filter, Remaining, ScoredSample, split


def filter_of(settings: FilterSettings, remaining: Remaining) -> Filter | None:
    """Return a filter that drops answers whose length is far from the median of their slice.

    Lengths are in characters; the median is over all samples that remain when the pass begins.
    """
    # By slice: answers to longer problems are longer, and that is no fault. Counts of lengths take
    # little memory, however many samples there are.
    lengths_by_slice: dict[tuple[str, str], Counter[int]] = defaultdict(Counter)
    for block in remaining():
        for scored in block:
            lengths_by_slice[scored.slice][len(scored.text)] += 1
    medians = {name: _median(lengths) for name, lengths in lengths_by_slice.items()}
    low = settings.section.min_length_ratio
    high = settings.section.max_length_ratio

    def refusal(scored: ScoredSample) -> str:
        median = medians.get(scored.slice)
        # A slice of audit prompts alone: there is nothing to compare with.
        if median is None:
            return ""
        length = len(scored.text)
        ratio = length / max(1, median)
        if low <= ratio <= high:
            return ""
        return f"{length} characters, {ratio:.2f} of the median of its slice"

    return lambda block: split(block, refusal, "length")


def _median(counts: Counter[int]) -> float:
    """Return the median of a sample, given as value → count; of two middle values their mean."""
    total = counts.total()
    below = 0
    lower_middle = 0
    for value in sorted(counts):
        through_value = below + counts[value]
        if 2 * through_value == total:
            # The middle lies between this value and the next one.
            lower_middle = value
        elif 2 * through_value > total:
            is_pair = 2 * below == total
            return (lower_middle + value) / 2 if is_pair else value
        below = through_value
    return lower_middle
