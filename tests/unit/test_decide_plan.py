"""Whole rounds through decide: the plan of the next round, its ladder, causes and changes."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from components.contracts.state import base_plan
from components.runtime.context import Context
from tests.unit.crafted import PLAN, recipe_of
from tests.unit.decisions import Campaign, lengths, simple, told


def test_the_ladder_is_climbed_by_promoted_mastery_alone(context: Context) -> None:
    recipe = recipe_of(
        ladder=True,
        decide={
            "goal": {"threshold": 0.9, "slice": "length=12"},
            "patience": 9,
            "max_rounds": 5,
        },
    )
    campaign = Campaign(context, recipe, PLAN.model_copy(update={"level": 8}))
    campaign.round(lengths(98, 70, 30, 5, 0))
    assert campaign.state.plan.level == 9
    assert campaign.state.history[0].level == 8
    campaign.round(
        lengths(98, 85, 40, 10, 0)
    )  # promoted, length 9 not mastered yet (0.9 asked for)
    assert (campaign.state.champion_round, campaign.state.plan.level) == (1, 9)
    campaign.round(
        lengths(60, 95, 40, 10, 0)
    )  # masters length 9 but is worse: rejected, so it does not count
    assert (campaign.state.champion_round, campaign.state.plan.level) == (1, 9)
    campaign.round(lengths(98, 96, 99, 20, 1))  # masters 9 and 10: one rung at a time
    assert (campaign.state.champion_round, campaign.state.plan.level) == (3, 10)
    assert campaign.state.history[3].level == 9


@pytest.mark.parametrize(
    "validation",
    [
        ((40, 0, 0, 0, 0), (41, 1, 0, 0, 0), (10, 0, 0, 0, 0)),
        ((98, 98, 98, 50, 0), (0, 0, 0, 0, 0), (98, 98, 98, 51, 0)),
    ],
)
def test_validation_decides_promotions_and_steers_nothing(
    context: Context, validation: Sequence[tuple[int, ...]]
) -> None:
    recipe = recipe_of(
        ladder=True,
        decide={
            "goal": {"threshold": 0.99, "slice": "length=12"},
            "patience": 9,
            "max_rounds": 5,
        },
    )
    campaign = Campaign(context, recipe, PLAN.model_copy(update={"level": 8}))
    dev = ((95, 95, 20, 0, 0), (60, 95, 0, 0, 0), (30, 60, 0, 0, 0))
    verdicts = []
    for decides, steers in zip(validation, dev, strict=True):
        cut_off = [
            row.model_copy(update={"finished": decides < steers})
            for row in lengths(*decides)
        ]
        receipt = campaign.round([*cut_off, *lengths(*steers, split="dev")])
        verdicts.append(told(receipt).verdict)
    # Whatever validation says, as long as the verdicts are the same.
    assert verdicts == ["promoted", "rejected", "rejected"]
    assert [record.dev_score for record in campaign.state.history] == [0.42, 0.31, 0.18]
    assert campaign.state.history[0].causes == ()
    causes = [
        [cause.name for cause in record.causes] for record in campaign.state.history
    ]
    assert causes == [[], ["forgetting"], ["change_taken_back", "forgetting"]]
    forgotten = campaign.state.history[1].causes[0]
    assert forgotten.evidence.startswith("55 of 500 prompts lost, 0 won")
    plan = campaign.state.plan
    # The champion has mastered lengths 8 and 9 by its dev prompts.
    assert (plan.level, plan.learning_rate, plan.labelled_share) == (10, 0.001, 0.6)


def test_without_dev_prompts_nothing_is_read_in_their_place(context: Context) -> None:
    recipe = recipe_of(
        ladder=True, decide={"goal": {"threshold": 0.99, "slice": "length=12"}}
    )
    campaign = Campaign(context, recipe, PLAN.model_copy(update={"level": 9}))
    campaign.round(lengths(98, 98, 40, 10, 0), dev=False)
    receipt = campaign.round(lengths(10, 10, 0, 0, 0), dev=False)
    assert told(receipt).verdict == "rejected"
    assert campaign.state.history[0].dev_score is None
    assert campaign.state.plan.level == 9
    for record in campaign.state.history:
        assert record.causes == ()
        assert "accuracy" not in record.measures


def test_a_base_that_is_not_solved_is_told_and_trained_longer(context: Context) -> None:
    recipe = recipe_of(
        ladder=True, decide={"goal": {"threshold": 0.9, "slice": "length=12"}}
    )
    campaign = Campaign(context, recipe, PLAN.model_copy(update={"level": 8}))
    campaign.round(lengths(60, 10, 0, 0, 0))
    causes = {cause.name: cause for cause in campaign.state.history[0].causes}
    assert causes["base_not_mastered"].change == "steps 200 → 300"
    assert campaign.state.plan.steps == 300
    assert campaign.state.plan.level == 9
    assert "the base is not solved" in campaign.card


def test_a_cause_changes_the_plan_of_the_next_round_and_a_bad_change_is_taken_back(
    context: Context,
) -> None:
    campaign = Campaign(
        context, recipe_of(decide={"goal": {"threshold": 0.99}, "patience": 9})
    )
    campaign.round(simple(40))
    campaign.round(simple(41), train={"skipped_steps": 2})
    record = campaign.state.history[1]
    assert record.plan.learning_rate == 1e-3
    assert [cause.change for cause in record.causes] == ["learning_rate 0.001 → 0.0005"]
    assert campaign.state.plan.learning_rate == 5e-4
    campaign.round(simple(30))
    assert campaign.state.history[2].causes[0].name == "change_taken_back"
    assert campaign.state.history[2].plan.learning_rate == 5e-4
    assert campaign.state.plan.learning_rate == 1e-3


def test_adapters_that_learn_too_little_are_larger_in_the_next_round_and_the_card_says_so(
    context: Context,
) -> None:
    lora = {"rank": 8, "targets": ["q_proj"], "max_rank": 16}
    recipe = recipe_of(
        train={"lora": lora}, decide={"goal": {"threshold": 0.99}, "patience": 9}
    )
    campaign = Campaign(
        context, recipe, PLAN.model_copy(update={"lora": base_plan(recipe).lora})
    )
    flat = {
        "first_loss": 2.3,
        "final_loss": 1.4,
        "best_dev_loss": 1.4,
        "final_dev_loss": 1.4,
    }
    campaign.round(simple(40))
    assert "| lora | rank 8 | rank 8 |" in campaign.card
    campaign.round(simple(41), train=flat)
    cause = campaign.state.history[1].causes[0]
    assert (cause.name, cause.change) == (
        "too_little_capacity",
        "lora rank 8 → rank 16",
    )
    assert "| lora | rank 8 | **rank 16** |" in campaign.card
    campaign.round(
        simple(42), train={**flat, "best_dev_loss": 1.3, "final_dev_loss": 1.35}
    )
    assert str(campaign.state.plan.lora) == "rank 16, unfrozen layers 1"
    assert campaign.state.plan.lora is not None
    assert campaign.state.plan.lora.targets == ("q_proj",)


@pytest.mark.parametrize("falls", [True, False])
def test_an_inserted_layer_is_confirmed_by_the_dev_loss_or_taken_back(
    context: Context, falls: bool
) -> None:
    layers = {"max_extra": 2}
    recipe = recipe_of(
        train={"layers": layers}, decide={"goal": {"threshold": 0.99}, "patience": 9}
    )
    campaign = Campaign(
        context, recipe, PLAN.model_copy(update={"layers": base_plan(recipe).layers})
    )
    flat = {
        "first_loss": 2.3,
        "final_loss": 1.4,
        "best_dev_loss": 1.4,
        "final_dev_loss": 1.4,
    }
    campaign.round(simple(40))
    campaign.round(simple(40), train=flat)
    cause = campaign.state.history[1].causes[0]
    assert (cause.name, cause.change) == (
        "too_little_capacity",
        "layers 0, all trained → +1, all trained",
    )
    assert "| layers | 0, all trained | **+1, all trained** |" in campaign.card
    dev_loss = 1.2 if falls else 1.4
    learned = {
        **flat,
        "final_loss": 0.2,
        "best_dev_loss": dev_loss,
        "final_dev_loss": dev_loss,
    }
    campaign.round(simple(40), train=learned)
    review = campaign.state.history[2].causes[0]
    if falls:
        assert review.name == "change_confirmed"
        assert str(campaign.state.plan.layers) == "+1, all trained"
    else:
        assert (review.name, review.change) == (
            "change_taken_back",
            "layers +1, all trained → 0, all trained",
        )
        assert str(campaign.state.plan.layers) == "0, all trained"
        # What was refuted is not tried again.
        campaign.round(simple(40), train=flat)
        assert str(campaign.state.plan.layers) == "0, all trained"


def test_the_first_stages_settings_are_no_change_to_take_back(context: Context) -> None:
    campaign = Campaign(context, recipe_of(), PLAN.model_copy(update={"steps": 500}))
    campaign.round(simple(40))
    campaign.round(simple(39))
    assert campaign.state.history[1].causes == ()
    assert campaign.state.plan.steps == 200


def test_nothing_but_the_level_changes_after_a_sound_promotion(
    campaign: Campaign,
) -> None:
    campaign.round(simple(40))
    before = campaign.state.plan
    campaign.round(simple(60))
    assert campaign.state.history[1].causes == ()
    assert campaign.state.plan == before
    assert "Nothing stands out." in campaign.card
