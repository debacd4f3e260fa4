"""The gate lets nothing through that is not proved better."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts.rows import Result
from components.decide.gate import Comparison, Graded, by_counts, compare, decide
from components.errors import Corrupt, UserError
from components.measures import Scores
from tests.unit.crafted import results_of
from tests.unit.gating import LEVEL, SECTION, alarms, compared, paired


@given(
    st.integers(0, 60),
    st.integers(0, 60),
    st.integers(0, 30),
    st.one_of(st.none(), st.floats(0.1, 10)),
)
def test_a_candidate_that_is_not_better_is_never_promoted(
    wins: int, losses: int, both: int, ratio: float | None
) -> None:
    ruling = decide(compared(wins, losses, both, 1), alarms(ratio))
    if wins <= losses:
        assert not ruling.promote
        assert ruling.reason.startswith("not better")
    if ruling.promote:
        assert compared(wins, losses).p_value <= 0.01
        assert ratio is None or ratio <= 1.10


def test_seven_clear_wins_are_proof_and_six_are_not_at_five_rounds() -> None:
    assert decide(compared(7, 0, 50)).promote  # p = 1/128 <= 0.05/5
    rejected = decide(compared(6, 0, 50))  # p = 1/64
    assert not rejected.promote
    assert (
        "6 prompts only the candidate got right, 0 only the champion, of 56 (+10.7 points; p = 0.016"
        in rejected.reason
    )
    assert "four times out of five" in rejected.reason


def test_a_p_value_at_its_level_is_proof_and_one_above_it_is_none() -> None:
    """`level` is what p must not exceed: seven wins and no loss have p = 1/128."""
    assert decide(by_counts(50, 7, 0, 1 / 128)).promote
    assert not decide(by_counts(50, 7, 0, 0.9999 / 128)).promote


def test_models_measured_on_different_prompts_cannot_be_compared() -> None:
    champion, candidate = paired(5, 5)
    missing = candidate[-1].prompt_id
    with pytest.raises(
        Corrupt, match=rf"1 without a partner, for example \['{missing}'\]"
    ):
        compare(champion, candidate[:-1], SECTION, LEVEL)
    with pytest.raises(Corrupt, match=r"3 without a partner, for example \['[^']*'\]"):
        compare(champion, candidate[3:], SECTION, LEVEL)
    with pytest.raises(Corrupt, match="0 and 0"):
        compare([], [], SECTION, LEVEL)


def test_scores_name_the_slices_there_are() -> None:
    scores = Scores.of(
        results_of({"length=9": [True, True, False, True], "length=10": [False]})
    )
    assert scores.value("length=9") == 0.75
    assert scores.value() == 0.6
    assert scores.slices == {"length=9": 0.75, "length=10": 0.0}
    with pytest.raises(
        UserError,
        match=r"'length=12' \(there are: length=10, length=9\).*decide.goal.slice",
    ):
        scores.value("length=12")


def test_campaigns_of_equal_models_promote_falsely_at_most_alpha_of_the_time() -> None:
    campaigns, rounds, prompts = 2000, SECTION.max_rounds, 100
    draw, level = random.Random(11), compared(1, 0).level

    def measure() -> int:
        """Verdicts of one model as the bits of a number: every model is right on each prompt with
        chance 1/2."""
        return draw.getrandbits(prompts)

    fooled = 0
    for _ in range(campaigns):
        champion = measure()
        promoted = False
        for _ in range(rounds):
            candidate = measure()
            wins, losses = (
                (candidate & ~champion).bit_count(),
                (champion & ~candidate).bit_count(),
            )
            if decide(by_counts(prompts, wins, losses, level)).promote:
                champion, promoted = candidate, True
        fooled += promoted
    # Three standard errors of a share of alpha; the exact test spends less than alpha, so this is
    # not luck.
    assert (
        fooled / campaigns
        <= SECTION.alpha + 3 * (SECTION.alpha * (1 - SECTION.alpha) / campaigns) ** 0.5
    )
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
        counts = by_counts(200, kinds.count("win"), kinds.count("loss"), seen.level)
        shown += decide(counts).promote
    assert shown / 1500 == pytest.approx(0.8, abs=0.04)


def family_results(
    wins: dict[str, int], losses: dict[str, int], size: int = 20
) -> tuple[list[Result], list[Result]]:
    """Families of `size` prompts each, with so many prompts that only the candidate or only the
    champion got right."""
    names = sorted({*wins, *losses})
    slices = {
        f"family={name}": (wins.get(name, 0), losses.get(name, 0)) for name in names
    }
    champion = {
        name: [False] * won + [True] * (size - won) for name, (won, _) in slices.items()
    }
    candidate = {
        name: [True] * (size - lost) + [False] * lost
        for name, (_, lost) in slices.items()
    }
    return results_of(champion), results_of(candidate)


FAMILY = SECTION.model_copy(update={"family": "family"})


def test_families_of_one_prompt_each_are_no_families() -> None:
    champion, candidate = paired(30, 12)

    def in_families(rows: Iterable[Result]) -> list[Result]:
        return [
            row.model_copy(update={"tags": {"family": row.prompt_id}}) for row in rows
        ]

    alone = compare(in_families(champion), in_families(candidate), FAMILY, LEVEL)
    assert alone == compare(champion, candidate, SECTION, LEVEL)


def test_a_small_gain_in_most_families_is_no_proof_that_none_loses_all() -> None:
    """Of 41 families that gain 2 of 20 prompts one in eleven may lose all, and none be seen."""
    names = [f"f{number:02d}" for number in range(41)]
    few = compare(
        *family_results(dict.fromkeys(names, 2), dict.fromkeys(names, 0)), FAMILY, LEVEL
    )
    rejected = decide(few)
    assert not rejected.promote
    assert "better, but not proved" in rejected.reason
    assert few.detectable is not None
    assert few.detectable > 0.1
    names = [f"f{number:03d}" for number in range(120)]
    many = compare(
        *family_results(dict.fromkeys(names, 2), dict.fromkeys(names, 0)), FAMILY, LEVEL
    )
    assert decide(many).promote


def test_one_family_that_is_won_as_a_whole_is_one_piece_of_evidence() -> None:
    others = {f"f{number:02d}": 0 for number in range(20)}
    together = compare(*family_results({**others, "f00": 12}, others), FAMILY, LEVEL)
    spread = compare(
        *family_results({**others, **dict.fromkeys(list(others)[:12], 20)}, others),
        FAMILY,
        LEVEL,
    )
    assert (
        compare(*family_results({**others, "f00": 12}, others), SECTION, LEVEL).p_value
        < 0.001
    )
    assert together.p_value > 0.5
    assert not decide(together).promote
    assert decide(spread).promote
    assert (
        "240 prompts only the candidate got right, 0 only the champion, of 400 in 20 families"
        in decide(spread).reason
    )


def test_too_few_families_can_prove_nothing_and_the_gate_says_so() -> None:
    few = compare(
        *family_results(dict.fromkeys("abcd", 10), dict.fromkeys("abcd", 0)),
        FAMILY,
        LEVEL,
    )
    assert few.detectable is None
    rejected = decide(few)
    assert not rejected.promote
    assert "these prompts are too few to show any gain" in rejected.reason


def test_a_tag_that_prompts_lack_is_told_with_those_they_have() -> None:
    by_topic = SECTION.model_copy(update={"family": "topic"})
    with pytest.raises(
        UserError, match=r"have no tag 'topic' \(tags there are: family\)"
    ):
        compare(*family_results({"a": 1}, {"b": 1}), by_topic, LEVEL)


def numeric(errors: Sequence[float | None]) -> list[Result]:
    right = [error == 0 for error in errors]
    return [
        row.model_copy(update={"numeric": True, "error": error})
        for row, error in zip(results_of({"": right}), errors, strict=True)
    ]


def test_numeric_answers_can_be_compared_by_how_far_off_they_are() -> None:
    by_error = SECTION.model_copy(update={"score": "error"})
    champion, nearer = numeric([-4.0, 3.0] * 20), numeric([-2.0, 1.5] * 20)
    ruling = decide(compare(champion, nearer, by_error, LEVEL))
    assert ruling.promote
    assert "40 prompts with a smaller error than the champion's" in ruling.reason
    assert "mean absolute error -1.75" in ruling.reason
    assert not decide(compare(nearer, champion, by_error, LEVEL)).promote
    silent = numeric([None] * 40)  # no number counts as the largest error there is
    assert not decide(compare(champion, silent, by_error, LEVEL)).promote
    with pytest.raises(UserError, match="no validation prompt has a numeric verifier"):
        compare(*paired(3, 1), by_error, LEVEL)


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("points", "+2.0 points"),
        ("error", "mean absolute error -0.02"),
        ("brier", "mean Brier score -0.0200"),
        ("score", "mean score +0.0200"),
        ("macro_f1", "macro-F1 +0.0200"),
        ("loss", "perplexity -1.98 %"),
    ],
)
def test_a_gain_is_told_as_more_points_or_as_less_of_what_is_bad(
    unit: str, said: str
) -> None:
    graded = Graded(gain=0.02, detectable=None, families=5, unit=unit)
    words = Comparison(
        40, wins=20, losses=9, p_value=0.01, level=LEVEL, graded=graded
    ).in_words
    assert f"({said}; " in words


@pytest.mark.parametrize("far_off", [1e99, -1e12, 1e6])
@pytest.mark.parametrize("prompts", [101, 1001])
def test_one_answer_that_is_far_off_does_not_decide(
    far_off: float, prompts: int
) -> None:
    by_error = SECTION.model_copy(update={"score": "error"})
    champion = numeric([4.0] * prompts)
    better = numeric([2.0] * (prompts - 1) + [far_off])
    ruling = decide(compare(champion, better, by_error, LEVEL))
    assert ruling.promote
    assert "mean absolute error -1." in ruling.reason
    # Nor does it in the champion's answers make a worse candidate look better.
    worse = numeric([5.0] * prompts)
    champion = numeric([4.0] * (prompts - 1) + [far_off])
    assert not decide(compare(champion, worse, by_error, LEVEL)).promote


def test_models_that_are_nearly_always_right_can_be_compared_by_error() -> None:
    by_error = SECTION.model_copy(update={"score": "error"})
    champion = numeric([0.0] * 900 + [8.0] * 30)
    better = numeric([0.0] * 900 + [1.0] * 30)
    assert decide(compare(champion, better, by_error, LEVEL)).promote
    assert not decide(compare(champion, champion, by_error, LEVEL)).promote


@pytest.mark.parametrize(
    ("unit", "said"),
    [
        ("points", "2.0 points"),
        ("error", "0.02 less error"),
        ("brier", "a Brier score less by 0.0200"),
        ("score", "a mean score more by 0.0200"),
        ("macro_f1", "a macro-F1 more by 0.0200"),
        ("loss", "1.98 % of the perplexity"),
    ],
)
def test_the_gain_that_could_have_been_shown_is_promised_in_its_unit(
    unit: str, said: str
) -> None:
    graded = Graded(gain=0.01, detectable=0.02, families=5, unit=unit)
    power = Comparison(
        40, wins=20, losses=9, p_value=0.5, level=LEVEL, graded=graded
    ).power
    assert (
        power
        == f"these prompts are enough to show a gain of {said} four times out of five"
    )


def test_a_detectable_gain_in_points_is_a_share_times_a_hundred() -> None:
    graded = Graded(gain=0.01, detectable=0.25, families=5, unit="points")
    power = Comparison(
        40, wins=20, losses=9, p_value=0.5, level=LEVEL, graded=graded
    ).power
    assert "25.0 points" in power


def test_a_round_without_any_alpha_left_says_so_and_a_draw_is_not_better() -> None:
    spent = decide(by_counts(50, 20, 0, 0.0))
    assert not spent.promote
    assert "earlier rounds have spent the campaign's alpha" in spent.reason
    assert decide(by_counts(50, 9, 9, 1.0)).reason.startswith("not better")
