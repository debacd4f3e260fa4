"""Figures of the gate: `python -m tests.benchmarks.gate [--seed N]`. Some minutes; no model is
trained.

Campaigns of 10 rounds on 1,025 validation prompts are simulated, and every round is decided by the
product's own `by_counts`, `by_gains` and `decide`. A campaign is a chain of models: each candidate
answers like the champion but for some prompts, `discordance` of all of them, and a promoted
candidate is the next champion, with the results it was promoted for.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from components.contracts.recipe import DecideSection, Goal
from components.contracts.rows import Result
from components.decide.alpha_account import charged, level_of_round, opened
from components.decide.gate import by_counts, by_gains, compare, decide
from components.statistics import alpha_of_round, binomial_upper
from tests.benchmarks.figures import record

PROMPTS, ROUNDS, CAMPAIGNS, GAIN = 1025, 10, 20_000, 0.03
SECTION = DecideSection(goal=Goal(threshold=1.0), max_rounds=ROUNDS)
BY_ERROR = SECTION.model_copy(update={"score": "error"})
LEVEL = alpha_of_round(SECTION.alpha, ROUNDS)
ACCURACIES, DISCORDANCES = (0.3, 0.6, 0.9), (0.02, 0.07, 0.15, 0.3)
HEADLINE = 0.07
"""Discordance of the headline power: a candidate that is 3 points better wins 5 prompts of 100 and
loses 2."""
STEPS = (0, 1, 3)
"""True gains before there is nothing more to gain: a promotion raises the next round's level."""
FAMILY_CAMPAIGNS = 2000
NUM_FAMILIES = (20, 41, 100, 200, 400)
LARGEST_LOSSES = (1, 4, 9, 19)
"""What a family loses that does, in gains of those that gain."""
CONTINUED_CAMPAIGNS = 10_000


def _run(max_rounds: int, alpha: float = 0.05) -> DecideSection:
    return DecideSection(goal=Goal(threshold=1.0), max_rounds=max_rounds, alpha=alpha)


CONTINUED = {
    "4 rounds": [_run(4)],
    "4 rounds, then 4 more three times": [_run(rounds) for rounds in (4, 8, 12, 16)],
    "1 round, then 1 more fifteen times": [_run(rounds) for rounds in range(1, 17)],
    "4 rounds, then 4 more with alpha 0.2 and 0.5": [_run(4), _run(8, 0.2), _run(12, 0.5)],
}
"""Campaigns that people carry out in several runs, with the settings of each."""

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@cache
def promotes(wins: int, losses: int, in_a_row: int) -> bool:
    """What the gate says of these counts after so many promotions."""
    return decide(
        by_counts(PROMPTS, wins, losses, alpha_of_round(SECTION.alpha, ROUNDS, in_a_row))
    ).promote


def gate(wins: Ints, losses: Ints, in_a_row: Ints) -> Bools:
    """The gate's word on many candidates."""
    return np.array(
        [
            promotes(*one)
            for one in zip(wins.tolist(), losses.tolist(), in_a_row.tolist(), strict=True)
        ]
    )


def naive(wins: Ints, losses: Ints, in_a_row: Ints) -> Bools:
    """Higher wins."""
    return np.asarray(wins > losses)


def campaigns(
    dice: np.random.Generator,
    accuracy: float,
    discordance: float,
    rule: Callable[[Ints, Ints, Ints], Bools],
    steps: int = 0,
) -> Bools:
    """Whether each round of each campaign promoted, (campaigns, rounds). Candidates are GAIN better
    than the champion until `steps` of them were promoted, and equal to it from then on: a further
    promotion is a false one."""
    right = dice.binomial(PROMPTS, accuracy, CAMPAIGNS)
    promoted = np.zeros((CAMPAIGNS, ROUNDS), dtype=bool)
    in_a_row = np.zeros(CAMPAIGNS, dtype=np.int64)
    for number in range(ROUNDS):
        done = promoted.sum(axis=1)
        ahead = np.where(done < steps, GAIN, 0.0)
        base = accuracy + GAIN * np.minimum(done, steps)
        wins = dice.binomial(PROMPTS - right, (discordance + ahead) / 2 / (1 - base))
        losses = dice.binomial(right, (discordance - ahead) / 2 / base)
        promoted[:, number] = rule(wins, losses, in_a_row)
        right = np.where(promoted[:, number], right + wins - losses, right)
        in_a_row = np.where(promoted[:, number], in_a_row + 1, 0)
    return promoted


def power_after(promoted: Bools, promotions: int) -> float:
    """Chance that a round promotes which comes after so many promotions in a row, from the first
    round on."""
    return float(promoted[promoted[:, :promotions].all(axis=1), promotions].mean())


def possible(accuracy: float, discordance: float, steps: int) -> bool:
    """Whether models can differ on so many prompts, and be GAIN apart `steps` times."""
    ahead, best = GAIN * (steps > 0), accuracy + GAIN * steps
    return ahead <= discordance and (discordance + ahead) / 2 <= min(accuracy, 1 - best)


def proves(gains: Sequence[float], families: Sequence[str], largest_loss: float = 1.0) -> bool:
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
    return sum(any(promotes_falsely() for _ in range(ROUNDS)) for _ in range(num_campaigns))


def leaning_gains(dice: np.random.Generator, families: int, size: int, ahead: float = 0.0) -> Ints:
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
        return wins > losses and decide(by_counts(gains.size, wins, losses, LEVEL)).promote

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
        fooled |= np.array([promoted(gained, lost) for gained, lost, _ in counts.tolist()])
    return int(fooled.sum())


def graded_campaigns(dice: np.random.Generator, prompts: int) -> int:
    """Of FAMILY_CAMPAIGNS campaigns of equal models whose answers are numbers, 2 in 100 of them far
    off, how many promote."""

    def drawn_errors() -> Floats:
        return dice.choice([0.0, 1.0, 2.0, 4.0, 1e6], prompts, p=[0.5, 0.28, 0.1, 0.1, 0.02])

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
    return uppers[worst], f"the worst of {len(fooled)} settings: {worst}, {share:.4f} of campaigns"


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
        symmetric[f"{families} families of {size} that lean"] = (fooled, FAMILY_CAMPAIGNS)
    powers = {}
    for families, size in ((41, 25), (100, 10), (200, 5), (400, 3), (400, 10)):
        names = names_of(families, size)
        # A family that leans gains 0.15 · (0.8 - 0.2) of its prompts: 5 points need 56 % more.
        ahead = 0.05 / 0.09
        shown = [
            proves(leaning_gains(dice, families, size, ahead).tolist(), names) for _ in range(400)
        ]
        powers[f"{families} of {size}"] = sum(shown) / len(shown)
    upper_symmetric, note_symmetric = upper_note(symmetric)
    upper_skewed, note_skewed = upper_note(skewed)
    ignored = mcnemar_campaigns(dice, 41, 25)
    bound = "exact 95 % upper bound of the share of campaigns that promote, equal models"
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


def continued(dice: np.random.Generator, runs: Sequence[DecideSection], discordance: float) -> int:
    """Of CONTINUED_CAMPAIGNS campaigns of equal models, each one run after the other, how many
    promote; every run continues the one before it by `resume_from`."""
    fooled = 0
    for _ in range(CONTINUED_CAMPAIGNS):
        account = None
        num_rounds = 0
        promoted = False
        for run in runs:
            account = opened(account, run)
            while num_rounds < run.max_rounds and not promoted:
                num_rounds += 1
                level = level_of_round(account, num_rounds, run.max_rounds, promotions=0)
                differing = int(dice.binomial(PROMPTS, discordance))
                wins = int(dice.binomial(differing, 0.5))
                comparison = by_counts(PROMPTS, wins, differing - wins, level)
                # As `decide` has it, without its words, which take far longer than the test.
                promoted = comparison.gain > 0 and comparison.p_value <= level
                account = charged(account, comparison, promoted=promoted)
        fooled += promoted
    return fooled


def continued_figures(dice: np.random.Generator) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note), of campaigns that are continued."""
    worst = 0
    shares = []
    for name, runs in CONTINUED.items():
        for discordance in (0.02, 0.07):
            fooled = continued(dice, runs, discordance)
            worst = max(worst, fooled)
            shares.append(f"{name}, discordance {discordance}: {fooled / CONTINUED_CAMPAIGNS:.4f}")
            print(shares[-1])
    return {
        "gate.resumed_false_promotion": (
            worst / CONTINUED_CAMPAIGNS,
            "≤ 0.05",
            f"equal models, {PROMPTS} prompts, {CONTINUED_CAMPAIGNS} campaigns of each kind, the worst "
            f"of: {'; '.join(shares)}; 95 % upper bound "
            f"{binomial_upper(worst, CONTINUED_CAMPAIGNS):.4f}",
        )
    }


def main() -> None:
    """Simulate, print and record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dry", action="store_true", help="print only, record nothing")
    given = parser.parse_args()
    for name, (value, bound, note) in measure(
        np.random.Generator(np.random.PCG64(given.seed))
    ).items():
        print(f"{name} = {value:.4f} (bound {bound}) {note}")
        if not given.dry:
            command = f"python -m tests.benchmarks.gate --seed {given.seed}"
            record(name, value, "share", bound, command, given.seed, note)


def measure(dice: np.random.Generator) -> dict[str, tuple[float, str, str]]:
    """Name → (value, bound, note)."""
    false, fooled_naively, settings = 0, 1.0, 0
    for steps, accuracy, discordance in product(STEPS, ACCURACIES, DISCORDANCES):
        if not possible(accuracy, discordance, steps):
            continue
        own = int((campaigns(dice, accuracy, discordance, gate, steps).sum(axis=1) > steps).sum())
        naively = float(
            (campaigns(dice, accuracy, discordance, naive, steps).sum(axis=1) > steps).mean()
        )
        print(
            f"{steps} true gains, then equal models, accuracy {accuracy}, discordance {discordance}: "
            f"{own / CAMPAIGNS:.4f} of campaigns promote falsely, naively {naively:.4f}"
        )
        false, fooled_naively, settings = (
            max(false, own),
            min(fooled_naively, naively),
            settings + 1,
        )
    upper = binomial_upper(false, CAMPAIGNS)
    powers, ever, later = {}, {}, {}
    for discordance in (0.04, 0.05, HEADLINE, 0.1, 0.15, 0.2):
        shown = campaigns(dice, 0.5, discordance, gate, ROUNDS)
        powers[discordance], later[discordance] = power_after(shown, 0), power_after(shown, 2)
        ever[discordance] = float(shown.any(axis=1).mean())
        print(
            f"+3 points, discordance {discordance}: shown by the first round {powers[discordance]:.4f}, after two "
            f"promotions {later[discordance]:.4f}; by a campaign {ever[discordance]:.4f}"
        )
    resumed = continued_figures(dice)
    families = family_figures(dice)
    where = f"{PROMPTS} prompts, {ROUNDS} rounds, alpha {SECTION.alpha}"
    return {
        **resumed,
        "gate.false_promotion": (
            false / CAMPAIGNS,
            "≤ 0.05",
            f"share of campaigns that promote a model no better than its champion; the worst of {settings} settings of "
            f"accuracy, discordance and true gains before ({', '.join(map(str, STEPS))}), {CAMPAIGNS} campaigns each; "
            f"{where}",
        ),
        "gate.false_promotion_upper": (
            upper,
            "≤ 0.05",
            "its exact 95 % upper bound (Clopper-Pearson)",
        ),
        "gate.naive_false_promotion": (
            fooled_naively,
            "naive: higher wins",
            "the same campaigns, the least of the settings",
        ),
        "gate.power": (
            powers[HEADLINE],
            "≥ 0.80",
            f"chance that one round shows a true gain of 3 points where the models differ on {HEADLINE:.0%} of the "
            f"prompts ({where}); at 4, 5, 10, 15, 20 %: "
            + ", ".join(f"{powers[one]:.2f}" for one in (0.04, 0.05, 0.1, 0.15, 0.2))
            + f"; after two promotions in a row {later[HEADLINE]:.2f}, and at 10 % {later[0.1]:.2f}",
        ),
        "gate.campaign_power": (
            min(ever.values()),
            "10 candidates, each 3 points better",
            "chance that a campaign promotes at least one of them, the least over those discordances",
        ),
        **families,
    }


if __name__ == "__main__":
    main()
