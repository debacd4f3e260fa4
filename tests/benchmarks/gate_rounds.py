"""One simulated round of the gate, decided by the product's comparison and account of alpha."""

from __future__ import annotations

from functools import cache

import numpy as np
import numpy.typing as npt

from components.contracts.recipe import DecideSection, Goal
from components.contracts.state import AlphaAccount
from components.decide.alpha_account import charged, level_of_round
from components.decide.gate import Comparison, by_counts

PROMPTS, ROUNDS, CAMPAIGNS = 1025, 10, 20_000
SECTION = DecideSection(goal=Goal(threshold=1.0), max_rounds=ROUNDS)

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]


@cache
def p_value(wins: int, losses: int) -> float:
    """Of the gate's test; the same counts come again and again."""
    return by_counts(PROMPTS, wins, losses, 0.0).p_value


def judged(
    account: AlphaAccount,
    number: int,
    max_rounds: int,
    in_a_row: int,
    wins: int,
    losses: int,
) -> tuple[AlphaAccount, bool]:
    """Return the account after a round with these counts, and whether it promoted."""
    level = level_of_round(account, number, max_rounds, in_a_row)
    comparison = Comparison(PROMPTS, wins, losses, p_value(wins, losses), level)
    # As `decide` has it, without its words, which take far longer than the test.
    promoted = comparison.gain > 0 and 0 < comparison.p_value <= level
    return charged(account, comparison, promoted=promoted), promoted
