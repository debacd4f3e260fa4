"""Precision and recall of the filters, measured on samples of prompts whose answers are known.

These prompts are never trained on. Samples of one prompt stand and fall together, so every prompt
counts once, by its share of right samples. Bounds are lower one-sided 95 % ones (Clopper–Pearson).
"""

from __future__ import annotations

from collections.abc import Sequence

from components.contracts.summaries.select import FilterAudit, FilterQuality
from components.select.scored_samples import Block, Filter, ScoredSample, by_prompt
from components.statistics import binomial_upper
from components.verifiers import verify


class Audit:
    """The account of the audit samples, filter by filter."""

    def __init__(self, samples: Sequence[ScoredSample]) -> None:
        self._samples = list(samples)
        self._remaining: list[ScoredSample] = list(samples)
        # Verified once: all filters are measured against the same verdicts.
        self._is_right = {scored.key: verify(scored.prompt, scored.text) for scored in samples}
        self._filters: dict[str, FilterQuality] = {}

    def pass_through(self, name: str, apply: Filter) -> None:
        """Apply a filter to the samples that earlier filters passed, and note its precision."""
        if not self._remaining:
            return
        passed, dropped = apply(self._remaining)
        num_samples = len(passed) + len(dropped)
        assert num_samples == len(self._remaining), f"{name} lost audit samples"
        # On what earlier filters passed: a filter is not praised for what others have dropped.
        self._filters[name] = self._measure(self._remaining, passed)
        self._remaining = passed

    def summary(self) -> FilterAudit | None:
        """Return the quality of the filters, or None without audit samples.

        Filters teach errors if what they pass holds errors and is not proved better than the
        model's own accuracy (2510.16657).
        """
        if not self._samples:
            return None
        overall = self._measure(self._samples, self._remaining)
        accuracy = _mean(self._right_shares(self._samples))
        # Nothing could be proved of a model without errors: no bound is above an accuracy of 1.
        holds_errors = overall.precision != 1.0
        teaches_errors = holds_errors and overall.precision_low <= accuracy
        return FilterAudit(
            prompts=len({scored.prompt.id for scored in self._samples}),
            samples=len(self._samples),
            model_accuracy=accuracy,
            filters=self._filters,
            all=overall,
            teaches_errors=self._filters_that_chose() if teaches_errors else (),
        )

    def _filters_that_chose(self) -> tuple[str, ...]:
        """Return the names of filters that dropped something; all names, if none did."""
        choosers = [
            name for name, counts in self._filters.items() if counts.accepted < counts.given
        ]
        return tuple(choosers or self._filters)

    def _measure(self, given: Block, passed: Block) -> FilterQuality:
        """Return counts of samples, and shares by prompt."""
        # By prompt: ten right samples of one prompt prove little more than one.
        shares = self._right_shares(passed)
        num_right_given = self._num_right(given)
        num_prompts = len(shares)
        # A prompt counts as proved right only as a whole: the sum of shares is rounded down, with
        # an allowance for the rounding of thirds and sevenths.
        num_right_prompts = int(sum(shares) + 1e-9)
        num_wrong_prompts = num_prompts - num_right_prompts
        upper_error = binomial_upper(num_wrong_prompts, num_prompts) if shares else 1.0
        return FilterQuality(
            given=len(given),
            accepted=len(passed),
            prompts_accepted=num_prompts,
            precision=_mean(shares) if shares else None,
            precision_low=1.0 - upper_error,
            recall=self._num_right(passed) / num_right_given if num_right_given else None,
            accepted_share=len(passed) / max(1, len(given)),
        )

    def _num_right(self, block: Block) -> int:
        return sum(self._is_right[scored.key] for scored in block)

    def _right_shares(self, block: Block) -> list[float]:
        """Return the share of right samples of each prompt."""
        return [self._num_right(group) / len(group) for group in by_prompt(block)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
