"""Simulated campaigns of the gate where prompts come in families, or answers are numbers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np

from components.contracts.rows import Result
from components.decide.gate import by_counts, by_gains, compare, decide
from components.statistics import alpha_of_round, binomial_upper
from tests.benchmarks.gate_rounds import CAMPAIGNS, ROUNDS, SECTION, Floats, Ints

BY_ERROR = SECTION.model_copy(update={"score": "error"})
LEVEL = alpha_of_round(SECTION.alpha, ROUNDS)
FAMILY_CAMPAIGNS = 2000
NUM_FAMILIES = (20, 41, 100, 200, 400)
LARGEST_LOSSES = (1, 4, 9, 19)
"""What a family loses that does, in gains of those that gain."""


def proves(
    gains: Sequence[float], families: Sequence[str], largest_loss: float = 1.0
) -> bool:
    """Whether the first round of a campaign would promote for these gains."""
    totals: Counter[str] = Counter()
    for family, gain in zip(families, gains, strict=True):
        totals[family] += gain  # type: ignore[assignment]
    values = list(totals.values())
    # What is not a standard error above 0 is not proved; to draw weights for it would take hours.
    if sum(values) <= sum(value * value for value in values) ** 0.5:
        return False
    unit = "points" if largest_loss == 1 else "error"
    return decide(by_gains(gains, families, LEVEL, unit, largest_loss)).promote


def false_campaigns(num_campaigns: int, promotes_falsely: Callable[[], bool]) -> int:
    """Of so many campaigns of equal models, how many promote."""
    return sum(
        any(promotes_falsely() for _ in range(ROUNDS)) for _ in range(num_campaigns)
    )


def leaning_gains(
    dice: np.random.Generator, families: int, size: int, ahead: float = 0.0
) -> Ints:
    """Gains of prompts in families of a size: the models differ on 15 % of the prompts, of which a
    family's lean the same way, 8 of 10; in `ahead` more of the families the candidate's way."""
    leaning = np.where(dice.random(families) < (1 + ahead) / 2, 1, -1).repeat(size)
    differs = dice.random(families * size) < 0.15
    follows = dice.random(families * size) < 0.8
    return np.where(differs, np.where(follows, leaning, -leaning), 0)


def names_of(families: int, size: int) -> list[str]:
    """The family of each prompt."""
    return [f"family {number // size}" for number in range(families * size)]


def mcnemar_campaigns(dice: np.random.Generator, families: int, size: int) -> int:
    """Of FAMILY_CAMPAIGNS campaigns of equal models with families, how many promote when the gate
    takes each prompt for itself."""

    def promotes_falsely() -> bool:
        gains = leaning_gains(dice, families, size)
        wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
        return (
            wins > losses and decide(by_counts(gains.size, wins, losses, LEVEL)).promote
        )

    return false_campaigns(FAMILY_CAMPAIGNS, promotes_falsely)


def skewed_campaigns(
    dice: np.random.Generator, families: int, loss: int, equal: float = 0.0
) -> int:
    """Of CAMPAIGNS campaigns of equal models, how many promote: families of `loss` prompts gain one
    prompt, or lose all, or (a share `equal`) neither."""

    @cache
    def promoted(gained: int, lost: int) -> bool:
        neither = families - gained - lost
        totals = [1 / loss] * gained + [-1.0] * lost + [0.0] * neither
        return proves(totals, [str(number) for number in range(families)])

    shares = [(1 - equal) * loss / (1 + loss), (1 - equal) / (1 + loss), equal]
    fooled = np.zeros(CAMPAIGNS, dtype=bool)
    for _ in range(ROUNDS):
        counts = dice.multinomial(families, shares, CAMPAIGNS)
        fooled |= np.array(
            [promoted(gained, lost) for gained, lost, _ in counts.tolist()]
        )
    return int(fooled.sum())


def graded_campaigns(dice: np.random.Generator, prompts: int) -> int:
    """Of FAMILY_CAMPAIGNS campaigns of equal models whose answers are numbers, 2 in 100 of them far
    off, how many promote."""

    def drawn_errors() -> Floats:
        return dice.choice(
            [0.0, 1.0, 2.0, 4.0, 1e6], prompts, p=[0.5, 0.28, 0.1, 0.1, 0.02]
        )

    def results(errors: Floats) -> list[Result]:
        return [
            Result(
                split="validation",
                prompt_id=str(number),
                text="",
                finished=True,
                num_tokens=1,
                correct=error == 0,
                numeric=True,
                error=error,
            )
            for number, error in enumerate(errors.tolist())
        ]

    def promotes_falsely() -> bool:
        champion, candidate = drawn_errors(), drawn_errors()
        gains = champion.clip(max=4) - candidate.clip(max=4)
        # As in `proves`: to draw weights for what is no gain would take hours.
        if gains.sum() <= 1.5 * float((gains**2).sum()) ** 0.5:
            return False
        compared = compare(results(champion), results(candidate), BY_ERROR, LEVEL)
        return decide(compared).promote

    return false_campaigns(FAMILY_CAMPAIGNS, promotes_falsely)


def upper_note(fooled: dict[str, tuple[int, int]]) -> tuple[float, str]:
    """Return the largest of the exact 95 % upper bounds, and all of them in words.

    Args:
        fooled: Setting → (campaigns that promote, campaigns).
    """
    uppers = {name: binomial_upper(*counts) for name, counts in fooled.items()}
    for name, upper in uppers.items():
        print(f"{name}: {fooled[name][0] / fooled[name][1]:.4f}, at most {upper:.4f}")
    worst = max(uppers, key=lambda name: uppers[name])
    share = fooled[worst][0] / fooled[worst][1]
    return uppers[
        worst
    ], f"the worst of {len(fooled)} settings: {worst}, {share:.4f} of campaigns"


def family_figures(dice: np.random.Generator) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note), of prompts in families and of graded answers."""
    symmetric, skewed = {}, {}
    for families in NUM_FAMILIES:
        for equal in (0.0, 0.5, 0.85):
            fooled = skewed_campaigns(dice, families, 1, equal)
            name = f"{families} families won or lost as a whole, {equal:.0%} of them neither"
            symmetric[name] = (fooled, CAMPAIGNS)
        for loss in LARGEST_LOSSES:
            name = f"{families} families, +1 in most and -{loss} in few"
            skewed[name] = (skewed_campaigns(dice, families, loss), CAMPAIGNS)
    for prompts in (100, 400):
        fooled = graded_campaigns(dice, prompts)
        skewed[f"{prompts} errors, 2 % far off"] = (fooled, FAMILY_CAMPAIGNS)
    for families, size in ((41, 25), (400, 3)):
        names = names_of(families, size)
        fooled = false_campaigns(
            FAMILY_CAMPAIGNS,
            lambda families=families, size=size, names=names: proves(  # type: ignore[misc]
                leaning_gains(dice, families, size).tolist(), names
            ),
        )
        symmetric[f"{families} families of {size} that lean"] = (
            fooled,
            FAMILY_CAMPAIGNS,
        )
    powers = {}
    for families, size in ((41, 25), (100, 10), (200, 5), (400, 3), (400, 10)):
        names = names_of(families, size)
        # A family that leans gains 0.15 · (0.8 - 0.2) of its prompts: 5 points need 56 % more.
        ahead = 0.05 / 0.09
        shown = [
            proves(leaning_gains(dice, families, size, ahead).tolist(), names)
            for _ in range(400)
        ]
        powers[f"{families} of {size}"] = sum(shown) / len(shown)
    upper_symmetric, note_symmetric = upper_note(symmetric)
    upper_skewed, note_skewed = upper_note(skewed)
    ignored = mcnemar_campaigns(dice, 41, 25)
    bound = (
        "exact 95 % upper bound of the share of campaigns that promote, equal models"
    )
    return {
        "gate.family_false_promotion": (
            upper_symmetric,
            "≤ 0.05",
            f"{bound}, prompts in families, gains and losses alike; {note_symmetric}",
        ),
        "gate.skewed_family_false_promotion": (
            upper_skewed,
            "≤ 0.05",
            f"{bound}, families of which few lose much, and errors of which some are far off; "
            f"{note_skewed}",
        ),
        "gate.family_ignored": (
            ignored / FAMILY_CAMPAIGNS,
            "McNemar, each prompt for itself",
            "41 families of 25 that lean: why families matter",
        ),
        "gate.family_power": (
            powers["400 of 3"],
            "5 points, 400 families of 3",
            "chance that one round shows it where families lean; "
            + ", ".join(f"{name}: {power:.2f}" for name, power in powers.items()),
        ),
    }
