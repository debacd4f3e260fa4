"""Figures of the gate: `python -m tests.benchmarks.gate [--seed N]`. Fifteen minutes at most; no model is
trained.

Campaigns of round 0 and 10 more on 1,025 validation prompts are simulated, and every round is decided by the
product's own comparison, account of alpha and `decide`. A campaign is a chain of models: each candidate
answers like the champion but for some prompts, `discordance` of all of them, and a promoted
candidate is the next champion, with the results it was promoted for.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from itertools import product

import numpy as np

from components.contracts.recipe import DecideSection, Goal
from components.decide.alpha_account import level_of_round, opened
from components.decide.gate import by_counts, decide
from components.statistics import binomial_upper
from tests.benchmarks.figures import record
from tests.benchmarks.gate_adaptive import adaptive_figures
from tests.benchmarks.gate_families import family_figures
from tests.benchmarks.gate_rounds import (
    CAMPAIGNS,
    PROMPTS,
    ROUNDS,
    SECTION,
    Bools,
    judged,
)

GAIN = 0.03
ACCURACIES, DISCORDANCES = (0.3, 0.6, 0.9), (0.02, 0.07, 0.15, 0.3)
HEADLINE = 0.07
"""Discordance of the headline power: a candidate that is 3 points better wins 5 prompts of 100 and
loses 2."""
STEPS = (0, 1, 3)
"""True gains before there is nothing more to gain: a promotion raises the next round's level."""
CONTINUED_CAMPAIGNS = 50_000


def _run(max_rounds: int, alpha: float = 0.05) -> DecideSection:
    return DecideSection(goal=Goal(threshold=1.0), max_rounds=max_rounds, alpha=alpha)


CONTINUED = {
    "4 rounds": [_run(4)],
    "4 rounds, then 4 more three times": [_run(rounds) for rounds in (4, 8, 12, 16)],
    "1 round, then 1 more fifteen times": [_run(rounds) for rounds in range(1, 17)],
    "4 rounds, then 4 more with alpha 0.2 and 0.5": [
        _run(4),
        _run(8, 0.2),
        _run(12, 0.5),
    ],
}
"""Campaigns that people carry out in several runs, with the settings of each."""


def check_judged(dice: np.random.Generator) -> None:
    """Raise AssertionError unless `judged` says what the gate itself says."""
    account = opened(None, SECTION)
    for _ in range(300):
        wins, losses = (int(count) for count in dice.integers(0, 60, 2))
        number = int(dice.integers(0, ROUNDS + 1))
        level = level_of_round(account, number, ROUNDS, 0)
        ruling = decide(by_counts(PROMPTS, wins, losses, level))
        assert judged(account, number, ROUNDS, 0, wins, losses)[1] == ruling.promote


def campaigns(
    dice: np.random.Generator,
    accuracy: float,
    discordance: float,
    steps: int = 0,
    *,
    naive: bool = False,
) -> Bools:
    """Whether each round of each campaign promoted, (campaigns, rounds and round 0).

    Candidates are GAIN better than the champion until `steps` of them were promoted, and equal to it
    from then on: a further promotion is a false one. `naive`: the higher score is promoted.
    """
    right = dice.binomial(PROMPTS, accuracy, CAMPAIGNS)
    promoted = np.zeros((CAMPAIGNS, ROUNDS + 1), dtype=bool)
    in_a_row = np.zeros(CAMPAIGNS, dtype=np.int64)
    accounts = [opened(None, SECTION)] * CAMPAIGNS
    for number in range(ROUNDS + 1):
        done = promoted.sum(axis=1)
        ahead = np.where(done < steps, GAIN, 0.0)
        base = accuracy + GAIN * np.minimum(done, steps)
        wins = dice.binomial(PROMPTS - right, (discordance + ahead) / 2 / (1 - base))
        losses = dice.binomial(right, (discordance - ahead) / 2 / base)
        if naive:
            promoted[:, number] = wins > losses
        else:
            counts = zip(in_a_row.tolist(), wins.tolist(), losses.tolist(), strict=True)
            for place, (streak, won, lost) in enumerate(counts):
                accounts[place], promoted[place, number] = judged(
                    accounts[place], number, ROUNDS, streak, won, lost
                )
        right = np.where(promoted[:, number], right + wins - losses, right)
        in_a_row = np.where(promoted[:, number], in_a_row + 1, 0)
    return promoted


def power_of(
    dice: np.random.Generator, discordance: float, number: int, in_a_row: int
) -> float:
    """Chance that a round shows a model that is GAIN better, after so many promotions in a row."""
    account = opened(None, SECTION)
    wins = dice.binomial(PROMPTS, (discordance + GAIN) / 2, CAMPAIGNS)
    losses = dice.binomial(
        PROMPTS - wins, (discordance - GAIN) / (2 - discordance - GAIN)
    )
    shown = [
        judged(account, number, ROUNDS, in_a_row, won, lost)[1]
        for won, lost in zip(wins.tolist(), losses.tolist(), strict=True)
    ]
    return sum(shown) / len(shown)


def possible(accuracy: float, discordance: float, steps: int) -> bool:
    """Whether models can differ on so many prompts, and be GAIN apart `steps` times."""
    ahead, best = GAIN * (steps > 0), accuracy + GAIN * steps
    return ahead <= discordance and (discordance + ahead) / 2 <= min(accuracy, 1 - best)


def continued(
    dice: np.random.Generator, runs: Sequence[DecideSection], discordance: float
) -> int:
    """Of CONTINUED_CAMPAIGNS campaigns of equal models, each one run after the other, how many
    promote; every run continues the one before it by `resume_from`."""
    fooled = 0
    last_round = runs[-1].max_rounds
    differing = dice.binomial(
        PROMPTS, discordance, (CONTINUED_CAMPAIGNS, last_round + 1)
    )
    won = dice.binomial(differing, 0.5)
    for row, wins in zip(differing.tolist(), won.tolist(), strict=True):
        account = None
        number = 0
        promoted = False
        for run in runs:
            account = opened(account, run)
            while number <= run.max_rounds and not promoted:
                account, promoted = judged(
                    account,
                    number,
                    run.max_rounds,
                    0,
                    wins[number],
                    row[number] - wins[number],
                )
                number += 1
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
            shares.append(
                f"{name}, discordance {discordance}: {fooled / CONTINUED_CAMPAIGNS:.4f}"
            )
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
    check_judged(dice)
    false, fooled_naively, settings = 0, 1.0, 0
    for steps, accuracy, discordance in product(STEPS, ACCURACIES, DISCORDANCES):
        if not possible(accuracy, discordance, steps):
            continue
        promoted = campaigns(dice, accuracy, discordance, steps)
        own = int((promoted.sum(axis=1) > steps).sum())
        promoted = campaigns(dice, accuracy, discordance, steps, naive=True)
        naively = float((promoted.sum(axis=1) > steps).mean())
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
        shown = campaigns(dice, 0.5, discordance, ROUNDS)
        powers[discordance] = power_of(dice, discordance, 1, 0)
        later[discordance] = power_of(dice, discordance, 3, 2)
        ever[discordance] = float(shown.any(axis=1).mean())
        print(
            f"+3 points, discordance {discordance}: shown by round 1 {powers[discordance]:.4f}, after two "
            f"promotions {later[discordance]:.4f}; by a campaign {ever[discordance]:.4f}"
        )
    resumed = continued_figures(dice)
    families = family_figures(dice)
    adaptive = adaptive_figures(dice)
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
            + f"; after two promotions in a row {later[HEADLINE]:.2f}, and at 10 % {later[0.1]:.2f}; round 0, "
            f"which has half a share of alpha: {power_of(dice, HEADLINE, 0, 0):.2f}",
        ),
        "gate.campaign_power": (
            min(ever.values()),
            f"round 0 and {ROUNDS} more, each candidate 3 points better",
            "chance that a campaign promotes at least one of them, the least over those discordances",
        ),
        **families,
        **adaptive,
    }


if __name__ == "__main__":
    main()
