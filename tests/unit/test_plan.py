"""How causes change the plan of the next round, and when a change is confirmed or taken back."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import Augmentation, LoraStructure, Recipe
from components.contracts.state import Cause, Plan, RoundRecord, base_plan, with_plan
from components.contracts.summaries.evaluate import Estimate
from components.decide.reflection.changes import Change, changed_setting
from components.decide.reflection.plan import (
    MAX_CHANGES,
    Finding,
    next_level,
    next_plan,
    refuted_changes,
    review,
)
from components.measures import Scores, measure_of
from tests.unit.crafted import PLAN, recipe_of
from tests.unit.reflections import ADAPTED, LORA, scored


def dev(value: float, low: float = 0.0, high: float = 1.0) -> Scores:
    """An accuracy on all dev prompts, with its interval."""
    estimate = Estimate(value=value, low=low, high=high, n=100)
    return Scores(measure_of("accuracy"), {"": estimate})


def change(
    name: str, plan: Plan = PLAN, recipe: Recipe | None = None
) -> tuple[str, Any]:
    return changed_setting(plan, recipe or recipe_of(), name)  # type: ignore[arg-type]


def test_changes_are_bounded_by_the_recipe() -> None:
    recipe = recipe_of(
        train={
            "rounds": {
                "steps": 200,
                "learning_rate": 1e-3,
                "augmentation": {"max_word_dropout": 0.25},
            }
        },
        generate={"temperature": 0.7},
    )
    ends = {
        "learning_rate_down": ("learning_rate", 1e-4),
        "learning_rate_up": ("learning_rate", 4e-3),
        "steps_up": ("steps", 800),
        "steps_down": ("steps", 50),
        "temperature_up": ("temperature", 1.5),
        "temperature_down": ("temperature", 0.1),
        "weight_decay_up": ("weight_decay", 0.16),
        "labelled_share_up": ("labelled_share", 0.9),
        "samples_up": ("samples_per_prompt", 64),
        "labelled_share_down": ("labelled_share", 0.25),
        "vote_share_up": ("min_vote_share", 0.9),
        "answer_tokens_up": ("max_new_tokens", 256),
        "noise_up": ("neftune_alpha", 10.0),
        "dropout_up": ("dropout", 0.5),
        "kl_beta_up": ("kl_beta", 0.1),
        "batch_size_up": ("batch_size", 128),
        "patience_up": ("early_stopping_patience", 20),
        "patience_down": ("early_stopping_patience", 1),
        "word_dropout_up": ("word_dropout", 0.25),
    }
    for name, (setting, end) in ends.items():
        plan = base_plan(recipe)
        for _ in range(12):
            changed, value = change(name, plan, recipe)
            assert changed == setting
            plan = plan.model_copy(update={setting: value})
        assert getattr(plan, setting) == pytest.approx(end), name


def test_greedy_on_purpose_stays_greedy_unless_diversity_is_missing() -> None:
    recipe, greedy = (
        recipe_of(generate={"temperature": 0.0}),
        PLAN.model_copy(update={"temperature": 0.0}),
    )
    assert change("temperature_down", greedy, recipe) == ("temperature", 0.0)
    assert change("temperature_up", greedy, recipe) == ("temperature", 0.2)


def test_a_value_the_recipe_sets_beyond_the_bounds_is_left_alone() -> None:
    recipe = recipe_of(
        generate={"temperature": 2.0, "samples_per_prompt": 100},
        select={"labelled_share": 0.95},
    )
    plan = base_plan(recipe)
    assert change("temperature_up", plan, recipe) == ("temperature", 2.0)
    assert change("samples_up", plan, recipe) == ("samples_per_prompt", 100)
    assert change("labelled_share_up", plan, recipe) == ("labelled_share", 0.95)


def test_a_natural_union_has_no_share_that_could_change() -> None:
    recipe = recipe_of(select={"union": True})
    plan = base_plan(recipe)
    assert change("labelled_share_up", plan, recipe) == (
        "labelled_share",
        plan.labelled_share,
    )
    assert change("labelled_share_down", plan, recipe) == (
        "labelled_share",
        plan.labelled_share,
    )


def test_a_structure_doubles_its_rank_then_the_layers_trained_in_full_then_stops() -> (
    None
):
    plan, seen = ADAPTED, []
    for _ in range(6):
        lacking = [Finding("too_little_capacity", "seen", 0.7, "structure_up", None)]
        following, causes = next_plan(LORA, plan, lacking, None, plan)
        change = f"lora {plan.lora} → {following.lora}" if following != plan else None
        assert [cause.change for cause in causes] == [change]
        plan = following
        seen.append(str(plan.lora))
    assert seen == [
        "rank 8",
        "rank 12",
        "rank 12, unfrozen layers 1",
        "rank 12, unfrozen layers 2",
        "rank 12, unfrozen layers 3",
        "rank 12, unfrozen layers 3",
    ]
    assert plan.model_copy(update={"lora": ADAPTED.lora}) == ADAPTED


def test_word_dropout_is_raised_where_the_recipe_has_an_augmentation_and_nowhere_else() -> (
    None
):
    overfitted = [
        Finding(
            "overfitting", "seen", 0.8, "word_dropout_up", "", otherwise="steps_down"
        )
    ]
    plain = recipe_of()
    plan, _ = next_plan(plain, base_plan(plain), overfitted, None, base_plan(plain))
    assert (plan.word_dropout, plan.steps) == (
        None,
        round(0.67 * base_plan(plain).steps),
    )
    noisy = recipe_of(
        train={"rounds": {"augmentation": {"word_dropout": 0.05, "case_noise": 0.1}}}
    )
    plan, causes = next_plan(
        noisy, base_plan(noisy), overfitted, None, base_plan(noisy)
    )
    assert causes[0].change == "word_dropout as in the recipe → 0.15"
    assert plan.steps == base_plan(noisy).steps
    rounds = with_plan(
        noisy, plan.model_copy(update={"neftune_alpha": 5.0})
    ).train.rounds
    assert rounds.augmentation == Augmentation(word_dropout=0.15, case_noise=0.1)
    assert (
        with_plan(
            noisy, plan.model_copy(update={"neftune_alpha": 5.0})
        ).train.neftune_alpha
        == 5
    )
    # Taken back, it is what it was, and is not tried again.
    found = review(record(0.6), base_plan(noisy), plan, "rejected", dev(0.55), {})
    assert found is not None
    refuted = frozenset({"word_dropout_up"})
    after, causes = next_plan(noisy, plan, overfitted, found, base_plan(noisy), refuted)
    assert after.word_dropout is None
    assert [cause.change_name for cause in causes] == [None, "steps_down"]


def test_without_adapters_there_is_no_structure_to_grow() -> None:
    lacking = [Finding("too_little_capacity", "seen", 0.7, "structure_up", "")]
    assert next_plan(recipe_of(), PLAN, lacking, None, PLAN)[0] == PLAN


def test_growth_that_did_harm_is_taken_back() -> None:
    grown = ADAPTED.model_copy(update={"lora": LoraStructure(rank=8)})
    found = review(record(0.6), ADAPTED, grown, "rejected", dev(0.55), {})
    assert found is not None
    plan, causes = next_plan(
        LORA, grown, [Finding("x", "y", 0.9, "structure_up", "")], found, ADAPTED
    )
    assert plan == ADAPTED
    assert [cause.change for cause in causes] == ["lora rank 8 → rank 4", None]


def names_in(union: Any) -> list[str]:
    """The names of literals, and of unions of them."""
    return [
        name
        for one in get_args(union)
        for name in ([one] if isinstance(one, str) else names_in(one))
    ]


CHANGES = [*names_in(Change), None]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.floats(0, 1)), max_size=8))
def test_at_most_two_settings_change_a_round_and_only_for_causes_of_a_high_priority(
    asked: list[tuple[Any, float]],
) -> None:
    findings = [
        Finding(f"cause{n}", "seen", sure, what, "")
        for n, (what, sure) in enumerate(asked)
    ]
    plan, causes = next_plan(LORA, ADAPTED, findings, None, ADAPTED)
    changed = [
        name
        for name in Plan.model_fields
        if getattr(plan, name) != getattr(ADAPTED, name)
    ]
    assert len(changed) <= MAX_CHANGES
    assert sum(bool(cause.change) for cause in causes) == len(changed)
    assert all(cause.priority >= 0.5 for cause in causes if cause.change)
    assert len(causes) == len(findings)


def test_a_change_is_written_as_a_person_would() -> None:
    _, causes = next_plan(
        recipe_of(), PLAN, [Finding("x", "y", 0.9, "temperature_up", "")], None, PLAN
    )
    assert causes[0].change == "temperature 0.7 → 0.9"


def record(overall: float, *causes: Cause) -> RoundRecord:
    return RoundRecord(
        round=1,
        verdict="rejected",
        why="",
        plan=PLAN,
        score=overall,
        interval=(0, 1),
        overall=overall,
        test_score=overall,
        dev_score=overall,
        causes=causes,
    )


def test_a_change_that_made_it_worse_is_taken_back_once() -> None:
    current = PLAN.model_copy(update={"learning_rate": 2e-3})
    found = review(record(0.6), PLAN, current, "rejected", dev(0.55), {})
    assert found is not None
    higher = Finding("underfitting", "seen", 0.7, "learning_rate_up", "")
    plan, causes = next_plan(recipe_of(), current, [higher], found, PLAN)
    assert plan == PLAN
    assert causes[0].change == "learning_rate 0.002 → 0.001"
    assert "went from 0.6000 to 0.5500" in causes[0].evidence
    assert causes[1].change is None  # the same setting is not changed again at once
    assert (
        review(record(0.6, causes[0]), current, PLAN, "rejected", dev(0.55), {}) is None
    )


def test_a_change_stays_if_the_candidate_was_better_or_promoted_or_nothing_changed() -> (
    None
):
    current = PLAN.model_copy(update={"steps": 300})
    assert review(record(0.6), PLAN, current, "rejected", dev(0.6), {}) is None
    assert review(record(0.6), PLAN, current, "promoted", dev(0.5), {}) is None
    assert review(record(0.6), PLAN, PLAN, "rejected", dev(0.5), {}) is None
    assert review(None, PLAN, current, "rejected", dev(0.5), {}) is None


def told(
    measures: dict[str, float], *causes: Cause, overall: float = 0.6
) -> RoundRecord:
    return record(overall, *causes).model_copy(update={"measures": measures})


FEWER = PLAN.model_copy(update={"steps": 300})
PREDICTS = Cause(
    name="underfitting",
    evidence="",
    priority=0.7,
    change="steps 200 → 300",
    predicted="",
    change_name="steps_up",
    measure="last_loss",
    direction="down",
)


def test_a_prediction_that_comes_true_is_confirmed_and_the_change_stays() -> None:
    found = review(
        told({"last_loss": 0.8}, PREDICTS),
        PLAN,
        FEWER,
        "rejected",
        dev(0.59, 0.5, 0.7),
        {"last_loss": 0.5},
    )
    assert found is not None
    assert found.name == "change_confirmed"
    assert "last_loss went from 0.8 to 0.5, as predicted" in found.evidence
    plan, causes = next_plan(recipe_of(), FEWER, [], found, PLAN)
    assert plan == FEWER
    assert [(cause.name, cause.change) for cause in causes] == [
        ("change_confirmed", None)
    ]


def test_a_prediction_that_fails_takes_the_change_back_even_if_accuracy_did_not_fall() -> (
    None
):
    found = review(
        told({"last_loss": 0.8}, PREDICTS),
        PLAN,
        FEWER,
        "rejected",
        dev(0.61, 0.5, 0.7),
        {"last_loss": 0.79},
    )
    assert found is not None
    assert found.name == "change_taken_back"
    assert next_plan(recipe_of(), FEWER, [], found, PLAN)[0] == PLAN
    assert (
        review(
            told({"last_loss": 0.8}, PREDICTS),
            PLAN,
            FEWER,
            "promoted",
            dev(0.7),
            {"last_loss": 0.79},
        )
        is None
    )


def test_a_clear_fall_of_accuracy_takes_a_change_back_whatever_it_moved() -> None:
    found = review(
        told({"last_loss": 0.8}, PREDICTS),
        PLAN,
        FEWER,
        "rejected",
        dev(0.4, 0.35, 0.45),
        {"last_loss": 0.5},
    )
    assert found is not None
    assert found.name == "change_taken_back"


def test_what_was_taken_back_is_not_tried_again_but_its_alternative_is() -> None:
    back = Cause(
        name="change_taken_back", evidence="", priority=0.9, change="steps 300 → 200"
    )
    refuted = refuted_changes([told({}, PREDICTS), told({}, back)])
    assert refuted == {"steps_up"}
    again = Finding(
        "underfitting", "seen", 0.7, "steps_up", "", otherwise="learning_rate_up"
    )
    plan, causes = next_plan(recipe_of(), PLAN, [again], None, PLAN, refuted)
    assert (plan.steps, plan.learning_rate) == (PLAN.steps, 2 * PLAN.learning_rate)
    assert causes[0].change_name == "learning_rate_up"
    assert refuted_changes([told({}, PREDICTS), told({})]) == frozenset()


def test_settings_of_the_recipe_are_changed_by_the_plan_and_stay_as_they_are_until_then() -> (
    None
):
    recipe = recipe_of(generate={"max_new_tokens": 8})
    assert with_plan(recipe, PLAN) == recipe
    setting, longer = change("answer_tokens_up", PLAN, recipe)
    plan = PLAN.model_copy(update={setting: longer})
    assert with_plan(recipe, plan).generate.max_new_tokens == 16
    assert with_plan(recipe, plan).select == recipe.select
    found = [Finding("truncation", "seen", 0.9, "answer_tokens_up", "")]
    assert (
        next_plan(recipe, PLAN, found, None, PLAN)[1][0].change
        == "max_new_tokens as in the recipe → 16"
    )


def test_the_ladder_is_climbed_one_rung_at_a_time_and_has_an_end() -> None:
    recipe = recipe_of(ladder=True)

    def at(accuracy: int) -> Scores:
        return scored({f"length={length}": (accuracy, 100) for length in range(8, 13)})

    assert next_level(recipe, 8, at(100)) == 9
    assert next_level(recipe, 9, at(90)) == 10
    assert next_level(recipe, 9, at(89)) == 9
    assert next_level(recipe, 12, at(100)) == 12
    assert next_level(recipe_of(), 0, at(100)) == 0
