"""At most alpha of all campaigns ever promote falsely, however often they are continued."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from components.contracts.recipe import DecideSection, Goal
from components.contracts.state import AlphaAccount
from components.decide.alpha_account import (
    ADDED_ROUNDS_END,
    charged,
    level_of_round,
    opened,
)
from components.decide.gate import by_counts, by_gains, decide
from components.statistics import mcnemar_one_sided, mcnemar_size

ALPHA = 0.05
PROMPTS = 40


def section(max_rounds: int, alpha: float = ALPHA) -> DecideSection:
    return DecideSection(goal=Goal(threshold=1.0), max_rounds=max_rounds, alpha=alpha)


def promotes_falsely(
    draw: random.Random, runs: Sequence[DecideSection], true_gains: int
) -> bool:
    """Carry out a campaign of one run after the other; the first `true_gains` candidates are better
    than all that follow, which are equal to their champion."""
    account = None
    promotions = 0
    num_rounds = 0
    for run in runs:
        account = opened(account, run)
        while num_rounds < run.max_rounds:
            num_rounds += 1
            level = level_of_round(account, num_rounds, run.max_rounds, promotions)
            wins, losses = 20, 0
            if num_rounds > true_gains:
                differs = draw.getrandbits(PROMPTS)
                wins = (differs & draw.getrandbits(PROMPTS)).bit_count()
                losses = differs.bit_count() - wins
            comparison = by_counts(PROMPTS, wins, losses, level)
            # As `decide` has it, without its words, which take a hundred times as long.
            promoted = comparison.gain > 0 and comparison.p_value <= level
            if promoted and num_rounds > true_gains:
                return True
            promotions = promotions + 1 if promoted else 0
            account = charged(account, comparison, promoted=promoted)
    return False


CAMPAIGNS = {
    "in one go": [section(4)],
    "four rounds more, three times": [section(rounds) for rounds in (4, 8, 12, 16)],
    "one round more, fifteen times": [section(rounds) for rounds in range(1, 17)],
    "with a larger alpha each time": [section(4), section(8, 0.2), section(12, 0.5)],
    "with a smaller alpha, then the old one": [
        section(4),
        section(8, 0.01),
        section(12),
    ],
    "with more and more rounds planned": [
        section(rounds) for rounds in (2, 4, 8, 16, 32)
    ],
}


@pytest.mark.parametrize("true_gains", [0, 2])
@pytest.mark.parametrize("runs", CAMPAIGNS.values(), ids=CAMPAIGNS.keys())
def test_campaigns_promote_falsely_at_most_alpha_of_the_time(
    runs: list[DecideSection], true_gains: int
) -> None:
    draw = random.Random(3)
    num_campaigns = 1000
    fooled = sum(promotes_falsely(draw, runs, true_gains) for _ in range(num_campaigns))
    three_errors = 3 * (ALPHA * (1 - ALPHA) / num_campaigns) ** 0.5
    assert fooled / num_campaigns <= ALPHA + three_errors


def test_the_rounds_that_were_planned_have_the_levels_that_they_had_without_an_account() -> (
    None
):
    account = opened(None, section(4))
    for round_number in (1, 2, 3, 4):
        assert level_of_round(account, round_number, 4, free_rounds=0) == pytest.approx(
            ALPHA / 4
        )
        comparison = by_counts(PROMPTS, 10, 10, ALPHA / 4)
        account = charged(account, comparison, promoted=False)
    assert level_of_round(
        opened(None, section(4)), 3, 4, free_rounds=2
    ) == pytest.approx(3 * ALPHA / 4)


def test_a_promotion_costs_nothing_and_any_other_round_the_size_of_its_test() -> None:
    account = opened(None, section(4))
    comparison = by_counts(PROMPTS, 9, 1, ALPHA / 4)
    assert charged(account, comparison, promoted=True) == account
    after = charged(account, comparison, promoted=False)
    assert after.spent == mcnemar_size(10, ALPHA / 4) == mcnemar_one_sided(9, 1)
    graded = by_gains([1.0, -1.0, 1.0], ["a", "b", "c"], ALPHA / 4, "points")
    assert charged(account, graded, promoted=False).spent == ALPHA / 4


def test_rounds_that_are_added_share_what_is_left_and_leave_half_of_it() -> None:
    account = AlphaAccount(alpha=ALPHA, planned_rounds=4, spent=0.03)
    left = ADDED_ROUNDS_END * ALPHA - 0.03
    assert level_of_round(account, 5, 8, free_rounds=0) == pytest.approx(left / 2 / 4)
    assert level_of_round(account, 8, 8, free_rounds=0) == pytest.approx(left / 2)
    assert level_of_round(account, 9, 8, free_rounds=0) == pytest.approx(left / 2)
    # What is planned may spend all of alpha; what is added, a little less.
    spent = account.model_copy(update={"spent": 0.97 * ALPHA})
    assert level_of_round(spent, 4, 8, free_rounds=0) == pytest.approx(0.03 * ALPHA)
    assert level_of_round(spent, 5, 8, free_rounds=0) == 0


def test_the_least_alpha_of_all_runs_counts() -> None:
    account = opened(opened(None, section(4)), section(8, 0.2))
    assert account.alpha == ALPHA
    assert opened(account, section(8, 0.01)).alpha == 0.01
    assert account.planned_rounds == 4


def test_an_account_that_is_spent_says_so() -> None:
    account = AlphaAccount(alpha=0.01, planned_rounds=4, spent=0.03)
    level = level_of_round(account, 3, 4, free_rounds=0)
    assert level == 0
    ruling = decide(by_counts(PROMPTS, 30, 0, level))
    assert not ruling.promote
    assert "spent the campaign's alpha" in ruling.reason


@pytest.mark.parametrize("level", [0.05, 0.0125, 0.001, 1e-6])
def test_the_size_of_a_test_is_the_chance_to_pass_it(level: float) -> None:
    for discordant in range(40):
        p_values = [
            mcnemar_one_sided(wins, discordant - wins) for wins in range(discordant + 1)
        ]
        passing = [p_value for p_value in p_values if p_value <= level]
        assert mcnemar_size(discordant, level) == max(passing, default=0.0)
