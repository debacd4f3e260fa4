"""How good the filters are, on samples of prompts whose answers are known and that are never
trained on.

Samples of one prompt stand and fall together, so every prompt counts once, by its share of right
samples. Bounds are lower one-sided 95 % ones (Clopper–Pearson).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
        self._filters: dict[str, dict[str, Any]] = {}

    def pass_through(self, name: str, one: Filter) -> None:
        """Apply a filter to what is left and note how well it did."""
        if not self.left:
            return
        kept, dropped = one(self.left)
        assert len(kept) + len(dropped) == len(self.left), f"{name} lost audit samples"
        self._filters[name] = self._measure(self.left, kept)
        self.left = kept

    def summary(self) -> dict[str, Any] | None:
        """For the receipt; None if there are no audit samples.

        `filters`: name → given, kept (samples), precision (share of right ones among the kept),
        precision_low, recall (share of the right ones that are kept), yield; `all`: the same over
        all filters; `model_accuracy`: share of right samples before any filter; `teaches_errors`:
        names of the filters that chose, if what they keep holds errors and is not proved better
        than that (2510.16657), else none. Of a model without errors nothing could be proved, so
        what holds none is let through.
        """
        if not self._given:
            return None
        whole, accuracy = self._measure(self._given, self.left), _mean(self._shares(self._given))
        errors = whole["precision"] != 1.0
        return {
            "prompts": len({one.prompt.id for one in self._given}),
            "samples": len(self._given),
            "model_accuracy": accuracy,
            "filters": self._filters,
            "all": whole,
            "teaches_errors": self._that_chose()
            if errors and whole["precision_low"] <= accuracy
            else [],
        }

    def _that_chose(self) -> list[str]:
        """Filters that dropped something; all, if none did."""
        chose = [name for name, counts in self._filters.items() if counts["kept"] < counts["given"]]
        return chose or list(self._filters)

    def _measure(self, given: Block, kept: Block) -> dict[str, Any]:
        """Counts, and shares by prompt."""
        shares = self._shares(kept)
        right_given, right_kept = (
            sum(self._right[one.key] for one in block) for block in (given, kept)
        )
        sure = int(sum(shares) + 1e-9)
        return {
            "given": len(given),
            "kept": len(kept),
            "prompts_kept": len(shares),
            "precision": _mean(shares) if shares else None,
            "precision_low": 1.0 - binomial_upper(len(shares) - sure, len(shares))
            if shares
            else 0.0,
            "recall": right_kept / right_given if right_given else None,
            "yield": len(kept) / max(1, len(given)),
        }

    def _shares(self, block: Block) -> list[float]:
        return [_mean([self._right[one.key] for one in own]) for own in by_prompt(block)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))
