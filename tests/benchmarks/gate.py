"""Figures of the gate: `python -m tests.benchmarks.gate [--seed N]`. Some minutes; no model is
trained.

Campaigns of 10 rounds on 1,025 validation prompts are simulated, and every round is decided by the
product's own `by_counts`, `by_gains` and `decide`. A campaign is a chain of models: each candidate
answers like the champion but for some prompts, `discordance` of all of them, and a promoted
candidate is the next champion, with the results it was promoted for.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from functools import cache
from itertools import product

import numpy as np
import numpy.typing as npt

from components.contracts.recipe import DecideSection, Goal
from components.decide.alpha_account import charged, level_of_round, opened
from components.decide.gate import by_counts, by_gains, decide
from components.statistics import alpha_of_round, binomial_upper
from tests.benchmarks.figures import record

PROMPTS, ROUNDS, CAMPAIGNS, GAIN = 1025, 10, 20_000, 0.03
SECTION = DecideSection(goal=Goal(threshold=1.0), max_rounds=ROUNDS)
LEVEL = alpha_of_round(SECTION.alpha, ROUNDS)
ACCURACIES, DISCORDANCES = (0.3, 0.6, 0.9), (0.02, 0.07, 0.15, 0.3)
HEADLINE = 0.07
"""Discordance of the headline power: a candidate that is 3 points better wins 5 prompts of 100 and
loses 2."""
STEPS = (0, 1, 3)
"""True gains before there is nothing more to gain: a promotion raises the next round's level."""
FAMILIES, FAMILY_CAMPAIGNS = 41, 2000
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


def family_campaigns(dice: np.random.Generator, *, told: bool) -> int:
    """Of FAMILY_CAMPAIGNS campaigns of equal models whose prompts come in families that are won or
    lost together, how many promote: with the families told to the gate, or each prompt taken for
    itself."""
    names = [f"family {number % FAMILIES}" for number in range(PROMPTS)]
    fooled = 0
    for _ in range(FAMILY_CAMPAIGNS):
        for _ in range(ROUNDS):
            leaning = dice.choice([-1, 1], FAMILIES)[np.arange(PROMPTS) % FAMILIES]
            differs = dice.random(PROMPTS) < 0.15
            gains = np.where(differs, np.where(dice.random(PROMPTS) < 0.8, leaning, -leaning), 0)
            wins, losses = int((gains > 0).sum()), int((gains < 0).sum())
            # A candidate with no more wins is rejected before any test: no need to resample.
            if wins <= losses:
                continue
            comparison = by_gains(gains.tolist(), names, LEVEL, "points") if told else None
            if decide(comparison or by_counts(PROMPTS, wins, losses, LEVEL)).promote:
                fooled += 1
                break
    return fooled


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
    told, ignored = (family_campaigns(dice, told=told) for told in (True, False))
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
        "gate.family_false_promotion": (
            told / FAMILY_CAMPAIGNS,
            "≤ 0.05",
            f"equal models, prompts in {FAMILIES} families won or lost together, families told; 95 % upper bound "
            f"{binomial_upper(told, FAMILY_CAMPAIGNS):.3f} of {FAMILY_CAMPAIGNS} campaigns",
        ),
        "gate.family_ignored": (
            ignored / FAMILY_CAMPAIGNS,
            "the same with McNemar, each prompt for itself",
            "why families matter",
        ),
    }


if __name__ == "__main__":
    main()
