"""Figures of releases: `python -m tests.benchmarks.release [--seed N]`. A minute; no model is
trained.

Histories of 12 campaigns of one name are simulated, in which every model is as good as every other:
each release is a false one. The gate, the account of its alpha, the account of the prompts and the
comparison of a release are the product's own functions. A candidate answers like the base but for
some prompts, `discordance` of all of them.
"""

from __future__ import annotations

import argparse
from functools import cache

import numpy as np

from components.contracts.recipe import DecideSection, Goal
from components.contracts.releases import Opening
from components.decide.alpha_account import charged, level_of_round, opened
from components.decide.gate import by_counts as compare_counts
from components.decide.gate import decide
from components.publish.comparison import by_counts
from components.publish.openings import account_after
from components.statistics import binomial_upper
from tests.benchmarks.figures import record

CAMPAIGNS, HISTORIES = 12, 4000
VALIDATION, VAULT = 1025, 500
SECTION = DecideSection(goal=Goal(threshold=1.0), max_rounds=4)
ACCURACIES, DISCORDANCES = (0.3, 0.6, 0.9), (0.02, 0.07, 0.15)
MARGIN_MODELS, MARGINS = 100_000, (0.01, 0.02, 0.05)
LEVEL = SECTION.alpha / 2
"""Level of the first opening of a set of prompts."""

compare_counts = cache(compare_counts)
by_counts = cache(by_counts)


def differences(
    dice: np.random.Generator,
    right: int,
    prompts: int,
    accuracy: float,
    discordance: float,
) -> tuple[int, int]:
    """Return (wins, losses) of an equal model against a base with `right` right answers."""
    wins = dice.binomial(prompts - right, discordance / 2 / (1 - accuracy))
    losses = dice.binomial(right, discordance / 2 / accuracy)
    return int(wins), int(losses)


def promotes(dice: np.random.Generator, accuracy: float, discordance: float) -> bool:
    """Return True if a campaign of four rounds promotes an equal candidate."""
    account = None
    right = int(dice.binomial(VALIDATION, accuracy))
    for round_number in range(1, SECTION.max_rounds + 1):
        account = opened(account, SECTION)
        level = level_of_round(account, round_number, SECTION.max_rounds, 0)
        wins, losses = differences(dice, right, VALIDATION, accuracy, discordance)
        comparison = compare_counts(VALIDATION, wins, losses, level)
        if decide(comparison).promote:
            return True
        account = charged(account, comparison, promoted=False)
    return False


def releases_falsely(
    dice: np.random.Generator,
    accuracy: float,
    discordance: float,
    *,
    gated: bool,
    new_vaults: bool,
) -> bool:
    """Return True if one of the campaigns releases a model.

    Args:
        dice: Random numbers.
        accuracy: Accuracy of all models.
        discordance: Share of prompts on which a candidate and the base differ.
        gated: The gate comes first; else every campaign brings a candidate.
        new_vaults: Each campaign has a vault of its own.
    """
    openings: list[Opening] = []
    right = int(dice.binomial(VAULT, accuracy))
    for _ in range(CAMPAIGNS):
        if new_vaults:
            openings = []
            right = int(dice.binomial(VAULT, accuracy))
        if gated and not promotes(dice, accuracy, discordance):
            continue
        account = account_after(openings, (), SECTION.alpha)
        if account.worn_out:
            continue
        wins, losses = differences(dice, right, VAULT, accuracy, discordance)
        if by_counts(VAULT, wins, losses, account.level, None).verdict != "not proved":
            return True
        openings.append(
            Opening(
                alpha=account.alpha,
                level=account.level,
                model="",
                rivals=(),
                name="simulated",
                run_id="simulated",
            )
        )
    return False


def false_releases(dice: np.random.Generator) -> tuple[float, str]:
    """Return the largest share of histories with a false release, and a note."""
    # With the gate the chances are a tenth of those without it: one accuracy tells that.
    kinds = {
        "the gate first, a new vault each": ((True, True), ACCURACIES[1:2]),
        "no gate, one vault": ((False, False), ACCURACIES),
    }
    worst: dict[str, int] = {}
    for name, ((gated, new_vaults), accuracies) in kinds.items():
        counts = [
            sum(
                releases_falsely(
                    dice, accuracy, discordance, gated=gated, new_vaults=new_vaults
                )
                for _ in range(HISTORIES)
            )
            for accuracy in accuracies
            for discordance in DISCORDANCES
        ]
        worst[name] = max(counts)
    largest = max(worst.values())
    upper = binomial_upper(largest, HISTORIES)
    shares = ", ".join(
        f"{name} {count / HISTORIES:.4f}" for name, count in worst.items()
    )
    note = (
        f"{HISTORIES:,} histories of {CAMPAIGNS} campaigns each, {VAULT} vault prompts, the worst "
        f"of each setting: {shares}; exact upper 95 % bound {upper:.4f}"
    )
    return largest / HISTORIES, note


def margin_size(dice: np.random.Generator) -> tuple[float, str]:
    """Return the largest chance that a model which is worse by the whole margin passes, over the
    level."""
    sizes = {}
    for margin in MARGINS:
        for lost in (margin, 1.5 * margin, 0.1, 0.2):
            shares = [lost - margin, lost, 1 - 2 * lost + margin]
            drawn = dice.multinomial(VAULT, shares, MARGIN_MODELS)
            pairs, counts = np.unique(drawn[:, :2], axis=0, return_counts=True)
            passed = sum(
                int(count)
                for (wins, losses), count in zip(pairs, counts, strict=True)
                if by_counts(VAULT, int(wins), int(losses), LEVEL, margin).verdict
                != "not proved"
            )
            sizes[margin, lost] = passed / MARGIN_MODELS / LEVEL
    worst = max(sizes, key=lambda setting: sizes[setting])
    note = (
        f"{MARGIN_MODELS:,} models on {VAULT} prompts, level {LEVEL}; the worst at margin "
        f"{worst[0]}, with {worst[1]:.3g} of the prompts lost"
    )
    return sizes[worst], note


def main() -> None:
    """Record the figures."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.release", description=__doc__
    )
    parser.add_argument("--seed", type=int, default=0)
    seed = parser.parse_args().seed
    command = f"python -m tests.benchmarks.release --seed {seed}"
    dice = np.random.default_rng(seed)
    value, note = false_releases(dice)
    record("release.false_release", value, "share", "≤ 0.05", command, seed, note)
    value, note = margin_size(dice)
    record("release.margin_size", value, "of the level", "≤ 1.2", command, seed, note)


if __name__ == "__main__":
    main()
