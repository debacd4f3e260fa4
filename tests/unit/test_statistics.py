"""Exact statistics against published values and brute-force enumeration."""

from __future__ import annotations

import itertools
import math
import random
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.statistics import (
    alpha_of_round,
    binomial_upper,
    bootstrap_lower,
    cluster_standard_error,
    jensen_shannon,
    mcnemar_one_sided,
    mcnemar_size,
    mcnemar_two_sided,
    minimal_detectable_gain,
    pass_at_k,
    two_proportions_z,
    wilson_interval,
)


@pytest.mark.parametrize(("wins", "losses"), itertools.product(range(7), range(7)))
def test_one_sided_mcnemar_is_the_share_of_coin_flips_that_do_as_well(
    wins: int, losses: int
) -> None:
    flips = list(itertools.product((0, 1), repeat=wins + losses))
    assert mcnemar_one_sided(wins, losses) == pytest.approx(
        sum(sum(f) >= wins for f in flips) / len(flips), abs=1e-15
    )


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
    assert mcnemar_one_sided(1500, 1500) == pytest.approx(
        0.5 + math.comb(3000, 1500) / 2**3001, rel=1e-12
    )
    assert mcnemar_one_sided(3000, 0) == 0.0  # 2^-3000 is below the smallest float
    with pytest.raises(ValueError, match="-1 wins"):
        mcnemar_one_sided(-1, 3)


@given(st.integers(0, 300), st.integers(0, 300))
def test_mcnemar_tails_of_both_sides_overlap_in_the_observed_outcome_alone(
    wins: int, losses: int
) -> None:
    together = mcnemar_one_sided(wins, losses) + mcnemar_one_sided(losses, wins)
    assert together == pytest.approx(
        1 + math.comb(wins + losses, wins) / 2 ** (wins + losses)
    )


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
def test_wilson_interval_holds_the_observed_share(
    trials: int, data: st.DataObject
) -> None:
    right = data.draw(st.integers(0, trials))
    low, high = wilson_interval(right, trials)
    assert 0.0 <= low <= right / trials <= high <= 1.0


CHOICES = [
    (n, c, k) for n in range(1, 7) for c in range(n + 1) for k in range(1, n + 1)
]


@pytest.mark.parametrize(("n", "c", "k"), CHOICES)
def test_pass_at_k_is_the_share_of_choices_with_a_right_one(
    n: int, c: int, k: int
) -> None:
    choices = list(itertools.combinations(range(n), k))
    right = Fraction(
        sum(any(i < c for i in choice) for choice in choices), len(choices)
    )
    assert pass_at_k(n, c, k) == pytest.approx(float(right))


def test_pass_at_k_refuses_more_picks_than_samples() -> None:
    with pytest.raises(ValueError, match="pass@5"):
        pass_at_k(4, 1, 5)
    with pytest.raises(ValueError, match="pass@0"):
        pass_at_k(4, 1, 0)
    with pytest.raises(ValueError, match="5 right of 4"):
        pass_at_k(4, 5, 1)
    with pytest.raises(ValueError, match="-1 right"):
        pass_at_k(4, -1, 1)


def test_alpha_is_divided_over_the_rounds_and_a_promotion_hands_its_share_on() -> None:
    assert alpha_of_round(0.05, 4) == pytest.approx(0.0125)
    assert alpha_of_round(0.05, 4, promotions=2) == pytest.approx(0.0375)
    with pytest.raises(ValueError, match="0 rounds"):
        alpha_of_round(0.05, 0)


@given(
    st.lists(
        st.sampled_from(["promoted rightly", "nothing to show", "missed"]),
        min_size=1,
        max_size=12,
    )
)
def test_rounds_with_nothing_to_show_spend_no_more_than_alpha_together(
    rounds: list[str],
) -> None:
    spent, in_a_row = 0.0, 0
    for kind in rounds:
        spent += alpha_of_round(0.05, len(rounds), in_a_row) * (
            kind == "nothing to show"
        )
        in_a_row = in_a_row + 1 if kind == "promoted rightly" else 0
    assert spent <= 0.05 * (1 + 1e-9)


def power_by_enumeration(
    pairs: int, discordance: float, gain: float, alpha: float
) -> float:
    differing = max(discordance, gain)
    win, loss = (differing + gain) / 2, (differing - gain) / 2
    total = 0.0
    for wins in range(pairs + 1):
        for losses in range(pairs + 1 - wins):
            if mcnemar_one_sided(wins, losses) <= alpha:
                ways = math.comb(pairs, wins) * math.comb(pairs - wins, losses)
                total += (
                    ways
                    * win**wins
                    * max(loss, 0.0) ** losses
                    * (1 - differing) ** (pairs - wins - losses)
                )
    return total


SIZES = [(40, 0.3, 0.05), (60, 0.1, 0.0125), (25, 0.0, 0.05), (30, 1.0, 0.01)]


@pytest.mark.parametrize(("pairs", "discordance", "alpha"), SIZES)
def test_minimal_detectable_gain_has_exactly_the_promised_power(
    pairs: int, discordance: float, alpha: float
) -> None:
    gain = minimal_detectable_gain(pairs, discordance, alpha)
    assert gain is not None
    assert power_by_enumeration(pairs, discordance, gain, alpha) == pytest.approx(
        0.8, abs=1e-3
    )


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
    few, many = (
        minimal_detectable_gain(n, discordance, 0.05) for n in (pairs, pairs * 3)
    )
    assert few is not None
    assert many is not None
    assert many <= few + 1e-4


def test_the_lower_bound_of_a_mean_is_that_of_the_normal_for_many_pairs() -> None:
    draw = random.Random(3)
    gains = [draw.gauss(0.2, 1.0) for _ in range(1000)]
    mean, error = (
        sum(gains) / len(gains),
        cluster_standard_error(gains, range(len(gains))),
    )
    assert error is not None
    assert error == pytest.approx(1 / math.sqrt(1000), rel=0.05)
    assert bootstrap_lower(gains, range(len(gains))) == pytest.approx(
        mean - 1.645 * error, abs=0.004
    )
    doubled = bootstrap_lower(
        [*gains, *gains], [*range(1000), *range(1000)]
    )  # copies are no more evidence
    assert doubled == pytest.approx(mean - 1.645 * error, abs=0.004)
    with pytest.raises(ValueError, match="no pairs"):
        bootstrap_lower([], [])


def test_the_standard_error_is_that_of_the_textbook_and_of_clusters_as_wholes() -> None:
    gains = [1.0, 2.0, 3.0, 4.0]
    assert cluster_standard_error(gains, "abcd") == pytest.approx(
        math.sqrt(5 / 3) / 2
    )  # s / √n
    # Totals 3 and 7 of two clusters: each is 2 off the share of the mean that is its own.
    assert cluster_standard_error(gains, "aabb") == pytest.approx(math.sqrt(2 * 8) / 4)


def test_a_single_cluster_has_no_standard_error() -> None:
    assert cluster_standard_error([1.0, 2.0], "aa") is None


def test_exact_upper_bounds_have_the_published_values() -> None:
    assert binomial_upper(0, 10, 0.025) == pytest.approx(
        0.3085, abs=1e-4
    )  # Clopper and Pearson (1934)
    assert binomial_upper(3, 10, 0.025) == pytest.approx(0.6525, abs=1e-4)
    assert binomial_upper(10, 10) == 1.0


def test_two_shares_are_compared_in_standard_errors() -> None:
    assert abs(two_proportions_z(0.5, 100, 0.5, 200)) < 0.05
    assert two_proportions_z(0.9, 100, 0.5, 100) > 6
    assert two_proportions_z(1.0, 5, 0.0, 0) == 0.0
    # Agresti and Caffo (2000): 6 of 7 and 1 of 7.
    assert two_proportions_z(1.0, 5, 0.0, 5) == pytest.approx(
        (5 / 7) / math.sqrt(12 / 343)
    )


def test_the_distance_of_two_distributions() -> None:
    assert jensen_shannon({"a": 1.0, "b": 1.0}, {"a": 10.0, "b": 10.0}) == 0.0
    assert jensen_shannon({"a": 1.0}, {"b": 3.0}) == 1.0


def test_a_level_that_no_number_of_wins_reaches_is_never_passed() -> None:
    # Three wins of three have p = 1/8; five of five 1/32, which is the only p below 5 %.
    assert mcnemar_size(3, 0.05) == 0.0
    assert mcnemar_size(5, 0.05) == 1 / 32
    assert mcnemar_size(5, 0.2) == 6 / 32
    assert mcnemar_size(5, 1 / 32) == 1 / 32
    assert mcnemar_size(0, 0.05) == 0.0
    assert mcnemar_size(0, 1.0) == 1.0


def test_the_jensen_shannon_distance_of_two_coins_is_that_of_the_formula() -> None:
    # Middle (3/4, 1/4): 1/2 log2(4/3) + 1/4 log2(2/3) + 1/4 log2(2) bits.
    bits = 0.5 * math.log2(4 / 3) + 0.25 * math.log2(2 / 3) + 0.25
    one_sided, fair = {"heads": 7.0}, {"heads": 2.0, "tails": 2.0}
    assert jensen_shannon(one_sided, fair) == pytest.approx(math.sqrt(bits))
    assert jensen_shannon(fair, one_sided) == pytest.approx(math.sqrt(bits))


def test_bounds_are_of_95_percent_and_the_power_is_four_fifths_by_default() -> None:
    draw = random.Random(5)
    gains = [draw.gauss(0.1, 1.0) for _ in range(60)]
    assert bootstrap_lower(gains, range(60)) == bootstrap_lower(gains, range(60), 0.05)
    assert (
        binomial_upper(3, 10)
        == binomial_upper(3, 10, 0.05)
        < binomial_upper(3, 10, 0.025)
    )
    assert minimal_detectable_gain(40, 0.3, 0.05) == minimal_detectable_gain(
        40, 0.3, 0.05, 0.8
    )
    assert alpha_of_round(0.05, 4) == alpha_of_round(0.05, 4, 0)
    with pytest.raises(ValueError, match="-1 promotions"):
        alpha_of_round(0.05, 4, -1)
    assert alpha_of_round(0.05, 1) == 0.05


@pytest.mark.parametrize("discordance", [-0.1, 1.1])
def test_a_share_of_pairs_outside_of_0_to_1_is_refused(discordance: float) -> None:
    with pytest.raises(ValueError, match="discordance"):
        minimal_detectable_gain(40, discordance, 0.05)
