"""What a run's form and parameters say wins over the recipe, and never silently over each other."""

from __future__ import annotations

import json

import pytest

from components.contracts.recipe.parameters import PARAMETER_KEYS, parameter_values
from components.contracts.recipe_file import parse_recipe, set_key
from components.contracts.summaries import StartSummary
from components.errors import UserError
from components.prepare.step import PrepareInputs, resolve_recipe
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import read_summary, receipt_uri
from tests.unit.preparing import RECIPE, prepare


def test_parameters_are_set_in_the_recipe_before_it_is_checked(
    context: Context,
) -> None:
    receipt = prepare(
        context,
        overrides={"seed": 9, "decide.max_rounds": 2, "data.tasks.0.test": 20},
        job_id="job-1",
    )
    campaign = load_campaign(context, receipt_uri(context, receipt))
    assert (
        campaign.recipe.seed,
        campaign.recipe.decide.max_rounds,
        read_summary(receipt, StartSummary).counts["test"],
    ) == (9, 2, 20)
    assert json.loads(context.store.get_bytes("jobs/job-1.json")) == {
        "run_id": campaign.recipe.run_id
    }
    assert "decide" in RECIPE
    assert "max_rounds" not in RECIPE["decide"]
    with pytest.raises(
        UserError, match=r"unknown key 'decide.max_round': did you mean 'max_rounds'"
    ):
        prepare(context, overrides={"decide.max_round": 2})
    with pytest.raises(UserError, match="no such section"):
        prepare(context, overrides={"data.tasks.7.test": 2})


COMPILED = parse_recipe(RECIPE)
"""The recipe that a pipeline was compiled with; its form has these values in its fields."""
FIELDS = parameter_values(COMPILED)


@pytest.mark.parametrize(
    ("in_recipe", "in_field", "result"),
    [
        (None, None, COMPILED.decide.goal.threshold),
        (0.7, None, 0.7),
        (None, 0.6, 0.6),
        (0.6, 0.6, 0.6),
    ],
)
def test_what_was_changed_in_the_form_wins_be_it_in_the_recipe_or_in_its_own_field(
    in_recipe: float | None, in_field: float | None, result: float
) -> None:
    recipe = COMPILED.model_dump(mode="json")
    fields = dict(FIELDS)
    if in_recipe is not None:
        set_key(recipe, "decide.goal.threshold", in_recipe)
    if in_field is not None:
        fields["decide.goal.threshold"] = in_field
    inputs = PrepareInputs(recipe, fields, resume_from="", job_id="", defaults=FIELDS)
    resolved = resolve_recipe(inputs)
    assert resolved.decide.goal.threshold == result
    assert resolved.decide.patience == COMPILED.decide.patience


@pytest.mark.parametrize("key", PARAMETER_KEYS.values())
def test_a_setting_changed_in_two_places_to_two_values_is_refused(key: str) -> None:
    recipe = COMPILED.model_dump(mode="json")
    default = FIELDS[key]
    assert isinstance(default, int | float)
    # Both are values that the recipe allows.
    first, second = (default / 2, default / 4) if isinstance(default, float) else (8, 9)
    if default == 0:
        first, second = 1, 2
    set_key(recipe, key, first)
    inputs = PrepareInputs(
        recipe, {**FIELDS, key: second}, resume_from="", job_id="", defaults=FIELDS
    )
    with pytest.raises(
        UserError, match=rf"{key} is {first} in the recipe and {second} in its own"
    ):
        resolve_recipe(inputs)


def test_a_recipe_pasted_into_the_form_without_a_key_has_the_default_of_the_recipe() -> (
    None
):
    recipe = {**RECIPE, "decide": {"goal": {"threshold": 0.5}}}
    compiled = {**FIELDS, "decide.patience": 9}
    resolved = resolve_recipe(
        PrepareInputs(recipe, compiled, "", "", defaults=compiled)
    )
    assert resolved.decide.patience == parse_recipe(recipe).decide.patience
