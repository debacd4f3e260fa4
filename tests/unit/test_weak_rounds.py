"""Rounds with too few accepted samples: no candidate, no alpha spent, and another plan."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.contracts.state import Plan
from components.contracts.summaries.select import HintedCounts, HintPool
from components.decide.reflection.diagnosis import diagnose
from components.decide.step import DecideInputs, run
from components.decide.what_if import what_if
from components.errors import Corrupt
from components.evaluate.step import EvaluateInputs
from components.evaluate.step import run as evaluate
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_receipt, receipt_uri
from components.train.step import TrainInputs
from components.train.step import run as train
from tests.unit.crafted import PLAN, recipe_of, results_of
from tests.unit.decisions import SAMPLE_TOKENS, Campaign, simple, told
from tests.unit.reflections import NO_SAMPLES, SELECT, evidence

WHY = "3 of 40 samples accepted, select.min_accepted is 16 (dropped: verifier 37); most were …"
MANY_ROUNDS = {"goal": {"threshold": 0.99}, "max_rounds": 10, "patience": 9}


def weak_inputs(campaign: Campaign, **select: Any) -> DecideInputs:
    """The inputs of a weak round, as select, train and evaluate hand them on."""
    few = {
        "accepted": 3,
        "prompts_accepted": 3,
        "dropped": {"verifier": 37},
        "why_weak": WHY,
    }
    mix = campaign.mix(len(campaign.receipts), **{**few, **select})
    candidate = train(TrainInputs(campaign.uri, mix), campaign.context)
    measured = evaluate(EvaluateInputs(campaign.uri, candidate), campaign.context)
    return DecideInputs(campaign.uri, mix, candidate, measured)


def weak_round(campaign: Campaign, **select: Any) -> Receipt:
    """Decide a weak round; its state is what the next one begins from."""
    receipt = run(weak_inputs(campaign, **select), campaign.context)
    campaign.receipts.append(receipt)
    campaign.uri = receipt_uri(campaign.context, receipt)
    return receipt


@pytest.fixture
def campaign(context: Context) -> Campaign:
    campaign = Campaign(context, recipe_of(decide=MANY_ROUNDS))
    campaign.round(simple(40))
    return campaign


def test_a_weak_round_has_no_candidate_and_says_why(campaign: Campaign) -> None:
    before = campaign.state
    receipt = weak_round(campaign)
    state = campaign.state
    record = state.history[1]
    assert told(receipt).weak is record.weak is True
    assert (record.verdict, record.blocked) == ("rejected", False)
    assert record.why == f"too few accepted samples, so no candidate was trained: {WHY}"
    assert (record.score, record.p_value, record.tokens_trained) == (0.4, None, 0)
    assert (record.generated, record.accepted, record.dropped) == (
        40,
        3,
        {"verifier": 37},
    )
    assert record.tokens_generated == SAMPLE_TOKENS
    assert record.receipts.keys() == {"generate-0", "select"}
    assert (state.champion, state.champion_evaluation) == (
        before.champion,
        before.champion_evaluation,
    )
    assert (state.go, state.stop, state.rounds_without_gain) == (True, None, 1)
    # The few accepted samples were verified: they teach in later rounds.
    assert state.selections == (record.receipts["select"],)
    (cause,) = record.causes
    assert (cause.name, cause.change) == (
        "too_few_accepted",
        "samples_per_prompt 4 → 8",
    )
    assert state.plan.samples_per_prompt == 8
    card = campaign.card
    assert "# Round 1: rejected" in card
    assert "nothing was compared and no alpha was spent" in card
    assert "| validation, all prompts | none | 0.4000 [0.3094, 0.4980] |" in card
    assert "3 of 40 samples accepted." in card
    assert "| 1 | rejected | none | none | 3 |  |" in card


def test_a_weak_round_leaves_its_share_of_alpha_to_the_next(campaign: Campaign) -> None:
    """Seven prompts won, none lost: p = 1/128, which is proof at 2 x 0.05/10 and none at 0.05/10."""
    campaign.round(simple(20))
    account = campaign.state.alpha_account
    assert account is not None
    weak_round(campaign)
    assert campaign.state.alpha_account == account
    receipt = campaign.round(simple(47))
    assert told(receipt).verdict == "promoted"
    assert "p = 0.0078, needed 0.01)" in told(receipt).why
    assert campaign.state.alpha_account == account
    answer = what_if(campaign.context, campaign.uri, {})
    assert [(one.verdict, one.would_be) for one in answer.rounds] == [
        ("promoted", "promoted"),
        ("rejected", "rejected"),
        ("rejected", "rejected"),
        ("promoted", "promoted"),
    ]
    assert answer.rounds[2].why.startswith("too few accepted samples")


def test_a_change_that_brings_no_more_samples_is_taken_back_and_another_one_tried(
    campaign: Campaign,
) -> None:
    weak_round(campaign)
    weak_round(campaign)
    state = campaign.state
    assert state.history[2].causes[0].name == "change_taken_back"
    assert (state.plan.samples_per_prompt, state.plan.temperature) == (4, 0.5)
    weak_round(campaign, accepted=9, dropped={"verifier": 31})
    confirmed = campaign.state.history[3].causes[0]
    assert confirmed.name == "change_confirmed"
    assert "accepted went from 3 to 9" in confirmed.evidence
    assert "no dev prompts" not in confirmed.evidence


def test_the_scores_of_a_weak_round_speak_neither_for_nor_against_a_change(
    campaign: Campaign,
) -> None:
    """They are the champion's: the next candidate is no worse than one that never was."""
    weak_round(campaign)
    campaign.round(simple(20), select={"accepted": 36, "dropped": {"verifier": 4}})
    confirmed = campaign.state.history[2].causes[0]
    assert confirmed.name == "change_confirmed"
    assert campaign.state.plan.samples_per_prompt == 8


def test_a_weak_round_tells_nothing_of_a_change_of_the_training_before_it(
    campaign: Campaign,
) -> None:
    """The champion has fewer dev prompts right than the last candidate, which was not proved better."""
    campaign.round(simple(43), train={"skipped_steps": 3})
    (cause,) = [one for one in campaign.state.history[1].causes if one.change]
    assert cause.change_name == "learning_rate_down"
    learning_rate = campaign.state.plan.learning_rate
    weak_round(campaign)
    assert [one.name for one in campaign.state.history[2].causes] == [
        "too_few_accepted"
    ]
    assert campaign.state.plan.learning_rate == learning_rate < PLAN.learning_rate


def test_weak_rounds_count_for_patience_and_for_the_budget(context: Context) -> None:
    impatient = {**MANY_ROUNDS, "patience": 2}
    for section, stop in (
        (impatient, "patience"),
        ({**MANY_ROUNDS, "max_rounds": 2}, "max_rounds"),
        ({**MANY_ROUNDS, "budget": {"tokens": 1000 + 2 * SAMPLE_TOKENS}}, "budget"),
    ):
        campaign = Campaign(context, recipe_of(decide=section))
        campaign.round(simple(40))
        assert told(weak_round(campaign)).go is True
        receipt = weak_round(campaign)
        assert (told(receipt).go, told(receipt).stop) == (False, stop)
        assert campaign.state.champion_round == 0


def test_a_weak_round_that_no_plan_can_mend_is_the_last(context: Context) -> None:
    greedy = PLAN.model_copy(update={"temperature": 0.0, "samples_per_prompt": 1})
    sampling = {"temperature": 0.0, "samples_per_prompt": 1}
    recipe = recipe_of(decide=MANY_ROUNDS, generate=sampling)
    for dropped in ({"verifier": 37}, {"in_evaluation": 37}, {}):
        campaign = Campaign(context, recipe, plan=greedy)
        campaign.round(simple(40))
        receipt = weak_round(campaign, dropped=dropped)
        assert (told(receipt).go, told(receipt).stop) == (False, "weak")
        assert "the plan has nothing left to change about it" in campaign.card
        assert campaign.state.champion_round == 0


def test_prompts_that_wait_for_a_hint_are_reason_to_go_on(context: Context) -> None:
    greedy = PLAN.model_copy(update={"temperature": 0.0, "samples_per_prompt": 1})
    sampling = {"temperature": 0.0, "samples_per_prompt": 1, "hints": {}}
    recipe = recipe_of(decide=MANY_ROUNDS, generate=sampling)
    campaign = Campaign(context, recipe, plan=greedy)
    campaign.round(simple(40))
    hinted = HintedCounts(
        prompts=0, generated=0, accepted=0, dropped={}, filters={}, prompts_accepted=0
    )
    pool = HintPool(found=10, answered=0, waiting=10)
    receipt = weak_round(campaign, hinted=hinted, too_hard=pool)
    assert told(receipt).go is True


def test_a_weak_round_without_any_sample_is_the_last_and_no_selection(
    campaign: Campaign,
) -> None:
    why = "0 of 0 samples accepted, select.min_accepted is 16 (dropped: none); give …"
    receipt = weak_round(campaign, **NO_SAMPLES, why_weak=why)
    assert told(receipt).causes == ("too_few_accepted",)
    assert (told(receipt).go, told(receipt).stop) == (False, "weak")
    # Without a sample the round's rows are no selection that later rounds could read.
    assert campaign.state.selections == ()


def test_a_ladder_that_is_too_steep_goes_one_length_back(context: Context) -> None:
    campaign = Campaign(
        context,
        recipe_of(ladder=True, decide=MANY_ROUNDS),
        plan=PLAN.model_copy(update={"level": 11}),
    )
    campaign.round(
        results_of({f"length={length}": [length < 9] * 10 for length in range(1, 13)})
    )
    levels = []
    for dropped in ({"verifier": 3, "duplicate": 34}, *3 * [{"verifier": 37}]):
        weak_round(campaign, dropped=dropped)
        levels.append(campaign.state.plan.level)
    # Answers that only repeat each other were right: the length was not too hard.
    assert levels == [11, 10, 9, 9]


def test_models_that_are_not_the_champions_are_refused_in_a_weak_round(
    campaign: Campaign,
) -> None:
    inputs = weak_inputs(campaign)
    other = campaign.inputs(simple(41))
    assert inputs.train.ref == campaign.state.champion
    assert inputs.evaluate.ref == campaign.state.champion_evaluation
    base = read_receipt(campaign.context, campaign.state.prepared)
    for wrong in (
        replace(inputs, train=other.train, evaluate=other.evaluate),
        replace(inputs, train=base),
        replace(inputs, evaluate=other.evaluate),
    ):
        with pytest.raises(Corrupt, match="is of a weak round, which trains nothing"):
            run(wrong, campaign.context)


def changes_of(dropped: dict[str, int], **plan: Any) -> list[Any]:
    """(cause, change, otherwise) of a weak round in which samples were dropped for these reasons."""
    used: Plan = PLAN.model_copy(update=plan)
    select = {
        **SELECT,
        "accepted": 0,
        "prompts_accepted": 0,
        "dropped": dropped,
        "why_weak": WHY,
    }
    findings = diagnose(
        replace(
            evidence(plan=used, select=select, comparison=None),
            train=None,
            losses=(),
        )
    )
    return [(one.name, one.change, one.otherwise) for one in findings]


@pytest.mark.parametrize(
    ("reason", "change", "otherwise"),
    [
        ("verifier", "samples_up", "temperature_down"),
        ("judge", "samples_up", "temperature_down"),
        ("unfinished", "answer_tokens_up", "temperature_down"),
        ("vote", "temperature_down", "samples_up"),
        ("duplicate", "temperature_up", "samples_up"),
        ("in_evaluation", None, None),
        ("no_answer", None, None),
    ],
)
def test_the_reason_that_dropped_most_decides_what_is_changed(
    reason: str, change: str | None, otherwise: str | None
) -> None:
    other = "verifier" if reason != "verifier" else "vote"
    found = changes_of({reason: 3000, other: 1000})
    assert ("too_few_accepted", change, otherwise) in found


def test_samples_that_were_all_accepted_and_too_few_are_drawn_more_of(
    context: Context,
) -> None:
    campaign = Campaign(context, recipe_of(decide=MANY_ROUNDS))
    campaign.round(simple(40))
    why = "10 of 10 samples accepted, select.min_accepted is 16 (dropped: none); give more prompts …"
    all_accepted = {"generated": 10, "accepted": 10, "acceptance": 1.0, "dropped": {}}
    receipt = weak_round(
        campaign, **all_accepted, prompts=10, prompts_accepted=10, why_weak=why
    )
    assert told(receipt).go is True
    assert campaign.state.plan.samples_per_prompt == 8


def test_greedy_samples_are_not_drawn_twice() -> None:
    greedy = {"temperature": 0.0, "samples_per_prompt": 1}
    assert changes_of({"verifier": 4000}, **greedy) == [
        ("too_few_accepted", None, None)
    ]
    assert changes_of({"duplicate": 4000}, **greedy)[0][1:] == ("temperature_up", None)
