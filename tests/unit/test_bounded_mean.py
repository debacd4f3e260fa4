"""The test of a mean gain that holds for skewed gains: level, power, and what it says of little."""

from __future__ import annotations

import math

import numpy as np
import pytest

from components.bounded_mean import bounded_mean_test
from components.statistics import mcnemar_one_sided

LEVEL = 0.005


def p_value(
    gains: list[float], clusters: object = None, largest_loss: float = 1.0
) -> float:
    names = range(len(gains)) if clusters is None else clusters
    return bounded_mean_test(gains, list(names), largest_loss, LEVEL).p_value  # type: ignore[call-overload]


@pytest.mark.parametrize(("wins", "losses"), [(30, 12), (9, 1), (12, 12), (3, 9)])
def test_of_gains_that_are_all_or_nothing_it_is_the_exact_binomial_test(
    wins: int, losses: int
) -> None:
    found = p_value([1.0] * wins + [-1.0] * losses)
    assert found == pytest.approx(mcnemar_one_sided(wins, losses), abs=0.012)
    assert found == p_value([1.0] * wins + [-1.0] * losses)


@pytest.mark.parametrize("gain", [0.05, 0.1, 0.3])
def test_equal_gains_prove_what_a_family_that_loses_all_would_let_pass(
    gain: float,
) -> None:
    """A family that loses all, with the chance that makes the mean 0, is missed so often."""
    assert p_value([gain] * 41) == pytest.approx((1 / (1 + gain)) ** 41, abs=0.012)


@pytest.mark.parametrize("down", [1, 4, 9, 19])
@pytest.mark.parametrize("families", [20, 41, 100])
def test_skewed_families_of_equal_models_pass_at_most_as_often_as_the_level_says(
    down: int, families: int
) -> None:
    """+1 in most families and -down in few: every number of won families with its exact chance."""
    chance_of_win = down / (1 + down)
    false_proofs = 0.0
    for won in range(families + 1):
        gains = [1 / down] * won + [-1.0] * (families - won)
        if sum(gains) > 0 and p_value(gains) <= LEVEL:
            chance = math.comb(families, won) * chance_of_win**won
            false_proofs += chance * (1 - chance_of_win) ** (families - won)
    assert false_proofs <= LEVEL


def test_the_size_of_what_can_be_lost_is_that_of_the_largest_family() -> None:
    families = [f"{number // 4}" for number in range(400)]
    one_large = ["0" if number < 200 else name for number, name in enumerate(families)]
    gains = [0.0, 1.0, 0.0, 0.0] * 100
    assert p_value(gains, families) < LEVEL
    assert p_value(gains, one_large) > LEVEL


def test_nothing_is_shown_where_nothing_differs() -> None:
    assert p_value([0.0] * 50) == 1.0
    assert bounded_mean_test([], [], 1.0, LEVEL).p_value == 1.0
    assert bounded_mean_test([1.0] * 9, range(9), 1.0, 0.0).detectable is None


@pytest.mark.parametrize("level", [0.05, 1e-4, 2e-5])
def test_what_is_beyond_doubt_is_proved_at_every_level_and_never_by_a_chance_of_nothing(
    level: float,
) -> None:
    """Thirty clusters won and none lost: the true p-value is 2^-30, which no draw shows."""
    found = bounded_mean_test([1.0] * 30, range(30), 1.0, level).p_value
    assert 0.0 < found <= level / 2, "10,000 draws alone could not show less than 1e-4"


def test_the_gain_that_is_called_detectable_is_shown_four_times_out_of_five() -> None:
    dice = np.random.Generator(np.random.PCG64(5))

    def drawn(gain: float) -> list[float]:
        # Few distinct values are quick.
        gains = gain + dice.normal(0.0, 0.2, 150).round(1).clip(-0.8, 0.8)
        return gains.tolist()  # type: ignore[no-any-return]

    detectable = bounded_mean_test(drawn(0.0), range(150), 1.0, LEVEL).detectable
    assert detectable is not None
    shown = sum(p_value(drawn(detectable)) <= LEVEL for _ in range(200))
    assert shown / 200 == pytest.approx(0.8, abs=0.1)
    assert bounded_mean_test([1.0] * 6, range(6), 1.0, LEVEL).detectable is None
