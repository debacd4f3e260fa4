"""Alarms that block a promotion: retention that may be lost, signs of collapse, a loop that agrees
with itself."""

from __future__ import annotations

from components.contracts.rows import TextResult
from components.contracts.state import RoundRecord
from components.contracts.summaries.evaluate import CollapseAlarm
from components.decide.gate import decide
from components.decide.guards import Alarm, self_agreement
from tests.unit.crafted import PLAN
from tests.unit.gating import SECTION, alarms, compared


def test_a_candidate_that_unlearns_human_text_is_rejected_with_the_numbers() -> None:
    assert decide(compared(40, 2), alarms(1.10)).promote
    rejected = decide(compared(40, 2), alarms(1.101))
    assert not rejected.promote
    assert rejected.reason.startswith(
        "collapse guard: perplexity on human text is 1.101 times that of the best model so far"
    )


def texts(right: list[int], number: int = 100) -> list[TextResult]:
    return [
        TextResult(
            id=str(place), split="retention", loss=1.0, num_tokens=number, num_right=own
        )
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
    assert "the candidate lost human text" in lost.reason
    assert not decide(compared(40, 2), (lost,)).promote
    (unsure,) = retained([50] * 4, [40, 60, 45, 56])
    assert "may have lost human text" in unsure.reason
    assert "4 rows say little" in unsure.reason
    (level,) = retained([50] * 4, [40, 60, 40, 60])
    assert "may have lost human text" in level.reason
    (few,) = retained([50] * 29, [48] * 29)
    assert "29 rows say little" in few.reason
    (enough,) = retained([50] * 30, [48] * 30)
    assert "say little" not in enough.reason


def test_a_retention_margin_of_null_switches_that_guard_off() -> None:
    pairs = list(zip(texts([50] * 40), texts([0] * 40), strict=True))
    assert alarms(None, texts=pairs)
    assert not alarms(
        None, texts=pairs, section=SECTION.model_copy(update={"retention_margin": None})
    )


def test_alarms_of_evaluate_and_select_block_and_warnings_do_not() -> None:
    sign = CollapseAlarm(
        measure="distinct_2",
        value=0.8,
        limit=0.85,
        why="distinct-2 is 0.80 of round 0's",
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
    (at_bound,) = alarms(None, bias=0.2, section=bounded)
    assert not at_bound.blocks
    (biased,) = alarms(None, bias=0.21, section=bounded)
    assert decide(compared(40, 2), (biased,)).reason.startswith(
        "bias guard: the answers of accepted samples are 0.210 from those of labelled rows"
    )
    # Perplexity is compared with the recipe's bound, not with evaluate's.
    other = sign.model_copy(update={"measure": "perplexity"})
    assert alarms(1.04, blocks=(other,)) == ()
    assert [one.blocks for one in alarms(1.06)] == [False]
    assert alarms(1.05) == ()
    # What blocks is told first.
    both = alarms(1.06, blocks=(sign,), warnings=(sign,), teaches_errors=("vote",))
    assert [one.blocks for one in both] == [True, True, False, False]


def told(agreement: float, accuracy: float, prompts: int = 200) -> dict[str, float]:
    return {
        "agreement": agreement,
        "audit_accuracy": accuracy,
        "audit_prompts": float(prompts),
    }


def test_a_loop_that_agrees_more_and_is_right_less_is_warned_of() -> None:
    before = (recorded(1, 5, told(0.6, 0.7)), recorded(2, 5, told(0.7, 0.66)))
    (warning,) = self_agreement(before, told(0.8, 0.55), 5)
    assert not warning.blocks
    assert (
        "0.550 of the samples are right on the audit split, in round 1 0.700"
        in warning.reason
    )
    assert "agree with each other more (0.800, 0.600)" in warning.reason


def test_agreement_alone_or_a_fall_that_may_be_chance_is_no_alarm() -> None:
    before = (recorded(1, 5, told(0.6, 0.7)),)
    assert self_agreement(before, told(0.9, 0.7), 5) == ()
    assert self_agreement(before, told(0.5, 0.4), 5) == ()
    assert self_agreement(before, told(0.6, 0.4), 5) == (), "no surer than before"
    assert self_agreement(before, told(0.8, 0.55, prompts=20), 5) == ()
    # 1.5 and 2.1 standard errors: the bound is that of 95 %, one-sided.
    assert self_agreement(before, told(0.8, 0.63), 5) == ()
    assert len(self_agreement(before, told(0.8, 0.60), 5)) == 1
    assert self_agreement(before, told(0.8, 0.55), 6) == (), (
        "longer problems are harder"
    )
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
