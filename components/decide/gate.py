"""The gate: a candidate replaces the champion only if it is proved better, on the same prompts."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from components.bounded_mean import MeanTest, bounded_mean_test
from components.contracts.recipe import DecideSection
from components.contracts.rows import Result
from components.contracts.state import RoundRecord
from components.decide.guards import Alarm
from components.errors import Corrupt, UserError
from components.family_means import family_mean_test
from components.macro_f1 import macro_f1, macro_f1_test
from components.measures import (
    MAX_BRIER,
    brier_gains,
    class_choices,
    class_gains,
    loss_gains,
    score_gains,
    unit_of,
)
from components.statistics import (
    mcnemar_one_sided,
    mcnemar_size,
    minimal_detectable_gain,
)
from components.verifiers.numeric_error import error_gains

Pairs = Sequence[tuple[Result, Result]]
"""(champion, candidate) of each prompt."""


@dataclass(frozen=True)
class Graded:
    """The part of a comparison beyond counts of prompts: graded scores, or prompts in families."""

    gain: float
    """Mean over prompts, candidate minus champion; above 0 is better."""
    detectable: float | None
    """True gain that these families show four times out of five; None if they are too few."""
    families: int
    """Number of families."""
    unit: str
    """`points` of accuracy (the gain is a share), `error`, `brier`, `score`, `macro_f1`, or `loss` in
    nats per token."""


@dataclass(frozen=True)
class Comparison:
    """Champion and candidate, prompt by prompt."""

    pairs: int
    """Prompts."""
    wins: int
    """Prompts that only the candidate got right (or where its error or loss is smaller)."""
    losses: int
    """Prompts that only the champion got right (or where its error or loss is smaller)."""
    p_value: float
    """One-sided probability of such a gain if the candidate were no better: exact McNemar; for
    `graded` Gaffke's test of a bounded mean, or class by class (macro_f1.py), of losses Student's t
    over families."""
    level: float
    """Highest p-value that proves a gain in this round (`alpha_account.level_of_round`)."""
    graded: Graded | None = None
    """None for right or wrong, each prompt alone."""

    @property
    def detectable(self) -> float | None:
        """True gain that this many pairs show four times out of five; None if they show no gain."""
        if self.graded is not None:
            return self.graded.detectable
        discordance = (self.wins + self.losses) / self.pairs
        return minimal_detectable_gain(self.pairs, discordance, self.level)

    @property
    def size(self) -> float:
        """Chance that equal models pass this test; at most the level."""
        if self.graded is not None:
            return self.level
        return mcnemar_size(self.wins + self.losses, self.level)

    @property
    def gain(self) -> float:
        """Mean score of the candidate minus that of the champion."""
        if self.graded is not None:
            return self.graded.gain
        return (self.wins - self.losses) / self.pairs

    @property
    def in_words(self) -> str:
        """The numbers in words."""
        counts = (
            f"{self.wins} prompts with a smaller {self._unit} than the champion's, "
            f"{self.losses} with a larger one"
        )
        # A gain is less error or loss, so its sign is turned.
        gain = f"mean absolute error {-self.gain:+.4g}"
        if self._unit == "points":
            counts = f"{self.wins} prompts only the candidate got right, {self.losses} only the champion"
            gain = f"{100 * self.gain:+.1f} points"
        elif self._unit == "loss":
            gain = f"perplexity {100 * math.expm1(-self.gain):+.2f} %"
        elif self._unit == "brier":
            gain = f"mean Brier score {-self.gain:+.4f}"
        elif self._unit == "score":
            counts = (
                f"{self.wins} prompts with a larger score than the champion's, "
                f"{self.losses} with a smaller one"
            )
            gain = f"mean score {self.gain:+.4f}"
        elif self._unit == "macro_f1":
            counts = (
                f"the class of {self.wins} prompts only the candidate found, of {self.losses} only "
                "the champion"
            )
            gain = f"macro-F1 {self.gain:+.4f}"
        families = ""
        if self.graded is not None:
            families = f" in {self.graded.families} families"
        test = f"p = {self.p_value:.2g}, needed {self.level:.3g}"
        return f"{counts}, of {self.pairs}{families} ({gain}; {test})"

    @property
    def power(self) -> str:
        """The gain that these prompts could have shown, in words."""
        if self.detectable is None:
            return "these prompts are too few to show any gain four times out of five"
        gain = f"{self.detectable:.4g} less error"
        # A gain in points is a share of prompts; an error has the unit of the answers.
        if self._unit == "points":
            gain = f"{100 * self.detectable:.1f} points"
        elif self._unit == "brier":
            gain = f"a Brier score less by {self.detectable:.4f}"
        elif self._unit == "score":
            gain = f"a mean score more by {self.detectable:.4f}"
        elif self._unit == "macro_f1":
            gain = f"a macro-F1 more by {self.detectable:.4f}"
        elif self._unit == "loss":
            gain = f"{-100 * math.expm1(-self.detectable):.2f} % of the perplexity"
        return (
            f"these prompts are enough to show a gain of {gain} four times out of five"
        )

    @property
    def _unit(self) -> str:
        return "points" if self.graded is None else self.graded.unit


@dataclass(frozen=True)
class Ruling:
    """The gate's verdict on a candidate."""

    promote: bool
    reason: str
    """One sentence with the numbers."""


def compare(
    champion: Iterable[Result],
    candidate: Iterable[Result],
    section: DecideSection,
    level: float,
) -> Comparison:
    """Pair the validation results of two models by prompt and test the difference.

    Right or wrong, each prompt alone: exact McNemar. With `section.family`, of errors, scores and
    Brier scores: Gaffke's test over families, which holds for skewed gains too. Losses: Student's t over
    families, or over stretches of neighbouring text. Macro-F1: a test of its own, class by class.

    Args:
        champion: Validation results of the champion.
        candidate: Validation results of the candidate.
        section: Score and families.
        level: Highest p-value that proves a gain in this round.

    Raises:
        Corrupt: A prompt has a result of one model only.
        UserError: The recipe names a tag or a score that the results lack.
    """
    champion_rows = {row.prompt_id: row for row in champion}
    candidate_rows = {row.prompt_id: row for row in candidate}
    # A test of pairs is void if some were left out, by whatever fault.
    if champion_rows.keys() != candidate_rows.keys() or not champion_rows:
        unpaired = sorted(champion_rows.keys() ^ candidate_rows.keys())
        raise Corrupt(
            "champion and candidate were measured on different prompts "
            f"({len(champion_rows)} and {len(candidate_rows)} validation results, "
            f"{len(unpaired)} without a partner, for example {unpaired[:1]})"
        )
    # In an order of their own: resampling by a fixed seed depends on it.
    prompt_ids = sorted(champion_rows)
    pairs = [
        (champion_rows[prompt_id], candidate_rows[prompt_id])
        for prompt_id in prompt_ids
    ]
    families = _families(pairs, section.family)
    if section.compared_by == "loss":
        return _by_losses(pairs, families, level)
    if section.compared_by == "brier":
        return by_gains(brier_gains(pairs), families, level, "brier", MAX_BRIER)
    if section.compared_by == "score":
        return by_gains(score_gains(pairs), families, level, "score")
    if section.compared_by == "macro_f1":
        return _by_macro_f1(pairs, families, level)
    if section.score == "right" and len(set(families)) == len(pairs):
        # Pairs that agree, right or wrong, carry no information about the difference.
        wins = 0
        losses = 0
        for old, new in pairs:
            wins += new.correct and not old.correct
            losses += old.correct and not new.correct
        return by_counts(len(pairs), wins, losses, level)
    if section.score == "error":
        gains, largest_error = _error_gains(pairs)
        return by_gains(gains, families, level, "error", largest_error)
    gains = [float(new.correct) - float(old.correct) for old, new in pairs]
    return by_gains(gains, families, level, "points")


def by_counts(pairs: int, wins: int, losses: int, level: float) -> Comparison:
    """Compare by the exact McNemar test; see `Comparison` for the arguments."""
    p_value = mcnemar_one_sided(wins, losses)
    return Comparison(pairs, wins, losses, p_value, level)


def by_gains(
    gains: Sequence[float],
    families: Sequence[str],
    level: float,
    unit: str,
    largest_loss: float = 1.0,
) -> Comparison:
    """Compare by Gaffke's test of a bounded mean, each family as a whole.

    Args:
        gains: Candidate minus champion of each prompt; above 0 is better.
        families: Family of each prompt.
        level: Highest p-value that proves a gain.
        unit: `points`, `error`, `brier` or `score`.
        largest_loss: What a prompt can lose at most.
    """
    test = bounded_mean_test(gains, families, largest_loss, level)
    return _graded(gains, families, level, unit, test)


def _by_losses(pairs: Pairs, families: Sequence[str], level: float) -> Comparison:
    """Compare by the loss per token; the mean of the gains is that over all tokens."""
    for old, new in pairs:
        if old.loss_tokens != new.loss_tokens:
            raise Corrupt(
                f"prompt {new.prompt_id}: losses over {old.loss_tokens} and {new.loss_tokens} "
                "tokens cannot be compared"
            )
    gains = loss_gains(pairs)
    return _graded(
        gains, families, level, "loss", family_mean_test(gains, families, level)
    )


def _by_macro_f1(pairs: Pairs, families: Sequence[str], level: float) -> Comparison:
    """Compare by macro-F1, which is no mean over prompts: the gain is that of the whole."""
    choices = class_choices(pairs)
    comparison = _graded(
        class_gains(choices), families, level, "macro_f1", macro_f1_test(choices, level)
    )
    assert comparison.graded is not None
    old = macro_f1([(right, champion) for right, champion, _ in choices])
    new = macro_f1([(right, candidate) for right, _, candidate in choices])
    return replace(comparison, graded=replace(comparison.graded, gain=new - old))


def _graded(
    gains: Sequence[float],
    families: Sequence[str],
    level: float,
    unit: str,
    test: MeanTest,
) -> Comparison:
    return Comparison(
        pairs=len(gains),
        wins=sum(gain > 0 for gain in gains),
        losses=sum(gain < 0 for gain in gains),
        p_value=test.p_value,
        level=level,
        graded=Graded(
            gain=sum(gains) / len(gains),
            detectable=test.detectable,
            families=len(set(families)),
            unit=unit,
        ),
    )


def decide(comparison: Comparison, alarms: Sequence[Alarm] = ()) -> Ruling:
    """Return whether to promote: the candidate is significantly better and no alarm blocks it.

    The levels of the rounds (alpha_account.py) bound the probability that a campaign promotes a
    model that is not better by alpha.
    """
    numbers = comparison.in_words
    if comparison.gain <= 0:
        return Ruling(False, f"not better: {numbers}")
    if comparison.level <= 0:
        reason = (
            "earlier rounds have spent the campaign's alpha: a new campaign, on new validation "
            "prompts, can prove a gain"
        )
        return Ruling(False, f"better, but not proved: {numbers}; {reason}")
    if comparison.p_value > comparison.level:
        return Ruling(False, f"better, but not proved: {numbers}; {comparison.power}")
    # An alarm is named only where it decides: without a proved gain the candidate is rejected
    # anyway.
    blocking_reasons = [alarm.reason for alarm in alarms if alarm.blocks]
    if blocking_reasons:
        reason = "; ".join([*blocking_reasons, numbers])
        return Ruling(False, reason)
    return Ruling(True, f"proved better: {numbers}")


def rounds_without_cost(history: Sequence[RoundRecord]) -> int:
    """Return how many rounds in a row spent no alpha, up to the last round of the history."""
    # A promotion costs nothing, and a weak round compared nothing: each of them left its share of
    # alpha for the next round to use.
    last_rounds = itertools.takewhile(
        lambda record: record.verdict == "promoted" or record.weak, reversed(history)
    )
    return len(list(last_rounds))


def _error_gains(pairs: Pairs) -> tuple[list[float], float]:
    """Return the champion's absolute error minus the candidate's, of each prompt, and the largest
    error that counts.
    """
    if all(row.error is None for pair in pairs for row in pair):
        raise UserError(
            "decide.score is `error`, and no validation prompt has a numeric verifier: "
            "use score `right`"
        )
    return error_gains([(old.error, new.error) for old, new in pairs])


def _families(pairs: Pairs, tag: str) -> list[str]:
    """Return the family of each prompt: the value of the tag; without one, the stretch of
    neighbouring text that it is from, or the prompt itself.
    """
    # Both results of a pair have the prompt's tags.
    rows = [champion_row for champion_row, _ in pairs]
    if not tag:
        return [unit_of(row) for row in rows]
    num_untagged = sum(tag not in row.tags for row in rows)
    if num_untagged:
        tag_names = {name for row in rows for name in row.tags}
        raise UserError(
            f"decide.family: {num_untagged} of {len(pairs)} validation prompts have no tag {tag!r} "
            f"(tags there are: {', '.join(sorted(tag_names)) or 'none'})"
        )
    return [row.tags[tag] for row in rows]
