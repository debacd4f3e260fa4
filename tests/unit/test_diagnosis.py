"""Each cause is found from numbers like those of a run that had it, and asks for one bounded
change."""

from __future__ import annotations

import random
from typing import Any

from components.contracts.recipe import LoraStructure
from components.contracts.state import base_plan
from components.decide.gate import Comparison
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.plan import next_plan
from components.decide.reflection.training_causes import still_falling
from tests.unit.crafted import PLAN, recipe_of
from tests.unit.diagnosing import HOT, SOUND_MEASURES, names, the
from tests.unit.reflections import (
    ADAPTED,
    LORA,
    NO_SAMPLES,
    SELECT,
    SETTLED,
    SUPERVISED,
    TRAIN,
    evidence,
    scored,
)


def test_a_sound_round_has_no_cause() -> None:
    assert names() == []
    assert names(verdict="promoted") == []
    assert names(verdict="promoted", round=0, plan=SUPERVISED, select=NO_SAMPLES) == []


def test_rising_dev_loss_is_overfitting() -> None:
    train = {**TRAIN, "best_step": 150, "final_dev_loss": 0.36}
    found = the("overfitting", train=train)
    assert found.change == "weight_decay_up"
    assert "0.3000 (step 150) to 0.3600" in found.evidence


def test_with_an_augmentation_overfitting_asks_for_more_of_it_up_to_its_bound() -> None:
    train = {**TRAIN, "best_step": 150, "final_dev_loss": 0.36}
    off = recipe_of(train={"rounds": {"augmentation": {}}})
    found = the("overfitting", train=train, recipe=off)
    assert (found.change, found.otherwise) == ("word_dropout_up", "weight_decay_up")
    assert (found.measure, found.direction) == ("dev_rise", "down")
    full = recipe_of(train={"rounds": {"augmentation": {"word_dropout": 0.3}}})
    assert the("overfitting", train=train, recipe=full).change == "weight_decay_up"


def test_a_training_loss_that_noise_keeps_up_is_no_sign_of_wrong_labels() -> None:
    high = {"last_loss": 1.5, "above_dev": 0.8, "loss_fall": 0.3}
    train = {**TRAIN, "final_loss": 1.5}
    assert "label_noise" in names(measures=high, train=train)
    noisy = recipe_of(train={"rounds": {"augmentation": {"word_dropout": 0.3}}})
    assert "label_noise" not in names(measures=high, train=train, recipe=noisy)


def test_an_early_stop_well_before_the_end_is_overfitting_too() -> None:
    train = {
        **TRAIN,
        "best_step": 50,
        "steps": 90,
        "stopped_early": True,
        "final_dev_loss": 0.313,
    }
    found = the("overfitting", train=train)
    assert found.change == "steps_down"
    assert "stopped at step 90 of 200" in found.evidence


def test_a_doubled_loss_of_a_solved_task_is_not_overfitting() -> None:
    train = {
        **TRAIN,
        "best_dev_loss": 0.0004,
        "final_dev_loss": 0.0011,
        "final_loss": 0.0005,
    }
    assert names(train=train) == []


def test_a_run_without_dev_rows_is_diagnosed_by_the_rest() -> None:
    assert names(train={**TRAIN, "best_dev_loss": None, "final_dev_loss": None}) == []


def test_a_loss_still_falling_at_the_end_is_underfitting() -> None:
    found = the("underfitting", losses=[2.0 - 0.008 * step for step in range(200)])
    assert found.change == "steps_up"
    assert "still falling when the 200 steps ended" in found.evidence


def test_a_training_that_has_learned_its_rows_is_not_underfitting() -> None:
    """The loss halves in the last fifth, and every token has a probability of 98.7 % already."""
    losses = [0.5 * 0.98**step for step in range(200)]
    learned = {
        **TRAIN,
        "final_loss": 0.0056,
        "best_dev_loss": 0.02,
        "final_dev_loss": 0.02,
    }
    assert names(losses=losses, train=learned) == []
    assert names(losses=losses, train=learned, plan=ADAPTED) == []
    assert names(losses=[10 * loss for loss in losses]) == ["underfitting"]


def test_a_round_is_not_told_that_it_trained_too_much_and_too_little() -> None:
    losses = [2.0 - 0.008 * step for step in range(200)]
    train = {**TRAIN, "best_step": 150, "final_dev_loss": 0.4}
    assert names(losses=losses, train=train) == ["overfitting"]
    assert names(losses=losses, train=train, plan=ADAPTED) == ["overfitting"]


OPPOSITES = [
    {"overfitting", "underfitting"},
    {"overfitting", "too_little_capacity"},
    {"learning_rate_too_high", "learning_rate_too_low"},
    {"low_diversity", "temperature_too_high"},
    {"verifier_false_negatives", "verifier_too_lenient"},
    {"truncation", "stop_token_wrong"},
]


def test_no_round_has_two_causes_that_contradict_each_other() -> None:
    """Rounds with any numbers, most of them odd."""
    seen: set[str] = set()
    for seed in range(3000):
        dice = random.Random(seed)
        scale = dice.choice([0.003, 0.1, 0.5, 2.0])
        dev_loss = scale * dice.random()
        train = {
            "best_step": dice.randint(1, 200),
            "first_loss": scale * (1 + dice.random()),
            "final_loss": scale * dice.random() * 1.5,
            "best_dev_loss": dev_loss,
            "final_dev_loss": dev_loss * dice.choice([1.0, 1.1, 1.4]),
            "stopped_early": dice.random() < 0.2,
        }
        slope = dice.choice([0.0, 0.002, 0.004])
        numbers = {
            name: value * dice.choice([-0.5, 0.1, 0.5, 1.0, 4.0])
            for name, value in SOUND_MEASURES.items()
        }
        numbers["verifier_z"] = dice.choice([-15.0, 15.0])
        numbers["runs_on"] = numbers["cut_short"] = dice.random() / 2
        found = names(
            train={**TRAIN, **train},
            losses=[scale * (1 - slope * step) for step in range(200)],
            measures=numbers,
            select={**SELECT, "distinct_share": 0.25 + dice.random() / 4},
            plan=dice.choice([PLAN, ADAPTED, HOT]),
        )
        assert not [pair for pair in OPPOSITES if pair <= set(found)], seed
        seen.update(found)
    assert set().union(*OPPOSITES) <= seen


def test_a_loss_that_hardly_moved_asks_for_a_higher_learning_rate() -> None:
    train = {**TRAIN, "first_loss": 2.31, "final_loss": 2.25}
    assert (
        the("underfitting", train=train, losses=[2.3] * 200).change
        == "learning_rate_up"
    )


def test_a_promoted_candidate_is_not_called_underfitted() -> None:
    assert (
        names(verdict="promoted", losses=[2.0 - 0.008 * step for step in range(200)])
        == []
    )
    assert (
        names(
            verdict="promoted",
            losses=[2.0 - 0.008 * step for step in range(200)],
            plan=ADAPTED,
        )
        == []
    )


HIGH: dict[str, Any] = {
    "final_loss": 1.42,
    "best_dev_loss": 1.45,
    "final_dev_loss": 1.45,
}


def test_adapters_that_cannot_take_in_their_rows_ask_for_a_larger_structure() -> None:
    found = the(
        "too_little_capacity", train={**TRAIN, "first_loss": 2.3, **HIGH}, plan=ADAPTED
    )
    assert found.change == "structure_up"
    assert (
        "with rank 4 beside the frozen base the training loss had flattened at 1.4200, dev loss"
        in found.evidence
    )
    stuck = {**TRAIN, "first_loss": 1.5, **HIGH}
    assert names(train=stuck, losses=[1.45] * 200, plan=ADAPTED) == [
        "too_little_capacity",
        "underfitting",
    ]


def test_a_loss_that_still_falls_asks_for_more_steps_before_a_larger_structure() -> (
    None
):
    falling = [2.0 - 0.008 * step for step in range(200)]
    assert names(losses=falling, plan=ADAPTED) == [
        "underfitting",
        "too_little_capacity",
    ]
    plan, _ = next_plan(
        LORA, ADAPTED, diagnose(evidence(losses=falling, plan=ADAPTED)), None, ADAPTED
    )
    assert (plan.steps, plan.lora) == (300, LoraStructure(rank=8))


def test_a_high_loss_is_no_lack_of_capacity_where_nothing_is_frozen_or_rows_are_memorised() -> (
    None
):
    assert names(train={**TRAIN, "first_loss": 2.3, **HIGH}) == []
    memorised = {
        **TRAIN,
        "first_loss": 2.3,
        **HIGH,
        "best_dev_loss": 1.9,
        "final_dev_loss": 1.9,
    }
    assert names(train=memorised, plan=ADAPTED) == []
    assert (
        names(
            train={**TRAIN, "first_loss": 2.3, **HIGH, "stopped_early": True},
            plan=ADAPTED,
        )
        == []
    )
    assert names(plan=ADAPTED) == []


LAYERED = recipe_of(train={"layers": {"trained": 1, "max_extra": 2, "max_trained": 2}})
ONE_LAYER = base_plan(LAYERED)
FLAT: dict[str, Any] = {**TRAIN, "first_loss": 2.3, **HIGH}


def test_few_trained_layers_ask_for_more_of_them_and_then_for_a_new_one() -> None:
    round_with: dict[str, Any] = {"train": FLAT, "recipe": LAYERED}
    found = the("too_little_capacity", plan=ONE_LAYER, **round_with)
    assert found.change == "trained_layers_up"
    assert (
        "with layers 0, last 1 trained the training loss had flattened"
        in found.evidence
    )
    assert (found.measure, found.direction) == ("dev_loss", "down")
    plan = ONE_LAYER
    seen = []
    for _ in range(4):
        plan, _ = next_plan(
            LAYERED, plan, diagnose(evidence(plan=plan, **round_with)), None, plan
        )
        seen.append(str(plan.layers))
    assert seen == [
        "0, last 2 trained",
        "+1, last 2 trained",
        "+2, last 2 trained",
        "+2, last 2 trained",
    ]


def test_a_model_that_is_trained_whole_lacks_capacity_only_where_layers_may_be_inserted() -> (
    None
):
    for layers, is_reported in (
        ({}, False),
        ({"max_extra": 1}, True),
        ({"extra": 1}, False),
    ):
        recipe = recipe_of(train={"layers": layers})
        found = names(train=FLAT, recipe=recipe, plan=base_plan(recipe))
        assert found == (["too_little_capacity"] if is_reported else []), layers


def test_overfitting_makes_what_is_trained_smaller_once_nothing_else_helps() -> None:
    train = {**TRAIN, "best_step": 150, "final_dev_loss": 0.36}
    refuted = frozenset({"weight_decay_up", "steps_down", "dropout_up"})
    adapted, _ = next_plan(
        LORA,
        ADAPTED,
        diagnose(evidence(train=train, plan=ADAPTED)),
        None,
        ADAPTED,
        refuted,
    )
    assert str(adapted.lora) == "rank 2"
    recipe = recipe_of(train={"layers": {"extra": 1, "trained": 4}})
    plan = base_plan(recipe)
    seen = []
    for more in ("", "trained_layers_down", "layers_down"):
        refuted |= {more}
        found = diagnose(evidence(train=train, plan=plan, recipe=recipe))
        following, causes = next_plan(recipe, plan, found, None, plan, refuted)
        seen.append((causes[0].change, causes[0].measure, causes[0].direction))
        assert following != plan
    assert seen == [
        ("layers +1, last 4 trained → +1, last 2 trained", "dev_rise", "down"),
        ("layers +1, last 4 trained → 0, last 4 trained", "dev_rise", "down"),
        ("early_stopping_patience as in the recipe → 2", "dev_rise", "down"),
    ]


def test_a_training_that_stopped_at_a_level_dev_loss_while_it_learned_gets_more_patience() -> (
    None
):
    falling = [2.0 - 0.008 * step for step in range(150)]
    stopped = {**TRAIN, "stopped_early": True, "steps": 150, "best_step": 130}
    found = the("stopped_too_soon", train=stopped, losses=falling)
    assert (found.change, found.measure, found.direction) == (
        "patience_up",
        "dev_loss",
        "down",
    )
    assert "at step 150 of 200, while training loss was still falling" in found.evidence
    assert names(train=stopped) == []
    assert names(train=stopped, losses=falling, verdict="promoted") == []
    assert names(train={**stopped, "stopped_early": False}, losses=falling) == [
        "underfitting"
    ]
    assert names(train={**stopped, "final_dev_loss": 0.36}, losses=falling) == [
        "overfitting"
    ]
    without = {"best_dev_loss": None, "final_dev_loss": None}
    assert names(train={**stopped, **without}, losses=falling) == []


def test_a_champion_that_learns_a_little_more_is_not_stuck() -> None:
    assert (
        names(
            train={**TRAIN, "first_loss": 0.011, "final_loss": 0.010},
            losses=[0.01] * 200,
        )
        == []
    )


def test_few_accepted_samples_ask_for_more_of_them() -> None:
    select = {
        **SELECT,
        "accepted": 90,
        "prompts_accepted": 80,
        "dropped": {"duplicate": 10, "verifier": 3900},
    }
    found = the("too_few_accepted", select=select)
    assert found.change == "samples_up"
    assert (
        "90 of 4000 samples accepted (0.025 passed the quality filters"
        in found.evidence
    )
    assert "verifier 3900" in found.evidence
    assert (
        the(
            "too_few_accepted",
            select=select,
            plan=PLAN.model_copy(update={"temperature": 0.0}),
        ).change
        is None
    )


def test_right_answers_that_repeat_each_other_are_not_too_few() -> None:
    # 16 samples per prompt, all right and the same: one in 16 is accepted, and that is all there
    # is.
    select = {
        **SELECT,
        "generated": 16000,
        "accepted": 1000,
        "dropped": {"duplicate": 15000},
        "prompts_accepted": 1000,
        "distinct_share": 1 / 16,
    }
    assert (
        names(select=select, plan=PLAN.model_copy(update={"samples_per_prompt": 16}))
        == []
    )


def test_answers_left_out_because_they_are_solved_or_enough_are_not_too_few() -> None:
    dropped = {"choice": 200, "solved": 3200, "verifier": 300}
    select = {**SELECT, "accepted": 300, "dropped": dropped, "prompts_accepted": 120}
    assert names(select=select) == []
    assert names(select={**select, "distinct_share": 0.26}) == []
    assert names(
        select={**select, "distinct_share": 0.26, "dropped": {"verifier": 3700}}
    ) == [
        "low_diversity",
        "too_few_accepted",
    ]


def test_samples_that_all_say_the_same_ask_for_a_higher_temperature() -> None:
    found = the("low_diversity", select={**SELECT, "distinct_share": 0.28})
    assert found.change == "temperature_up"
    assert (
        "0.280 of them distinct (0.250 is the least), and 300 of 1000 prompts"
        in found.evidence
    )


def test_several_greedy_samples_are_no_diversity_at_all() -> None:
    greedy = PLAN.model_copy(update={"temperature": 0.0})
    assert (
        the(
            "low_diversity", select={**SELECT, "distinct_share": 0.25}, plan=greedy
        ).priority
        == 0.9
    )
    once = {**SELECT, "distinct_share": 1.0}
    assert (
        names(select=once, plan=greedy.model_copy(update={"samples_per_prompt": 1}))
        == []
    )


def test_skipped_steps_or_wild_losses_are_optimizer_trouble() -> None:
    assert (
        the("optimizer_trouble", train={**TRAIN, "skipped_steps": 3}).change
        == "learning_rate_down"
    )
    assert (
        "0 steps skipped and 1 losses not finite"
        in the("optimizer_trouble", losses=[*SETTLED, None]).evidence
    )
    assert names(train={**TRAIN, "skipped_steps": 3}, verdict="promoted") == [
        "optimizer_trouble"
    ]


def test_answers_that_never_end_are_truncation() -> None:
    assert the("truncation", finished_share=0.7).change == "temperature_down"
    at_first = the(
        "truncation",
        finished_share=0.7,
        round=0,
        verdict="promoted",
        plan=SUPERVISED,
        select=NO_SAMPLES,
        comparison=None,
    )
    assert at_first.change is None
    assert at_first.predicted is not None
    assert "raise generate.max_new_tokens" in at_first.predicted


def test_a_significantly_worse_candidate_has_forgotten() -> None:
    some = Comparison(pairs=500, wins=10, losses=35, p_value=1.0, level=0.0125)
    many = Comparison(pairs=500, wins=10, losses=90, p_value=1.0, level=0.0125)
    assert the("forgetting", comparison=some).change == "labelled_share_up"
    assert the("forgetting", comparison=many).change == "learning_rate_down"


def test_a_ladder_whose_base_is_not_solved_says_so() -> None:
    scores = scored({"": (50, 100), "length=8": (31, 50), "length=9": (2, 50)})
    first: dict[str, Any] = {
        "recipe": recipe_of(ladder=True),
        "round": 0,
        "verdict": "promoted",
        "plan": SUPERVISED,
        "select": NO_SAMPLES,
    }
    found = the("base_not_mastered", **first, comparison=None, candidate=scores)
    assert found.change == "steps_up"
    assert (
        "(length=8) are at 0.6200, mastery is 0.90: the base is not solved"
        in found.evidence
    )
    assert (
        names(**first, comparison=None, candidate=scored({"length=8": (50, 50)})) == []
    )


def test_the_trend_ignores_noise_and_short_logs() -> None:
    draw = random.Random(0)
    assert still_falling([1.0 + draw.uniform(-0.2, 0.2) for _ in range(200)]) is None
    assert still_falling([3.0, 2.0, 1.0]) is None
