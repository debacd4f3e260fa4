"""How good the filters are, on samples of prompts whose answers are known and that are never
trained on.

Samples of one prompt stand and fall together, so every prompt counts once, by its share of right
samples. Bounds are lower one-sided 95 % ones (Clopper–Pearson).
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
        self.left: list[ScoredSample] = list(samples)
        """What the filters so far have kept."""
        self._right = {one.key: verify(one.prompt, one.text) for one in samples}
        self._given = list(samples)
        self._filters: dict[str, FilterQuality] = {}

    def pass_through(self, name: str, one: Filter) -> None:
        """Apply a filter to what is left and note how well it did."""
        if not self.left:
            return
        kept, dropped = one(self.left)
        assert len(kept) + len(dropped) == len(self.left), f"{name} lost audit samples"
        self._filters[name] = self._measure(self.left, kept)
        self.left = kept

    def summary(self) -> FilterAudit | None:
        """Return how good the filters are; None if there are no audit samples.

        Filters teach errors if what they keep holds errors and is not proved to be righter than the
        model (2510.16657). Of a model without errors nothing could be proved, so what holds none is
        let through.
        """
        if not self._given:
            return None
        whole, accuracy = self._measure(self._given, self.left), _mean(self._shares(self._given))
        unproved = whole.precision != 1.0 and whole.precision_low <= accuracy
        return FilterAudit(
            prompts=len({one.prompt.id for one in self._given}),
            samples=len(self._given),
            model_accuracy=accuracy,
            filters=self._filters,
            all=whole,
            teaches_errors=self._that_chose() if unproved else (),
        )

    def _that_chose(self) -> tuple[str, ...]:
        """Filters that dropped something; all, if none did."""
        chose = [name for name, counts in self._filters.items() if counts.kept < counts.given]
        return tuple(chose or self._filters)

    def _measure(self, given: Block, kept: Block) -> FilterQuality:
        """Counts, and shares by prompt."""
        shares = self._shares(kept)
        right_given, right_kept = (
            sum(self._right[one.key] for one in block) for block in (given, kept)
        )
        sure = int(sum(shares) + 1e-9)
        upper_errors = binomial_upper(len(shares) - sure, len(shares)) if shares else 1.0
        return FilterQuality(
            given=len(given),
            kept=len(kept),
            prompts_kept=len(shares),
            precision=_mean(shares) if shares else None,
            precision_low=1.0 - upper_errors,
            recall=right_kept / right_given if right_given else None,
            kept_share=len(kept) / max(1, len(given)),
        )

    def _shares(self, block: Block) -> list[float]:
        return [_mean([self._right[one.key] for one in own]) for own in by_prompt(block)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
