"""Each cause is found from numbers like those of a run that had it, and asks for one bounded
change."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from components.contracts.recipe import LoraStructure, Recipe
from components.contracts.state import Cause, Plan, RoundRecord, base_plan, with_plan
from components.contracts.summaries.evaluate import Estimate
from components.decide.gate import Comparison
from components.decide.reflection.changes import changed_setting
from components.decide.reflection.diagnosis import diagnose
from components.decide.reflection.evidence import Evidence
from components.decide.reflection.plan import (
    MAX_CHANGES,
    Finding,
    next_level,
    next_plan,
    refuted_changes,
    review,
)
from components.decide.reflection.training_causes import still_falling
from components.measures import Scores, measure_of
from components.statistics import wilson_interval
from tests.unit.crafted import PLAN, recipe_of, select_summary, train_summary


def scored(counts: dict[str, tuple[int, int]]) -> Scores:
    """Scores of slice → (right answers, prompts)."""
    estimates = {}
    for name, (right, total) in counts.items():
        low, high = wilson_interval(right, total)
        estimates[name] = Estimate(value=right / total, low=low, high=high, n=total)
    return Scores(measure_of("accuracy"), estimates)


def dev(value: float, low: float = 0.0, high: float = 1.0) -> Scores:
    """An accuracy on all dev prompts, with its interval."""
    estimate = Estimate(value=value, low=low, high=high, n=100)
    return Scores(measure_of("accuracy"), {"": estimate})


TRAIN: dict[str, Any] = {
    "steps": 200,
    "best_step": 190,
    "first_loss": 0.9,
    "final_loss": 0.21,
    "first_dev_loss": 0.8,
    "best_dev_loss": 0.30,
    "final_dev_loss": 0.302,
    "stopped_early": False,
    "skipped_steps": 0,
}
SELECT: dict[str, Any] = {
    "generated": 4000,
    "accepted": 1200,
    "dropped": {"duplicate": 900, "verifier": 1900},
    "prompts": 1000,
    "prompts_accepted": 700,
    "distinct_share": 0.6,
}
NO_SAMPLES: dict[str, Any] = {
    "round": 0,
    "generated": 0,
    "accepted": 0,
    "acceptance": None,
    "dropped": {},
    "prompts": 0,
    "prompts_accepted": 0,
    "distinct_share": None,
    "mean_answer_tokens": None,
    "finished_share": None,
}
"""The first mix."""
SETTLED = [0.9 * 0.9**step + 0.2 for step in range(200)]
LORA = recipe_of(train={"lora": {"rank": 4, "max_rank": 12, "max_unfrozen_layers": 3}})
SUPERVISED = PLAN.model_copy(update={"training": "supervised"})
ADAPTED = PLAN.model_copy(update={"lora": base_plan(LORA).lora})
EQUAL = Comparison(pairs=500, wins=20, losses=18, p_value=0.44, level=0.0125)


def evidence(**changes: Any) -> Evidence:
    """A round that went well in everything but was not promoted."""
    common: dict[str, Any] = {
        "recipe": recipe_of(),
        "round": 2,
        "verdict": "rejected",
        "plan": PLAN,
        "train": TRAIN,
        "losses": SETTLED,
        "finished_share": 0.99,
        "candidate": scored({"": (300, 500)}),
        "select": SELECT,
        "comparison": EQUAL,
    }
    evidence_parts = {**common, **changes}
    evidence_parts["train"] = train_summary(**evidence_parts["train"])
    evidence_parts["select"] = select_summary(**evidence_parts["select"])
    return Evidence(**evidence_parts)


def names(**changes: Any) -> list[str]:
    return [finding.name for finding in diagnose(evidence(**changes))]


def the(name: str, **changes: Any) -> Finding:
    return next(finding for finding in diagnose(evidence(**changes)) if finding.name == name)


def test_a_sound_round_has_no_cause() -> None:
    assert names() == []
    assert names(verdict="promoted") == []
    assert names(verdict="promoted", round=0, plan=SUPERVISED, select=NO_SAMPLES) == []


def test_rising_dev_loss_is_overfitting() -> None:
    train = {**TRAIN, "best_step": 150, "final_dev_loss": 0.36}
    found = the("overfitting", train=train)
    assert found.change == "weight_decay_up"
    assert "0.3000 (step 150) to 0.3600" in found.evidence


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
    learned = {**TRAIN, "final_loss": 0.0056, "best_dev_loss": 0.02, "final_dev_loss": 0.02}
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
    assert the("underfitting", train=train, losses=[2.3] * 200).change == "learning_rate_up"


def test_a_promoted_candidate_is_not_called_underfitted() -> None:
    assert names(verdict="promoted", losses=[2.0 - 0.008 * step for step in range(200)]) == []
    assert (
        names(verdict="promoted", losses=[2.0 - 0.008 * step for step in range(200)], plan=ADAPTED)
        == []
    )


HIGH: dict[str, Any] = {"final_loss": 1.42, "best_dev_loss": 1.45, "final_dev_loss": 1.45}


def test_adapters_that_cannot_take_in_their_rows_ask_for_a_larger_structure() -> None:
    found = the("too_little_capacity", train={**TRAIN, "first_loss": 2.3, **HIGH}, plan=ADAPTED)
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


def test_a_loss_that_still_falls_asks_for_more_steps_before_a_larger_structure() -> None:
    falling = [2.0 - 0.008 * step for step in range(200)]
    assert names(losses=falling, plan=ADAPTED) == ["underfitting", "too_little_capacity"]
    plan, _ = next_plan(
        LORA, ADAPTED, diagnose(evidence(losses=falling, plan=ADAPTED)), None, ADAPTED
    )
    assert (plan.steps, plan.lora) == (300, LoraStructure(rank=8))


def test_a_high_loss_is_no_lack_of_capacity_where_nothing_is_frozen_or_rows_are_memorised() -> None:
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
        names(train={**TRAIN, "first_loss": 2.3, **HIGH, "stopped_early": True}, plan=ADAPTED) == []
    )
    assert names(plan=ADAPTED) == []


def test_a_champion_that_learns_a_little_more_is_not_stuck() -> None:
    assert (
        names(train={**TRAIN, "first_loss": 0.011, "final_loss": 0.010}, losses=[0.01] * 200) == []
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
    assert "90 of 4000 samples accepted (0.025 passed the quality filters" in found.evidence
    assert "verifier 3900" in found.evidence
    assert (
        the(
            "too_few_accepted", select=select, plan=PLAN.model_copy(update={"temperature": 0.0})
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
    assert names(select=select, plan=PLAN.model_copy(update={"samples_per_prompt": 16})) == []


def test_answers_left_out_because_they_are_solved_or_enough_are_not_too_few() -> None:
    dropped = {"diversity": 200, "solved": 3200, "verifier": 300}
    select = {**SELECT, "accepted": 300, "dropped": dropped, "prompts_accepted": 120}
    assert names(select=select) == []
    assert names(select={**select, "distinct_share": 0.26}) == []
    assert names(select={**select, "distinct_share": 0.26, "dropped": {"verifier": 3700}}) == [
        "low_diversity",
        "too_few_accepted",
    ]


def test_samples_that_all_say_the_same_ask_for_a_higher_temperature() -> None:
    found = the("low_diversity", select={**SELECT, "distinct_share": 0.28})
    assert found.change == "temperature_up"
    assert "0.280 of them distinct (0.250 is the least), and 300 of 1000 prompts" in found.evidence


def test_several_greedy_samples_are_no_diversity_at_all() -> None:
    greedy = PLAN.model_copy(update={"temperature": 0.0})
    assert (
        the("low_diversity", select={**SELECT, "distinct_share": 0.25}, plan=greedy).priority == 0.9
    )
    once = {**SELECT, "distinct_share": 1.0}
    assert names(select=once, plan=greedy.model_copy(update={"samples_per_prompt": 1})) == []


def test_skipped_steps_or_wild_losses_are_optimizer_trouble() -> None:
    assert (
        the("optimizer_trouble", train={**TRAIN, "skipped_steps": 3}).change == "learning_rate_down"
    )
    assert (
        "0 steps skipped and 1 losses not finite"
        in the("optimizer_trouble", losses=[*SETTLED, None]).evidence
    )
    assert names(train={**TRAIN, "skipped_steps": 3}, verdict="promoted") == ["optimizer_trouble"]


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
    assert "(length=8) are at 0.6200, mastery is 0.90: the base is not solved" in found.evidence
    assert names(**first, comparison=None, candidate=scored({"length=8": (50, 50)})) == []


SOUND_MEASURES: dict[str, float] = {
    "first_loss": 0.9,
    "last_loss": 0.6,
    "peak_loss": 0.9,
    "loss_fall": 0.3,
    "loss_spikes": 0,
    "skipped_steps": 0,
    "above_dev": -0.1,
    "human_loss": 0.6,
    "human_loss_rise": -0.1,
    "dev_loss": 0.6,
    "epochs": 3.0,
    "same_answers": 0.7,
    "finished_share": 1.0,
    "runs_on": 0.0,
    "cut_short": 0.0,
    "passed": 0.5,
    "agreement": 0.8,
    "refused_agreement": 0.5,
    "passed_agreement": 0.9,
    "majority_passed": 0.6,
    "majority_expected": 0.6,
    "majority_prompts": 1000,
    "verifier_z": 0.0,
    "disputed": 0.05,
    "labelled_weight": 0.5,
    "repeated": 0.01,
    "repeated_labelled": 0.01,
    "contaminated": 0.0,
    "answer_shift": 0.1,
    "accuracy": 0.6,
    "accepted": 1200,
}


def measured(**changes: float) -> dict[str, float]:
    return {**SOUND_MEASURES, **changes}


def test_a_sound_round_with_all_its_measures_has_no_cause() -> None:
    for verdict in ("rejected", "promoted"):
        assert names(measures=measured(), verdict=verdict) == []


LOST = Comparison(pairs=500, wins=10, losses=35, p_value=1.0, level=0.0125)
HOT = PLAN.model_copy(update={"temperature": 1.6})
SIGNS: list[tuple[str, str | None, dict[str, Any]]] = [
    (
        "learning_rate_too_high",
        "learning_rate_down",
        {"measures": measured(first_loss=0.6, last_loss=2.0, peak_loss=3.1, human_loss_rise=1.2)},
    ),
    (
        "learning_rate_too_low",
        "learning_rate_up",
        {"measures": measured(same_answers=0.99, last_loss=0.6, loss_fall=0.01)},
    ),
    ("underfitting", "steps_up", {"measures": measured(epochs=0.2)}),
    ("optimizer_trouble", "learning_rate_down", {"measures": measured(loss_spikes=5)}),
    ("label_noise", "labelled_share_down", {"measures": measured(last_loss=1.1, above_dev=0.6)}),
    (
        "duplicate_flood",
        "labelled_share_down",
        {"measures": measured(repeated=0.4, repeated_labelled=0.35)},
    ),
    (
        "duplicate_flood",
        "labelled_share_up",
        {"measures": measured(repeated=0.4, repeated_labelled=0.05)},
    ),
    (
        "temperature_too_high",
        "temperature_down",
        {"plan": HOT, "measures": measured(passed=0.2, agreement=0.4, majority_expected=0.6)},
    ),
    (
        "verifier_false_negatives",
        None,
        {"measures": measured(majority_passed=0.2, verifier_z=-15, refused_agreement=0.85)},
    ),
    (
        "verifier_too_lenient",
        "vote_share_up",
        {"measures": measured(majority_passed=0.99, verifier_z=15)},
    ),
    ("evaluation_contamination", None, {"measures": measured(contaminated=0.3)}),
    ("truncation", "answer_tokens_up", {"measures": measured(finished_share=0.5, cut_short=0.4)}),
    ("stop_token_wrong", None, {"measures": measured(finished_share=0.2, runs_on=0.6)}),
    (
        "labelled_share_too_low",
        "labelled_share_up",
        {"comparison": LOST, "measures": measured(labelled_weight=0.25, answer_shift=0.5)},
    ),
]


@pytest.mark.parametrize(
    ("name", "asks", "signs"), SIGNS, ids=[f"{name}-{change}" for name, change, _ in SIGNS]
)
def test_each_cause_is_first_where_its_signs_are_and_says_them_in_numbers(
    name: str, asks: str | None, signs: dict[str, Any]
) -> None:
    first = diagnose(evidence(**signs))[0]
    assert (first.name, first.change) == (name, asks)
    assert any(character.isdigit() for character in first.evidence)
    assert first.measure in {*SOUND_MEASURES, "dev_rise", "distinct_share"}
    assert "nan" not in first.evidence


def test_a_strict_verifier_over_hard_prompts_is_not_called_wrong() -> None:
    unsure = measured(majority_passed=0.2, verifier_z=-15, refused_agreement=0.4)
    assert names(measures=unsure) == []
    assert (
        names(
            measures=measured(
                majority_passed=0.2, verifier_z=-15, refused_agreement=0.9, majority_prompts=9
            )
        )
        == []
    )
    without = evidence(
        measures=measured(majority_passed=0.99, verifier_z=15),
        recipe=recipe_of(select={"verifier": False}),
    )
    assert diagnose(without) == []


def test_the_trend_ignores_noise_and_short_logs() -> None:
    draw = random.Random(0)
    assert still_falling([1.0 + draw.uniform(-0.2, 0.2) for _ in range(200)]) is None
    assert still_falling([3.0, 2.0, 1.0]) is None


# The plan


def change(name: str, plan: Plan = PLAN, recipe: Recipe | None = None) -> tuple[str, Any]:
    return changed_setting(plan, recipe or recipe_of(), name)  # type: ignore[arg-type]


def test_changes_are_bounded_by_the_recipe() -> None:
    recipe = recipe_of(
        train={"rounds": {"steps": 200, "learning_rate": 1e-3}}, generate={"temperature": 0.7}
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
        generate={"temperature": 2.0, "samples_per_prompt": 100}, select={"labelled_share": 0.95}
    )
    plan = base_plan(recipe)
    assert change("temperature_up", plan, recipe) == ("temperature", 2.0)
    assert change("samples_up", plan, recipe) == ("samples_per_prompt", 100)
    assert change("labelled_share_up", plan, recipe) == ("labelled_share", 0.95)


def test_a_natural_union_has_no_share_that_could_change() -> None:
    recipe = recipe_of(select={"union": True})
    plan = base_plan(recipe)
    assert change("labelled_share_up", plan, recipe) == ("labelled_share", plan.labelled_share)
    assert change("labelled_share_down", plan, recipe) == ("labelled_share", plan.labelled_share)


def test_a_structure_doubles_its_rank_then_the_layers_trained_in_full_then_stops() -> None:
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


CHANGES = [
    "learning_rate_down",
    "learning_rate_up",
    "steps_up",
    "steps_down",
    "temperature_up",
    "temperature_down",
    "weight_decay_up",
    "labelled_share_up",
    "samples_up",
    "structure_up",
    "labelled_share_down",
    "vote_share_up",
    "answer_tokens_up",
    "noise_up",
    None,
]


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(CHANGES), st.floats(0, 1)), max_size=8))
def test_at_most_two_settings_change_a_round_and_only_for_causes_of_a_high_priority(
    asked: list[tuple[Any, float]],
) -> None:
    findings = [
        Finding(f"cause{n}", "seen", sure, what, "") for n, (what, sure) in enumerate(asked)
    ]
    plan, causes = next_plan(LORA, ADAPTED, findings, None, ADAPTED)
    changed = [name for name in Plan.model_fields if getattr(plan, name) != getattr(ADAPTED, name)]
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
    assert review(record(0.6, causes[0]), current, PLAN, "rejected", dev(0.55), {}) is None


def test_a_change_stays_if_the_candidate_was_better_or_promoted_or_nothing_changed() -> None:
    current = PLAN.model_copy(update={"steps": 300})
    assert review(record(0.6), PLAN, current, "rejected", dev(0.6), {}) is None
    assert review(record(0.6), PLAN, current, "promoted", dev(0.5), {}) is None
    assert review(record(0.6), PLAN, PLAN, "rejected", dev(0.5), {}) is None
    assert review(None, PLAN, current, "rejected", dev(0.5), {}) is None


def told(measures: dict[str, float], *causes: Cause, overall: float = 0.6) -> RoundRecord:
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
    assert [(cause.name, cause.change) for cause in causes] == [("change_confirmed", None)]


def test_a_prediction_that_fails_takes_the_change_back_even_if_accuracy_did_not_fall() -> None:
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
    back = Cause(name="change_taken_back", evidence="", priority=0.9, change="steps 300 → 200")
    refuted = refuted_changes([told({}, PREDICTS), told({}, back)])
    assert refuted == {"steps_up"}
    again = Finding("underfitting", "seen", 0.7, "steps_up", "", otherwise="learning_rate_up")
    plan, causes = next_plan(recipe_of(), PLAN, [again], None, PLAN, refuted)
    assert (plan.steps, plan.learning_rate) == (PLAN.steps, 2 * PLAN.learning_rate)
    assert causes[0].change_name == "learning_rate_up"
    assert refuted_changes([told({}, PREDICTS), told({})]) == frozenset()


def test_settings_of_the_recipe_are_changed_by_the_plan_and_stay_as_they_are_until_then() -> None:
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
