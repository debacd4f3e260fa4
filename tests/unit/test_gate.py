"""The gate lets nothing through that is not proved better."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from components.contracts.recipe import DecideSection, Goal
from components.contracts.rows import Result, TextResult
from components.contracts.state import RoundRecord
from components.contracts.summaries import SelectSummary
from components.contracts.summaries.evaluate import CollapseAlarm
from components.decide.gate import Comparison, Graded, by_counts, compare, decide
from components.decide.guards import Alarm, alarms_of, self_agreement
from components.errors import Corrupt, UserError
from components.measures import Scores
from components.statistics import alpha_of_round
from tests.unit.crafted import PLAN, evaluate_summary, results_of

SECTION = DecideSection(goal=Goal(threshold=0.9), max_rounds=5)
LEVEL = alpha_of_round(SECTION.alpha, SECTION.max_rounds)


def paired(
    wins: int, losses: int, both: int = 0, neither: int = 0
) -> tuple[list[Result], list[Result]]:
    """Results of a champion and a candidate that differ as told."""
    champion = [False] * wins + [True] * losses + [True] * both + [False] * neither
    candidate = [True] * wins + [False] * losses + [True] * both + [False] * neither
    return results_of({"": champion}), results_of({"": candidate})


@functools.cache
def compared(wins: int, losses: int, both: int = 0, neither: int = 0) -> Comparison:
    return compare(*paired(wins, losses, both, neither), SECTION, LEVEL)


def alarms(
    ratio: float | None,
    texts: Sequence[Any] = (),
    blocks: tuple[CollapseAlarm, ...] = (),
    warnings: tuple[CollapseAlarm, ...] = (),
    teaches_errors: tuple[str, ...] = (),
    why_unproved: str | None = None,
    bias: float = 0.0,
    section: DecideSection = SECTION,
) -> tuple[Alarm, ...]:
    """Alarms about a candidate with this perplexity on human text against round 0."""
    evaluation = evaluate_summary(blocks=blocks, warnings=warnings)
    selection = SelectSummary(
        round=1,
        labelled_rows=0,
        teaches_errors=teaches_errors,
        why_unproved=why_unproved,
        bias={"answer": bias},
    )
    return alarms_of(evaluation, selection, ratio, texts, section)


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


def test_a_candidate_that_unlearns_human_text_is_rejected_with_the_numbers() -> None:
    assert decide(compared(40, 2), alarms(1.10)).promote
    rejected = decide(compared(40, 2), alarms(1.101))
    assert not rejected.promote
    assert rejected.reason.startswith(
        "collapse guard: perplexity on human text is 1.101 times that of the best model so far"
    )


def test_models_measured_on_different_prompts_cannot_be_compared() -> None:
    champion, candidate = paired(5, 5)
    with pytest.raises(Corrupt, match="1 without a partner"):
        compare(champion, candidate[:-1], SECTION, LEVEL)
    with pytest.raises(Corrupt, match="0 and 0"):
        compare([], [], SECTION, LEVEL)


def test_scores_name_the_slices_there_are() -> None:
    scores = Scores.of(results_of({"length=9": [True, True, False, True], "length=10": [False]}))
    assert scores.value("length=9") == 0.75
    assert scores.value() == 0.6
    assert scores.slices == {"length=9": 0.75, "length=10": 0.0}
    with pytest.raises(
        UserError, match=r"'length=12' \(there are: length=10, length=9\).*decide.goal.slice"
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
            wins, losses = (candidate & ~champion).bit_count(), (champion & ~candidate).bit_count()
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
    slices = {f"family={name}": (wins.get(name, 0), losses.get(name, 0)) for name in names}
    champion = {name: [False] * won + [True] * (size - won) for name, (won, _) in slices.items()}
    candidate = {
        name: [True] * (size - lost) + [False] * lost for name, (_, lost) in slices.items()
    }
    return results_of(champion), results_of(candidate)


FAMILY = SECTION.model_copy(update={"family": "family"})


def test_families_of_one_prompt_each_are_no_families() -> None:
    champion, candidate = paired(30, 12)

    def in_families(rows: Iterable[Result]) -> list[Result]:
        return [row.model_copy(update={"tags": {"family": row.prompt_id}}) for row in rows]

    alone = compare(in_families(champion), in_families(candidate), FAMILY, LEVEL)
    assert alone == compare(champion, candidate, SECTION, LEVEL)


def test_a_small_gain_in_most_families_is_no_proof_that_none_loses_all() -> None:
    """Of 41 families that gain 2 of 20 prompts one in eleven may lose all, and none be seen."""
    names = [f"f{number:02d}" for number in range(41)]
    few = compare(*family_results(dict.fromkeys(names, 2), dict.fromkeys(names, 0)), FAMILY, LEVEL)
    rejected = decide(few)
    assert not rejected.promote
    assert "better, but not proved" in rejected.reason
    assert few.detectable is not None
    assert few.detectable > 0.1
    names = [f"f{number:03d}" for number in range(120)]
    many = compare(*family_results(dict.fromkeys(names, 2), dict.fromkeys(names, 0)), FAMILY, LEVEL)
    assert decide(many).promote


def test_one_family_that_is_won_as_a_whole_is_one_piece_of_evidence() -> None:
    others = {f"f{number:02d}": 0 for number in range(20)}
    together = compare(*family_results({**others, "f00": 12}, others), FAMILY, LEVEL)
    spread = compare(
        *family_results({**others, **dict.fromkeys(list(others)[:12], 20)}, others), FAMILY, LEVEL
    )
    assert compare(*family_results({**others, "f00": 12}, others), SECTION, LEVEL).p_value < 0.001
    assert together.p_value > 0.5
    assert not decide(together).promote
    assert decide(spread).promote
    assert (
        "240 prompts only the candidate got right, 0 only the champion, of 400 in 20 families"
        in decide(spread).reason
    )


def test_too_few_families_can_prove_nothing_and_the_gate_says_so() -> None:
    few = compare(
        *family_results(dict.fromkeys("abcd", 10), dict.fromkeys("abcd", 0)), FAMILY, LEVEL
    )
    assert few.detectable is None
    rejected = decide(few)
    assert not rejected.promote
    assert "these prompts are too few to show any gain" in rejected.reason


def test_a_tag_that_prompts_lack_is_told_with_those_they_have() -> None:
    by_topic = SECTION.model_copy(update={"family": "topic"})
    with pytest.raises(UserError, match=r"have no tag 'topic' \(tags there are: family\)"):
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
def test_a_gain_is_told_as_more_points_or_as_less_of_what_is_bad(unit: str, said: str) -> None:
    graded = Graded(gain=0.02, detectable=None, families=5, unit=unit)
    words = Comparison(40, wins=20, losses=9, p_value=0.01, level=LEVEL, graded=graded).in_words
    assert f"({said}; " in words


@pytest.mark.parametrize("far_off", [1e99, -1e12, 1e6])
@pytest.mark.parametrize("prompts", [101, 1001])
def test_one_answer_that_is_far_off_does_not_decide(far_off: float, prompts: int) -> None:
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


def texts(right: list[int], number: int = 100) -> list[TextResult]:
    return [
        TextResult(id=str(place), split="retention", loss=1.0, num_tokens=number, num_right=own)
        for place, own in enumerate(right)
    ]


def retained(before: list[int], after: list[int]) -> tuple[Alarm, ...]:
    return alarms(None, texts=list(zip(texts(before), texts(after), strict=True)))


def test_retention_must_be_shown_not_to_be_lost() -> None:
    assert retained([50] * 40, [50] * 40) == ()
    assert retained([50] * 40, [49, 51] * 20) == ()
    (lost,) = retained([50] * 40, [48] * 40)
    assert lost.blocks
    assert (
        "token accuracy -2.00 points on 40 rows, lower 95 % bound -2.00, above -1.00 is needed"
        in lost.reason
    )
    assert not decide(compared(40, 2), (lost,)).promote
    (unsure,) = retained([50] * 4, [40, 60, 45, 56])
    assert "may have lost human text" in unsure.reason
    assert "4 rows say little" in unsure.reason


def test_a_retention_margin_of_null_switches_that_guard_off() -> None:
    pairs = list(zip(texts([50] * 40), texts([0] * 40), strict=True))
    assert alarms(None, texts=pairs)
    assert not alarms(
        None, texts=pairs, section=SECTION.model_copy(update={"retention_margin": None})
    )


def test_alarms_of_evaluate_and_select_block_and_warnings_do_not() -> None:
    sign = CollapseAlarm(
        measure="distinct_2", value=0.8, limit=0.85, why="distinct-2 is 0.80 of round 0's"
    )
    (block,) = alarms(None, blocks=(sign,))
    (warning,) = alarms(None, warnings=(sign,))
    assert decide(compared(40, 2), (block,)).reason.startswith(
        "collapse guard: distinct-2 is 0.80 of round 0's; 40 prompts"
    )
    assert decide(compared(40, 2), (warning,)).promote
    (unproved,) = alarms(None, why_unproved="60 prompts show nothing")
    assert not unproved.blocks
    assert unproved.reason == "not proved: 60 prompts show nothing"
    assert decide(compared(40, 2), (unproved,)).promote
    (taught,) = alarms(None, teaches_errors=("vote",))
    assert decide(compared(40, 2), (taught,)).reason.startswith(
        "the mix teaches errors: by the audit set, what vote kept"
    )
    # Half of the bound of the bias warns; without a bound nothing does.
    bounded = SECTION.model_copy(update={"max_bias": 0.2})
    assert alarms(None, bias=0.1, section=bounded) == alarms(None, bias=0.9) == ()
    (near,) = alarms(None, bias=0.11, section=bounded)
    assert decide(compared(40, 2), (near,)).promote
    (biased,) = alarms(None, bias=0.21, section=bounded)
    assert decide(compared(40, 2), (biased,)).reason.startswith(
        "bias guard: the answers of accepted samples are 0.210 from those of labelled rows"
    )
    # Perplexity is compared with the recipe's bound, not with evaluate's.
    other = sign.model_copy(update={"measure": "perplexity"})
    assert alarms(1.04, blocks=(other,)) == ()
    assert [one.blocks for one in alarms(1.06)] == [False]


def told(agreement: float, accuracy: float, prompts: int = 200) -> dict[str, float]:
    return {"agreement": agreement, "audit_accuracy": accuracy, "audit_prompts": float(prompts)}


def test_a_loop_that_agrees_more_and_is_right_less_is_warned_of() -> None:
    before = (recorded(1, 5, told(0.6, 0.7)), recorded(2, 5, told(0.7, 0.66)))
    (warning,) = self_agreement(before, told(0.8, 0.55), 5)
    assert not warning.blocks
    assert "0.550 of the samples are right on the audit split, in round 1 0.700" in warning.reason
    assert "agree with each other more (0.800, 0.600)" in warning.reason


def test_agreement_alone_or_a_fall_that_may_be_chance_is_no_alarm() -> None:
    before = (recorded(1, 5, told(0.6, 0.7)),)
    assert self_agreement(before, told(0.9, 0.7), 5) == ()
    assert self_agreement(before, told(0.5, 0.4), 5) == ()
    assert self_agreement(before, told(0.6, 0.4), 5) == (), "no surer than before"
    assert self_agreement(before, told(0.8, 0.55, prompts=20), 5) == ()
    assert self_agreement(before, told(0.8, 0.55), 6) == (), "longer problems are harder"
    assert self_agreement(before, {"agreement": 0.8}, 5) == ()
    assert self_agreement((), told(0.8, 0.55), 5) == ()


def recorded(number: int, level: int, measures: dict[str, float]) -> RoundRecord:
    return RoundRecord(
        round=number,
        verdict="rejected",
        why="",
        level=level,
        plan=PLAN,
        score=0.5,
        interval=(0.4, 0.6),
        overall=0.5,
        test_score=0.5,
        measures=measures,
    )
