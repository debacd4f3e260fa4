"""Changes of what is trained, and of how gently: layers, adapters, dropout, batches, patience."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe import Recipe
from components.contracts.state import Plan, base_plan, with_plan
from components.decide.reflection.changes import changed_setting
from components.decide.reflection.plan import Finding, next_plan
from tests.unit.crafted import PLAN, recipe_of
from tests.unit.reflections import ADAPTED, LORA


def change(
    name: Any, plan: Plan = PLAN, recipe: Recipe | None = None
) -> tuple[str, Any]:
    return changed_setting(plan, recipe or recipe_of(), name)


LAYERED = recipe_of(
    train={
        "layers": {
            "extra": 1,
            "trained": 2,
            "min_extra": -1,
            "max_extra": 3,
            "max_trained": 5,
        }
    }
)
DEEP = base_plan(LAYERED)


@pytest.mark.parametrize(
    ("name", "texts"),
    [
        ("layers_up", ["+2, last 2 trained", "+3, last 2 trained"]),
        (
            "layers_down",
            ["0, last 2 trained", "-1, last 2 trained"],
        ),
        ("trained_layers_up", ["+1, last 4 trained", "+1, last 5 trained"]),
        ("trained_layers_down", ["+1, last 1 trained"]),
    ],
)
def test_layers_change_one_step_at_a_time_within_the_recipes_bounds(
    name: Any, texts: list[str]
) -> None:
    plan, seen = DEEP, []
    for _ in range(4):
        following, causes = next_plan(
            LAYERED, plan, [Finding("x", "y", 0.7, name, "")], None, plan
        )
        if following != plan:
            assert causes[0].change == f"layers {plan.layers} → {following.layers}"
            seen.append(str(following.layers))
        plan = following
    assert seen == texts
    assert plan.model_copy(update={"layers": DEEP.layers}) == DEEP


def test_layers_that_the_recipe_does_not_name_do_not_change() -> None:
    for name in (
        "layers_up",
        "layers_down",
        "trained_layers_up",
        "trained_layers_down",
    ):
        assert change(name) == ("layers", None)
    # Without bounds that allow it, the depth stays, and all layers are trained already.
    recipe = recipe_of(train={"layers": {}})
    plan = base_plan(recipe)
    for name in (
        "layers_up",
        "layers_down",
        "trained_layers_up",
        "trained_layers_down",
    ):
        assert change(name, plan, recipe) == ("layers", plan.layers)


def test_the_last_inserted_layer_stays_where_inserted_ones_alone_are_trained() -> None:
    recipe = recipe_of(
        train={
            "layers": {
                "extra": 2,
                "trained": "inserted",
                "min_extra": -2,
                "max_extra": 2,
            }
        }
    )
    plan = base_plan(recipe)
    for _ in range(3):
        setting, layers = change("layers_down", plan, recipe)
        plan = plan.model_copy(update={setting: layers})
    assert str(plan.layers) == "+1, inserted trained"


def test_adapters_shrink_to_a_quarter_of_the_recipes_rank() -> None:
    plan, ranks = ADAPTED, []
    for _ in range(4):
        setting, structure = change("structure_down", plan, LORA)
        plan = plan.model_copy(update={setting: structure})
        ranks.append(plan.lora.rank if plan.lora is not None else 0)
    assert ranks == [2, 1, 1, 1]
    assert change("structure_down") == ("lora", None)


def test_dropout_comes_down_to_none_and_a_recipe_without_it_has_nothing_to_change() -> (
    None
):
    recipe = recipe_of(train={"dropout": 0.15})
    plan = base_plan(recipe)
    seen = []
    for _ in range(3):
        _, dropout = change("dropout_down", plan, recipe)
        plan = plan.model_copy(update={"dropout": dropout})
        seen.append(dropout)
    assert seen == [0.05, 0.0, 0.0]
    assert change("dropout_down") == ("dropout", None)


def test_a_method_that_has_a_reference_of_its_own_gets_no_divergence_from_the_base() -> (
    None
):
    for method in ("dpo", "rpo", "kto", "raft"):
        recipe = recipe_of(train={"method": method}, select={"verifier": True})
        assert change("kl_beta_up", base_plan(recipe), recipe) == ("kl_beta", None), (
            method
        )


def test_settings_of_the_training_reach_the_recipe_of_the_round_and_are_valid_there() -> (
    None
):
    recipe = recipe_of(train={"batch_size": 12, "num_processes": 3})
    plan = base_plan(recipe)
    for name in (
        "dropout_up",
        "kl_beta_up",
        "batch_size_up",
        "patience_down",
        "noise_up",
    ):
        setting, changed = change(name, plan, recipe)
        plan = plan.model_copy(update={setting: changed})
    train = with_plan(recipe, plan).train
    assert (train.dropout, train.kl_beta, train.batch_size) == (0.1, 0.01, 24)
    assert (train.early_stopping_patience, train.neftune_alpha) == (2, 5.0)
    # A job's file is read back through all checks.
    assert type(train).model_validate(train.model_dump()) == train


def test_a_third_change_is_made_once_two_were_taken_back() -> None:
    finding = Finding(
        "overfitting",
        "seen",
        0.8,
        "weight_decay_up",
        "",
        otherwise="steps_down",
        further=("dropout_up", "patience_down"),
    )
    made = []
    refuted: set[str] = set()
    for _ in range(5):
        _, causes = next_plan(
            recipe_of(), PLAN, [finding], None, PLAN, frozenset(refuted)
        )
        made.append(causes[0].change_name)
        refuted |= {str(causes[0].change_name)}
    assert made == [
        "weight_decay_up",
        "steps_down",
        "dropout_up",
        "patience_down",
        None,
    ]
