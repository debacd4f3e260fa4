"""Exact statistics against published values and brute-force enumeration."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.common.statistics import (
    alpha_per_round,
    mcnemar_one_sided,
    mcnemar_two_sided,
    minimal_detectable_gain,
    pass_at_k,
    wilson_interval,
)


@pytest.mark.parametrize(("wins", "losses"), itertools.product(range(7), range(7)))
def test_one_sided_mcnemar_is_the_share_of_coin_flips_that_do_as_well(wins: int, losses: int) -> None:
    flips = list(itertools.product((0, 1), repeat=wins + losses))
    assert mcnemar_one_sided(wins, losses) == pytest.approx(sum(sum(f) >= wins for f in flips) / len(flips), abs=1e-15)


def test_mcnemar_agrees_with_the_textbook_table() -> None:
    # Discordant cells 10 and 2: the sign test's table gives 0.0193 one-sided, 0.0386 two-sided.
    assert mcnemar_one_sided(10, 2) == pytest.approx(79 / 4096)
    assert mcnemar_two_sided(10, 2) == pytest.approx(158 / 4096)
    assert mcnemar_two_sided(2, 10) == pytest.approx(158 / 4096)


def test_mcnemar_without_differences_shows_nothing() -> None:
    assert mcnemar_one_sided(0, 0) == 1.0
    assert mcnemar_two_sided(0, 0) == 1.0
    assert mcnemar_two_sided(5, 5) == 1.0


def test_mcnemar_stays_exact_for_thousands_of_pairs() -> None:
    assert mcnemar_one_sided(1500, 1500) == pytest.approx(0.5 + math.comb(3000, 1500) / 2**3001, rel=1e-12)
    assert mcnemar_one_sided(3000, 0) == 0.0  # 2^-3000 is below the smallest float
    with pytest.raises(ValueError, match="-1 wins"):
        mcnemar_one_sided(-1, 3)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_tails_of_both_sides_overlap_in_the_observed_outcome_alone(wins: int, losses: int) -> None:
    together = mcnemar_one_sided(wins, losses) + mcnemar_one_sided(losses, wins)
    assert together == pytest.approx(1 + math.comb(wins + losses, wins) / 2 ** (wins + losses))


def test_wilson_interval_has_the_published_values() -> None:
    # Newcombe (1998), table I, method 3 (score without continuity correction).
    published = {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }
    for (right, trials), bounds in published.items():
        assert wilson_interval(right, trials) == pytest.approx(bounds, abs=6e-5)
    assert wilson_interval(20, 20)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)
    with pytest.raises(ValueError, match="3 successes of 2"):
        wilson_interval(3, 2)


@given(st.integers(1, 5000), st.data())
def test_wilson_interval_holds_the_observed_share(trials: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, trials))
    low, high = wilson_interval(right, trials)
    assert 0.0 <= low <= right / trials <= high <= 1.0


CHOICES = [(n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)]


@pytest.mark.parametrize(("n", "c", "k"), CHOICES)
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(n: int, c: int, k: int) -> None:
    choices = list(itertools.combinations(range(n), k))
    right = Fraction(sum(any(i < c for i in choice) for choice in choices), len(choices))
    assert pass_at_k(n, c, k) == pytest.approx(float(right))


def test_pass_at_k_refuses_more_picks_than_samples() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)


def test_alpha_is_divided_over_the_rounds() -> None:
    assert alpha_per_round(0.05, 4) == pytest.approx(0.0125)
    with pytest.raises(ValueError, match="0 rounds"):
        alpha_per_round(0.05, 0)


def power_by_enumeration(pairs: int, discordance: float, gain: float, alpha: float) -> float:
    differing = max(discordance, gain)
    win, loss = (differing + gain) / 2, (differing - gain) / 2
    total = 0.0
    for wins in range(pairs + 1):
        for losses in range(pairs + 1 - wins):
            if mcnemar_one_sided(wins, losses) <= alpha:
                ways = math.comb(pairs, wins) * math.comb(pairs - wins, losses)
                total += ways * win**wins * max(loss, 0.0) ** losses * (1 - differing) ** (pairs - wins - losses)
    return total


SIZES = [(40, 0.3, 0.05), (60, 0.1, 0.0125), (25, 0.0, 0.05), (30, 1.0, 0.01)]


@pytest.mark.parametrize(("pairs", "discordance", "alpha"), SIZES)
def test_minimal_detectable_gain_has_exactly_the_promised_power(pairs: int, discordance: float, alpha: float) -> None:
    gain = minimal_detectable_gain(pairs, discordance, alpha)
    assert gain is not None
    assert power_by_enumeration(pairs, discordance, gain, alpha) == pytest.approx(0.8, abs=1e-3)


def test_minimal_detectable_gain_of_the_design_size_is_about_three_points() -> None:
    # n = 1,025, one pair in ten discordant, alpha 0.05: the design asks for power 0.8 at +3 points.
    gain = minimal_detectable_gain(1025, 0.1, 0.05)
    assert gain is not None
    assert 0.02 < gain < 0.03


def test_too_few_pairs_can_show_no_gain() -> None:
    assert minimal_detectable_gain(3, 0.5, 0.05) is None
    assert minimal_detectable_gain(0, 0.0, 0.05) is None


@settings(max_examples=25, deadline=None)
@given(st.integers(20, 3000), st.floats(0.0, 1.0))
def test_more_pairs_show_smaller_gains(pairs: int, discordance: float) -> None:
    few, many = (minimal_detectable_gain(n, discordance, 0.05) for n in (pairs, pairs * 3))
    assert few is not None
    assert many is not None
    assert many <= few + 1e-4
