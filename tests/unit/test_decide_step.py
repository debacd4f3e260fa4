"""Whole rounds through decide: verdicts, and what is written down."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from components.contracts.summaries.select import (
    FilterAudit,
    FilterQuality,
    HintedCounts,
    HintPool,
    Votes,
)
from components.decide.step import run
from components.errors import Corrupt, UserError
from components.runtime.context import Context
from components.runtime.receipts import receipt_uri
from components.statistics import mcnemar_size
from tests.unit.crafted import (
    PLAN,
    ask,
    first_mix,
    recipe_of,
    results_of,
    right_of,
    trained,
)
from tests.unit.decisions import (
    SAMPLE_TOKENS,
    TRAIN_TOKENS,
    Campaign,
    lengths,
    simple,
    told,
)


def agreeing(share: float, *, right: float) -> dict[str, Any]:
    """What select says of samples that agree so far, and are right so often on the audit split."""
    quality = FilterQuality(
        given=200,
        accepted=200,
        prompts_accepted=200,
        precision=1.0,
        precision_low=1.0,
        recall=1.0,
        accepted_share=1.0,
    )
    votes = Votes(
        prompts=10,
        agreement=share,
        prompts_passed=10,
        passed_agreement=share,
        refused_agreement=None,
        minority=0,
        minority_passed=0,
        accepted=40,
        disputed=0,
        kinds=(),
    )
    audit = FilterAudit(
        prompts=200,
        samples=200,
        model_accuracy=right,
        filters={},
        all=quality,
        teaches_errors=(),
    )
    return {"votes": votes, "audit": audit}


def test_the_base_is_the_first_champion_and_round_zero_has_to_beat_it(
    campaign: Campaign,
) -> None:
    receipt = campaign.round(simple(40))
    state = campaign.state
    assert told(receipt).verdict == "promoted"
    assert told(receipt).why.startswith(
        "proved better: 40 prompts only the candidate got right"
    )
    assert told(receipt).go is True
    assert state.base is not None
    assert (state.base.score, state.base.test_score) == (0.0, 0.1)
    assert (
        state.champion == told(receipt).champion == state.history[0].receipts["train"]
    )
    assert (
        state.champion_evaluation
        == state.first_evaluation
        == state.history[0].receipts["evaluate"]
    )
    assert state.base_evaluation not in (None, state.champion_evaluation)
    assert state.start == campaign.start.ref
    assert (state.round, state.champion_round, state.selections) == (0, 0, ())
    assert state.plan == PLAN.model_copy(update={"steps": 200, "learning_rate": 1e-3})
    assert "# Round 0: promoted" in campaign.card
    assert "| base | first champion | 0.0000 | 0.0000 |  |  |" in campaign.card


def test_a_supervised_training_that_makes_the_users_model_worse_does_not_replace_it(
    context: Context,
) -> None:
    campaign = Campaign(context, recipe_of(), base=simple(55))
    receipt = campaign.round(simple(5))
    state = campaign.state
    assert told(receipt).verdict == "rejected"
    assert told(receipt).why.startswith(
        "not better: 0 prompts only the candidate got right, 50 "
    )
    assert state.champion == told(receipt).champion == state.prepared
    assert (state.champion_round, state.champion_evaluation) == (
        None,
        state.base_evaluation,
    )
    assert "Best model: the base model." in campaign.card
    # Round 1 goes on from the base, and is compared with it too.
    assert told(campaign.round(simple(56))).verdict == "rejected"
    assert told(campaign.round(simple(80))).verdict == "promoted"
    assert (
        campaign.state.first_evaluation
        == campaign.state.history[2].receipts["evaluate"]
    )


def test_a_round_without_a_measured_base_is_refused(campaign: Campaign) -> None:
    inputs = replace(
        campaign.inputs(simple(40)), state=receipt_uri(campaign.context, campaign.start)
    )
    with pytest.raises(UserError, match="the base model is not measured"):
        run(inputs, campaign.context)


def test_a_candidate_proved_better_is_promoted(campaign: Campaign) -> None:
    campaign.round(simple(40))
    receipt = campaign.round(simple(60))
    state, record = campaign.state, campaign.state.history[1]
    assert told(receipt).verdict == "promoted"
    assert told(receipt).why.startswith(
        "proved better: 20 prompts only the candidate got right, 0 only the champion"
    )
    assert state.champion == record.receipts["train"]
    assert state.champion_round == 1
    assert state.first_evaluation == state.history[0].receipts["evaluate"]
    assert state.rounds_without_gain == 0
    assert state.selections == (record.receipts["select"],)
    assert record.model_dump(
        include={
            "generated",
            "accepted",
            "dropped",
            "tokens_generated",
            "tokens_trained",
        }
    ) == {
        "generated": 40,
        "accepted": 36,
        "dropped": {"verifier": 4},
        "tokens_generated": SAMPLE_TOKENS,
        "tokens_trained": TRAIN_TOKENS,
    }
    assert record.receipts.keys() == {"generate-0", "select", "train", "evaluate"}
    assert record.score == record.overall == 0.6
    assert record.interval[0] < 0.6 < record.interval[1]


def test_answers_to_hints_are_paid_for_and_say_nothing_of_the_model(
    context: Context,
) -> None:
    records, cards = [], []
    hinted = HintedCounts(
        prompts=4, generated=12, accepted=3, dropped={}, filters={}, prompts_accepted=3
    )
    with_hints = {
        "tokens_sampled": SAMPLE_TOKENS + 30,
        "hinted": hinted,
        "too_hard": HintPool(found=4, answered=0, waiting=9),
    }
    for select in ({}, with_hints):
        campaign = Campaign(context, recipe_of())
        campaign.round(simple(40))
        campaign.round(simple(60), select=select)
        records.append(campaign.state.history[1])
        cards.append(campaign.card)
    plain, helped = records
    assert (plain.tokens_generated, helped.tokens_generated) == (
        SAMPLE_TOKENS,
        SAMPLE_TOKENS + 30,
    )
    assert helped.measures == {
        **plain.measures,
        "hinted": 12,
        "hinted_accepted": 3,
        "too_hard": 9,
    }
    same = {"tokens_generated": 0, "measures": {}, "receipts": {}}
    assert helped.model_copy(update=same) == plain.model_copy(update=same)
    assert (
        "With a hint, 3 of 12 more were accepted; 9 prompts wait for one." in cards[1]
    )
    assert "hint" not in cards[0]


def test_a_loop_that_grows_sure_of_what_is_wrong_is_warned_of_by_the_audit_split(
    context: Context,
) -> None:
    campaign = Campaign(context, recipe_of(), validation=(ask("1+1=", "2"),))
    campaign.round(simple(40))
    campaign.round(simple(41), select=agreeing(0.5, right=0.7))
    campaign.round(simple(42), select=agreeing(0.75, right=0.69))
    campaign.round(simple(60), select=agreeing(1.0, right=0.5))
    calm, still_calm, warned = campaign.state.history[1:]
    assert calm.alarms == still_calm.alarms == ()
    (alarm,) = warned.alarms
    assert (
        "0.500 of the samples are right on the audit split, in round 1 0.700" in alarm
    )
    assert warned.verdict == "promoted", "a warning: the gate has its own prompts"
    assert "warning: collapse guard: 0.500" in campaign.card


def test_a_candidate_not_proved_better_is_kept_out_and_its_samples_still_accumulate(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    receipt = campaign.round(simple(43))
    state = campaign.state
    assert told(receipt).verdict == "rejected"
    assert told(receipt).why.startswith("better, but not proved")
    assert state.champion_round == 0
    assert state.champion == state.history[0].receipts["train"]
    assert state.rounds_without_gain == 1
    assert len(state.selections) == 1
    assert told(receipt).score == 0.43
    assert told(receipt).champion == state.champion


def test_the_gate_never_looks_at_the_test_split(campaign: Campaign) -> None:
    """It is for the report: a campaign that were decided on it would report what it chose by."""
    wrong, right = (
        results_of({"": [verdict] * 100}, "test") for verdict in (False, True)
    )
    campaign.round([*simple(40), *wrong])
    receipt = campaign.round([*simple(43), *right])
    assert receipt.summary["verdict"] == "rejected"
    assert (
        "3 prompts only the candidate got right, 0 only the champion, of 100 "
        in receipt.summary["why"]
    )
    assert receipt.summary["score"] == 0.43


def test_answers_to_test_prompts_change_no_verdict_no_plan_and_no_end(
    context: Context,
) -> None:
    """A whole campaign with test answers that are all right, and one with none: what they decide."""
    recipe = recipe_of(
        ladder=True,
        decide={
            "goal": {"threshold": 0.6, "slice": "length=12"},
            "patience": 3,
            "max_rounds": 4,
        },
    )
    validation = (
        (60, 40, 10, 0, 0),
        (95, 90, 30, 0, 0),
        (70, 70, 0, 0, 0),
        (99, 99, 90, 80, 70),
    )
    ends = []
    for right in (0, 100):
        campaign = Campaign(context, recipe, PLAN.model_copy(update={"level": 8}))
        for number, counts in enumerate(validation):
            tested = [
                row.model_copy(
                    update={"finished": right > 0, "num_tokens": 2 + 100 * number}
                )
                for row in lengths(*[right] * 5, split="test")
            ]
            dev = lengths(*counts, split="dev")
            campaign.round(
                [*lengths(*counts), *tested, *dev], test_accuracy=right / 100
            )
        told_of_test = {"test_score", "receipts"}
        history = [
            record.model_dump(exclude=told_of_test) for record in campaign.state.history
        ]
        state = campaign.state
        ends.append(
            (history, state.plan, state.stop, state.champion_round, state.alpha_account)
        )
        assert [record.test_score for record in state.history] == [right / 100] * 4
    assert ends[0] == ends[1]
    # It is a campaign in which something is decided: verdicts, causes, levels and the end.
    history = ends[0][0]
    assert [record["verdict"] for record in history] == [
        "promoted",
        "promoted",
        "rejected",
        "promoted",
    ]
    assert any(record["causes"] for record in history)
    assert ends[0][2] == "target"


def test_the_next_candidate_is_compared_with_the_champion_not_with_the_last_one(
    campaign: Campaign,
) -> None:
    campaign.round(simple(50))
    campaign.round(simple(20))
    receipt = campaign.round(simple(45))
    assert told(receipt).verdict == "rejected"
    assert (
        "0 prompts only the candidate got right, 5 only the champion"
        in told(receipt).why
    )


def test_a_promotion_hands_its_share_of_alpha_to_the_next_round_alone(
    context: Context,
) -> None:
    """Seven prompts won, none lost: p = 1/128, which is proof at 2 x 0.05/10 and none at 0.05/10."""
    rounds = {"goal": {"threshold": 0.99}, "max_rounds": 10, "patience": 9}
    campaign = Campaign(context, recipe_of(decide=rounds))
    campaign.round(simple(40))
    assert told(campaign.round(simple(47))).verdict == "rejected"
    assert told(campaign.round(simple(60))).verdict == "promoted"
    second = campaign.round(simple(67))
    assert told(second).verdict == "promoted"
    assert "p = 0.0078, needed 0.01)" in told(second).why
    assert told(campaign.round(simple(60))).verdict == "rejected"
    assert told(campaign.round(simple(74))).verdict == "rejected"


def test_the_state_carries_what_the_rounds_have_spent_of_alpha(
    context: Context,
) -> None:
    rounds = {"goal": {"threshold": 0.99}, "max_rounds": 4, "patience": 9}
    campaign = Campaign(context, recipe_of(decide=rounds))
    campaign.round(simple(40))
    account = campaign.state.alpha_account
    assert account is not None
    assert (account.alpha, account.planned_rounds, account.spent) == (0.05, 4, 0.0)
    # 20 wins and 10 losses: p = 0.049, where round 0 has left its half of a share to round 1.
    campaign.round(results_of({"": [10 <= place < 60 for place in range(100)]}))
    spent = mcnemar_size(30, 1.5 * 0.0125)
    assert spent > 0
    assert campaign.state.alpha_account == account.model_copy(update={"spent": spent})
    campaign.round(simple(60))
    assert campaign.state.alpha_account == account.model_copy(update={"spent": spent})


def test_the_card_tells_a_person_what_happened(context: Context) -> None:
    campaign = Campaign(
        context, recipe_of(decide={"goal": {"threshold": 0.9, "slice": "length=10"}})
    )
    campaign.round(
        results_of({"length=9": right_of(100, 80), "length=10": right_of(100, 40)})
    )
    campaign.round(
        results_of({"length=9": right_of(100, 80), "length=10": right_of(100, 42)})
    )
    for line in (
        "# Round 1: rejected",
        "| validation, length=10 | 0.4200 [0.3280, 0.5179] | 0.4000 [0.3094, 0.4980] |",
        "| length=9 | 100 | 0.8000 [0.7112, 0.8666] | 0.8000 |",
        "36 of 40 samples accepted.",
        "| verifier | 4 |",
        "These prompts would have shown a gain of 3.9 points four times out of five.",
        "| learning_rate | 0.001 | 0.001 |",
        "| 0 | promoted | 0.4000 | 0.6000 | 0 |  |",
    ):
        assert line in campaign.card, campaign.card
    assert campaign.card.index("| length=9 |") < campaign.card.index("| length=10 |")


def test_text_of_people_cannot_break_the_card(context: Context) -> None:
    campaign = Campaign(context, recipe_of())
    campaign.round(results_of({"topic=a|b <script>": [True, False]}))
    assert "<script>" not in campaign.card.replace("\\<script\\>", "")
    assert "topic=a\\|b" in campaign.card


def test_receipts_of_another_round_or_another_model_are_refused(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    good = campaign.inputs(simple(60))
    other = trained(campaign.context, 1, final_loss=0.1)
    late = trained(campaign.context, 2)
    for bad, message in (
        (replace(good, train=other), "measured another model"),
        (replace(good, train=late), "is of round 2; needed: train of round 1"),
        (replace(good, train=good.evaluate), "is not a receipt of train"),
        (
            replace(good, mix=first_mix(campaign.context)),
            "is of round 0; needed: mix of round 1",
        ),
        (replace(good, mix=campaign.start), "is not a receipt of select or mix"),
    ):
        with pytest.raises(Corrupt, match=message):
            run(bad, campaign.context)


def test_missing_results_are_corrupt_not_a_verdict(campaign: Campaign) -> None:
    campaign.round(simple(40))
    with pytest.raises(Corrupt, match="1 without a partner"):
        campaign.round(simple(60)[:-1])


def test_the_same_round_is_decided_once(campaign: Campaign) -> None:
    inputs = campaign.inputs(simple(40))
    assert run(inputs, campaign.context) == run(inputs, campaign.context)


def test_a_mix_that_teaches_errors_is_rejected_and_does_not_accumulate(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    receipt = campaign.round(simple(60), select={"teaches_errors": ("vote",)})
    assert told(receipt).verdict == "rejected"
    assert "what vote kept is hardly better than the model itself" in told(receipt).why
    assert campaign.state.selections == ()


def test_a_round_keeps_its_measures_for_the_next_to_be_compared_with(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    campaign.round(simple(60))
    measures = campaign.state.history[1].measures
    assert measures["accuracy"] == 0.6
    assert measures["accepted"] == 36
    assert (measures["first_loss"], measures["last_loss"]) == (1.0, 0.2)
