"""The gate: a candidate replaces the champion only if it is proved better, on the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from components.common.errors import Corrupt, UserError
from components.common.recipe import DecideSection
from components.common.records import Result
from components.common.statistics import (
    alpha_per_round,
    mcnemar_one_sided,
    minimal_detectable_gain,
    wilson_interval,
)


@dataclass(frozen=True)
class Scores:
    """How often one model was right on one split, over all prompts ("") and by slice (`tag=value`)."""

    counts: dict[str, tuple[int, int]]
    """Slice → (right, prompts)."""

    @classmethod
    def of(cls, results: Iterable[Result]) -> Scores:
        """Count results of one split."""
        counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for row in results:
            for name in ("", *(f"{tag}={value}" for tag, value in row.tags.items())):
                counts[name][0] += row.correct
                counts[name][1] += 1
        return cls({name: (right, number) for name, (right, number) in sorted(counts.items())})

    @property
    def slices(self) -> dict[str, float]:
        """Accuracy by slice, without the overall one."""
        return {name: right / number for name, (right, number) in self.counts.items() if name}

    def accuracy(self, name: str = "") -> float:
        """Accuracy over a slice. Raises UserError, naming the slices there are, if no prompt has that tag."""
        if name not in self.counts:
            known = ", ".join(one for one in self.counts if one) or "none: the prompts carry no tags"
            raise UserError(
                f"no evaluation prompt belongs to slice {name!r} (there are: {known}); mend decide.goal.slice, or "
                "raise the task's `validation` so that every length has prompts"
            )
        right, number = self.counts[name]
        return right / number

    def interval(self, name: str = "") -> tuple[float, float]:
        """95 % interval of that accuracy (Wilson)."""
        return wilson_interval(*self.counts[name])


@dataclass(frozen=True)
class Comparison:
    """Champion and candidate, prompt by prompt."""

    pairs: int
    wins: int
    """Prompts that only the candidate got right."""
    losses: int
    """Prompts that only the champion got right."""
    p_value: float
    """Exact one-sided McNemar: chance of so many wins if both were equally good."""
    level: float
    """What p must not exceed this round: alpha / max_rounds."""

    @property
    def detectable(self) -> float | None:
        """True gain that this many pairs would have shown four times out of five; None if no gain could have."""
        return minimal_detectable_gain(self.pairs, (self.wins + self.losses) / self.pairs, self.level)

    @property
    def gain(self) -> float:
        """Accuracy of the candidate minus that of the champion."""
        return (self.wins - self.losses) / self.pairs


@dataclass(frozen=True)
class Ruling:
    """What the gate says, and why in one sentence with the numbers."""

    promote: bool
    why: str


def compare(champion: Iterable[Result], candidate: Iterable[Result], section: DecideSection) -> Comparison:
    """Pair the validation results of two models by prompt. Raises Corrupt if a prompt lacks its partner."""
    before, after = ({row.prompt_id: row.correct for row in rows} for rows in (champion, candidate))
    if before.keys() != after.keys() or not before:
        alone = sorted(before.keys() ^ after.keys())
        raise Corrupt(
            f"champion and candidate were measured on different prompts ({len(before)} and {len(after)} validation "
            f"results, {len(alone)} without a partner, for example {alone[:1]})"
        )
    wins = sum(after[one] and not before[one] for one in before)
    losses = sum(before[one] and not after[one] for one in before)
    p_value = mcnemar_one_sided(wins, losses)
    return Comparison(len(before), wins, losses, p_value, alpha_per_round(section.alpha, section.max_rounds))


def judge(comparison: Comparison, perplexity_ratio: float | None, section: DecideSection) -> Ruling:
    """Promote if the candidate is right significantly more often and has not unlearned human text.

    Each of R rounds may spend alpha / R, so a campaign of models that never get better promotes falsely with a chance
    of at most alpha. `perplexity_ratio` is the candidate's on human text over that of round 0's model, None where it
    is not measured.
    """
    found = (
        f"{comparison.wins} prompts only the candidate got right, {comparison.losses} only the champion, of "
        f"{comparison.pairs} ({100 * comparison.gain:+.1f} points; p = {comparison.p_value:.2g}, needed "
        f"{comparison.level:.3g})"
    )
    if comparison.wins <= comparison.losses:
        return Ruling(False, f"not better: {found}")
    if comparison.p_value > comparison.level:
        seen = comparison.detectable
        power = "too few to show any gain" if seen is None else f"enough to show a gain of {100 * seen:.1f} points"
        return Ruling(False, f"better, but not proved: {found}; these prompts are {power} four times out of five")
    if perplexity_ratio is not None and perplexity_ratio > section.max_perplexity_ratio:
        return Ruling(
            False,
            f"collapse guard: perplexity on human text is {perplexity_ratio:.3f} times that of round 0, at most "
            f"{section.max_perplexity_ratio:.3f} is allowed; {found}",
        )
    return Ruling(True, f"proved better: {found}")
