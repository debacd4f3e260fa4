"""The gate: a candidate replaces the champion only if it is proved better, on the same prompts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from components.contracts.recipe import DecideSection
from components.contracts.rows import Result
from components.decide.guards import Alarm
from components.errors import Corrupt, UserError
from components.statistics import (
    alpha_of_round,
    bootstrap_p_value,
    cluster_standard_error,
    detectable_mean_gain,
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
        """Accuracy over a slice. Raises UserError, naming the slices there are, if no prompt has
        that tag."""
        if name not in self.counts:
            known = (
                ", ".join(one for one in self.counts if one) or "none: the prompts carry no tags"
            )
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
class Graded:
    """A comparison that is more than right or wrong prompt by prompt: graded scores, or prompts in
    families."""

    gain: float
    """Mean over prompts, candidate minus champion; above 0 is better."""
    standard_error: float | None
    """Of the gain, between families; None with a single one."""
    families: int
    unit: str
    """`points` of accuracy (the gain is a share) or `error`."""


@dataclass(frozen=True)
class Comparison:
    """Champion and candidate, prompt by prompt."""

    pairs: int
    wins: int
    """Prompts that only the candidate got right (or where its error is smaller)."""
    losses: int
    """Prompts that only the champion got right (or where its error is smaller)."""
    p_value: float
    """One-sided chance of such a gain if both were equal: exact McNemar; for `graded` the clustered
    bootstrap."""
    level: float
    """What p must not exceed this round (`alpha_of_round`)."""
    graded: Graded | None = None

    @property
    def detectable(self) -> float | None:
        """True gain that this many pairs would have shown four times out of five; None if no gain
        could have."""
        if self.graded is not None:
            return detectable_mean_gain(
                self.graded.standard_error, self.graded.families, self.level
            )
        return minimal_detectable_gain(
            self.pairs, (self.wins + self.losses) / self.pairs, self.level
        )

    @property
    def gain(self) -> float:
        """Accuracy (or what is compared) of the candidate minus that of the champion."""
        return (
            self.graded.gain if self.graded is not None else (self.wins - self.losses) / self.pairs
        )

    @property
    def found(self) -> str:
        """The numbers in words."""
        if self.graded is None or self.graded.unit == "points":
            counted = (
                f"{self.wins} prompts only the candidate got right, {self.losses} only the champion"
            )
        else:
            counted = f"{self.wins} prompts with a smaller error than the champion's, {self.losses} with a larger one"
        families = f" in {self.graded.families} families" if self.graded is not None else ""
        return (
            f"{counted}, of {self.pairs}{families} ({self.in_unit(self.gain, '+')}; p = {self.p_value:.2g}, needed "
            f"{self.level:.3g})"
        )

    @property
    def power(self) -> str:
        """The power report: the gain these prompts could have shown."""
        if self.detectable is None:
            return "these prompts are too few to show any gain four times out of five"
        return f"these prompts are enough to show a gain of {self.in_unit(self.detectable)} four times out of five"

    def in_unit(self, gain: float, sign: str = "") -> str:
        """A gain as a person would write it."""
        if self.graded is None or self.graded.unit == "points":
            return f"{100 * gain:{sign}.1f} points"
        return f"{gain:{sign}.4g} less error" if not sign else f"mean absolute error {-gain:+.4g}"


@dataclass(frozen=True)
class Ruling:
    """What the gate says, and why in one sentence with the numbers."""

    promote: bool
    why: str


def compare(
    champion: Iterable[Result],
    candidate: Iterable[Result],
    section: DecideSection,
    promotions: int = 0,
) -> Comparison:
    """Pair the validation results of two models by prompt; `promotions` rounds in a row just before
    this one promoted.

    Right or wrong, each prompt alone: exact McNemar. With `section.family` or `section.score`
    "error": bootstrap over families. Raises Corrupt if a prompt lacks its partner, UserError if the
    recipe names a tag or a score that the results lack.
    """
    before, after = ({row.prompt_id: row for row in rows} for rows in (champion, candidate))
    if before.keys() != after.keys() or not before:
        alone = sorted(before.keys() ^ after.keys())
        raise Corrupt(
            f"champion and candidate were measured on different prompts ({len(before)} and {len(after)} validation "
            f"results, {len(alone)} without a partner, for example {alone[:1]})"
        )
    pairs = [(before[one], after[one]) for one in sorted(before)]
    level = alpha_of_round(section.alpha, section.max_rounds, promotions)
    if section.score == "right" and not section.family:
        wins = sum(new.correct and not old.correct for old, new in pairs)
        losses = sum(old.correct and not new.correct for old, new in pairs)
        return by_counts(len(pairs), wins, losses, level)
    gains = [float(new.correct) - float(old.correct) for old, new in pairs]
    if section.score == "error":
        gains = _error_gains(pairs)
    return by_gains(
        gains,
        _families(pairs, section.family),
        level,
        "error" if section.score == "error" else "points",
    )


def by_counts(pairs: int, wins: int, losses: int, level: float) -> Comparison:
    """Compare by the exact McNemar test."""
    return Comparison(pairs, wins, losses, mcnemar_one_sided(wins, losses), level)


def by_gains(
    gains: Sequence[float], families: Sequence[str], level: float, unit: str
) -> Comparison:
    """Compare by the clustered paired bootstrap; `gains` are candidate minus champion, prompt by
    prompt."""
    graded = Graded(
        sum(gains) / len(gains), cluster_standard_error(gains, families), len(set(families)), unit
    )
    wins, losses = sum(gain > 0 for gain in gains), sum(gain < 0 for gain in gains)
    return Comparison(
        len(gains), wins, losses, bootstrap_p_value(gains, families, level), level, graded
    )


def decide(comparison: Comparison, alarms: Sequence[Alarm] = ()) -> Ruling:
    """Promote if the candidate is significantly better and nothing blocks it.

    The levels of a campaign's rounds (`alpha_of_round`) are such that it promotes a model that is
    not better with a chance of at most alpha.
    """
    if comparison.gain <= 0:
        return Ruling(False, f"not better: {comparison.found}")
    if comparison.p_value > comparison.level:
        return Ruling(False, f"better, but not proved: {comparison.found}; {comparison.power}")
    blocks = [alarm for alarm in alarms if alarm.blocks]
    if blocks:
        return Ruling(False, f"{'; '.join(block.why for block in blocks)}; {comparison.found}")
    return Ruling(True, f"proved better: {comparison.found}")


def _error_gains(pairs: Sequence[tuple[Result, Result]]) -> list[float]:
    """How much smaller the candidate's absolute errors are. An answer that is no number counts as
    the largest error that either model made on any prompt."""
    known = [abs(row.error) for pair in pairs for row in pair if row.error is not None]
    if not known:
        raise UserError(
            "decide.score is `error`, and no validation prompt has a numeric verifier: use score `right`"
        )
    worst = max(known)

    def off(row: Result) -> float:
        return worst if row.error is None else abs(row.error)

    return [off(old) - off(new) for old, new in pairs]


def _families(pairs: Sequence[tuple[Result, Result]], tag: str) -> list[str]:
    if not tag:
        return [old.prompt_id for old, _ in pairs]
    lacking = sum(tag not in old.tags for old, _ in pairs)
    if lacking:
        known = ", ".join(sorted({name for old, _ in pairs for name in old.tags})) or "none"
        raise UserError(
            f"decide.family: {lacking} of {len(pairs)} validation prompts have no tag {tag!r} (tags there are: {known})"
        )
    return [old.tags[tag] for old, _ in pairs]
