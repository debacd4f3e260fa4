"""The gate lets nothing through that is not proved better."""

from __future__ import annotations

import functools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.common.errors import Corrupt, UserError
from components.common.recipe import DecideSection, Goal
from components.common.records import Result
from components.decide.gate import Comparison, Scores, compare, judge
from tests.unit.crafted import results_of

SECTION = DecideSection(goal=Goal(threshold=0.9), max_rounds=5)


def paired(wins: int, losses: int, both: int = 0, neither: int = 0) -> tuple[list[Result], list[Result]]:
    """Results of a champion and a candidate that differ as told."""
    champion = [False] * wins + [True] * losses + [True] * both + [False] * neither
    candidate = [True] * wins + [False] * losses + [True] * both + [False] * neither
    return results_of({"": champion}), results_of({"": candidate})


@functools.cache
def compared(wins: int, losses: int, both: int = 0, neither: int = 0) -> Comparison:
    return compare(*paired(wins, losses, both, neither), SECTION)


@given(st.integers(0, 60), st.integers(0, 60), st.integers(0, 30), st.one_of(st.none(), st.floats(0.1, 10)))
def test_a_candidate_that_is_not_better_is_never_promoted(
    wins: int, losses: int, both: int, ratio: float | None
) -> None:
    ruling = judge(compared(wins, losses, both, 1), ratio, SECTION)
    if wins <= losses:
        assert not ruling.promote
        assert ruling.why.startswith("not better")
    if ruling.promote:
        assert compared(wins, losses).p_value <= 0.01
        assert ratio is None or ratio <= 1.10


def test_seven_clear_wins_are_proof_and_six_are_not_at_five_rounds() -> None:
    assert judge(compared(7, 0, 50), None, SECTION).promote  # p = 1/128 <= 0.05/5
    refused = judge(compared(6, 0, 50), None, SECTION)  # p = 1/64
    assert not refused.promote
    assert "6 prompts only the candidate got right, 0 only the champion, of 56 (+10.7 points; p = 0.016" in refused.why
    assert "four times out of five" in refused.why


def test_a_candidate_that_unlearns_human_text_is_refused_with_the_numbers() -> None:
    assert judge(compared(40, 2), 1.10, SECTION).promote
    refused = judge(compared(40, 2), 1.101, SECTION)
    assert not refused.promote
    assert refused.why.startswith("collapse guard: perplexity on human text is 1.101 times that of round 0")


def test_models_measured_on_different_prompts_cannot_be_compared() -> None:
    champion, candidate = paired(5, 5)
    with pytest.raises(Corrupt, match="1 without a partner"):
        compare(champion, candidate[:-1], SECTION)
    with pytest.raises(Corrupt, match="0 and 0"):
        compare([], [], SECTION)


def test_scores_name_the_slices_there_are() -> None:
    scores = Scores.of(results_of({"length=9": [True, True, False, True], "length=10": [False]}))
    assert scores.accuracy("length=9") == 0.75
    assert scores.accuracy() == 0.6
    assert scores.slices == {"length=9": 0.75, "length=10": 0.0}
    with pytest.raises(UserError, match=r"'length=12' \(there are: length=10, length=9\).*decide.goal.slice"):
        scores.accuracy("length=12")


def test_campaigns_of_equal_models_promote_falsely_at_most_alpha_of_the_time() -> None:
    campaigns, rounds, prompts = 2000, SECTION.max_rounds, 100
    draw = random.Random(11)

    def measure() -> int:
        """Verdicts of one model as the bits of a number: every model is right on each prompt with chance 1/2."""
        return draw.getrandbits(prompts)

    fooled = 0
    for _ in range(campaigns):
        champion = measure()
        promoted = False
        for _ in range(rounds):
            candidate = measure()
            wins, losses = (candidate & ~champion).bit_count(), (champion & ~candidate).bit_count()
            if judge(compared(wins, losses, prompts - wins - losses), None, SECTION).promote:
                champion, promoted = candidate, True
        fooled += promoted
    # Three standard errors of a share of alpha; the exact test spends less than alpha, so this is not luck.
    assert fooled / campaigns <= SECTION.alpha + 3 * (SECTION.alpha * (1 - SECTION.alpha) / campaigns) ** 0.5
    assert fooled > 0  # the simulation does exercise the gate


def test_a_real_gain_of_the_reported_size_is_shown_four_times_out_of_five() -> None:
    draw = random.Random(7)
    seen = compared(30, 30, 140)  # 30 % of 200 pairs differ
    gain = seen.detectable
    assert gain is not None
    win = (0.3 + gain) / 2
    shown = 0
    for _ in range(1500):
        kinds = draw.choices(("win", "loss", "same"), (win, 0.3 - win, 0.7), k=200)
        counts = compared(kinds.count("win"), kinds.count("loss"), kinds.count("same"))
        shown += judge(counts, None, SECTION).promote
    assert shown / 1500 == pytest.approx(0.8, abs=0.04)
