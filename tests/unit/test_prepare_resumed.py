"""A campaign that goes on from the state of another has its model, data and seed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from components.contracts.recipe import LoraStructure
from components.contracts.recipe_file import set_key
from components.contracts.state import Plan, State
from components.contracts.summaries import StartSummary
from components.errors import UserError
from components.runtime.attempts import Task
from components.runtime.campaign import load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, commit_once, read_summary, receipt_uri
from tests.unit.crafted import Plain
from tests.unit.preparing import RECIPE, changed, data_of, prepare


def decided(context: Context, start: Receipt, **settings: Any) -> Receipt:
    """A decide receipt as a finished campaign leaves it."""
    campaign = load_campaign(context, receipt_uri(context, start))
    plan = Plan(
        learning_rate=1e-4,
        steps=7,
        weight_decay=0.0,
        temperature=0.9,
        samples_per_prompt=2,
        labelled_share=0.5,
        level=6,
        **settings,
    )
    state = State(
        run_id=campaign.recipe.run_id,
        prepared=campaign.prepared.ref,
        start=start.ref,
        round=2,
        go=False,
        stop="patience",
        champion="train/abc",
        champion_round=1,
        champion_evaluation="evaluate/def",
        first_evaluation="evaluate/fed",
        selections=("select/1",),
        rounds_without_gain=2,
        plan=plan,
    )

    def work(folder: Path) -> Plain:
        (folder / "state.json").write_text(state.model_dump_json())
        return Plain({})

    return commit_once(
        context,
        Task(run_id=state.run_id, name="decide-r2", round=2),
        "decide",
        config={},
        inputs={},
        seed=0,
        work=work,
    )


def test_a_resumed_campaign_goes_on_where_the_old_one_stopped(context: Context) -> None:
    old = prepare(context)
    state_uri = receipt_uri(context, decided(context, old))
    more = changed(
        decide={"goal": {"threshold": 0.99}, "max_rounds": 8},
        generate={"temperature": 1.0},
    )
    receipt = prepare(context, more, resume_from=state_uri)
    assert read_summary(receipt, StartSummary).smallest_gain is None
    assert read_summary(receipt, StartSummary).supervised is False
    assert (
        read_summary(receipt, StartSummary).counts
        == read_summary(old, StartSummary).counts
    )
    assert data_of(context, receipt) == data_of(context, old)
    campaign = load_campaign(context, receipt_uri(context, receipt))
    state = campaign.state
    assert (campaign.next_round, state.go, state.stop, state.rounds_without_gain) == (
        3,
        True,
        None,
        0,
    )
    assert (state.champion, state.champion_round, state.selections) == (
        "train/abc",
        1,
        ("select/1",),
    )
    # What the new recipe sets anew counts; the rest of the plan stays as reflection left it.
    assert (
        state.plan.temperature,
        state.plan.level,
        state.plan.steps,
        state.plan.learning_rate,
    ) == (1.0, 6, 7, 1e-4)
    assert (
        state.run_id
        == campaign.recipe.run_id
        != load_campaign(context, state_uri).recipe.run_id
    )
    assert campaign.recipe.decide.max_rounds == 8


def test_a_resumed_campaign_keeps_the_structure_it_grew_unless_the_recipe_sets_another(
    context: Context,
) -> None:
    def resumed(**lora: Any) -> LoraStructure | None:
        receipt = prepare(context, changed(train={"lora": lora}), resume_from=state_uri)
        return load_campaign(context, receipt_uri(context, receipt)).state.plan.lora

    old = prepare(context, changed(train={"lora": {"rank": 4}}))
    assert load_campaign(
        context, receipt_uri(context, old)
    ).state.plan.lora == LoraStructure(rank=4)
    state_uri = receipt_uri(context, decided(context, old, lora=LoraStructure(rank=16)))
    assert resumed(rank=4, max_rank=128) == LoraStructure(rank=16)
    assert resumed(rank=32) == LoraStructure(rank=32)


REFLECTED: dict[str, Any] = {
    "min_vote_share": 0.75,
    "max_new_tokens": 30,
    "neftune_alpha": 5.0,
    "dropout": 0.1,
    "kl_beta": 0.02,
    "batch_size": 64,
    "early_stopping_patience": 2,
    "word_dropout": 0.1,
}
"""Settings that a plan leaves to the recipe, as reflection changed them."""


@pytest.mark.parametrize(
    ("key", "setting", "name"),
    [
        ("select.min_vote_share", 0.9, "min_vote_share"),
        ("generate.max_new_tokens", 40, "max_new_tokens"),
        ("train.neftune_alpha", 1.0, "neftune_alpha"),
        ("train.dropout", 0.3, "dropout"),
        ("train.kl_beta", 0.1, "kl_beta"),
        ("train.batch_size", 4, "batch_size"),
        ("train.early_stopping_patience", 9, "early_stopping_patience"),
        ("train.rounds.augmentation.word_dropout", 0.2, "word_dropout"),
        ("train.rounds.augmentation.max_word_dropout", 0.05, "word_dropout"),
        ("train.rounds.augmentation.word_swap", 0.05, None),
        ("decide.max_rounds", 8, None),
    ],
)
def test_a_setting_that_reflection_changed_stays_so_until_the_recipe_says_another(
    context: Context, key: str, setting: float, name: str | None
) -> None:
    recipe = changed()
    set_key(recipe, "train.rounds.augmentation", {})
    state_uri = receipt_uri(
        context, decided(context, prepare(context, recipe), **REFLECTED)
    )
    set_key(recipe, key, setting)
    receipt = prepare(context, recipe, resume_from=state_uri)
    plan = load_campaign(context, receipt_uri(context, receipt)).state.plan
    reset = {} if name is None else {name: None}
    assert plan.model_dump(include=set(REFLECTED)) == REFLECTED | reset


def test_every_setting_that_a_plan_leaves_to_the_recipe_is_known_here() -> None:
    left = {
        name for name, field in Plan.model_fields.items() if not field.is_required()
    }
    assert left - {"training", "lora", "layers"} == set(REFLECTED)


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        (changed(seed=4), "recipe's `seed` differs.*was 3, is 4"),
        (
            changed(model={"scratch": {"hidden_size": 32}}),
            "recipe's `model` differs.*scratch.hidden_size was 16, is 32",
        ),
        (
            changed(data={"tasks": [{**RECIPE["data"]["tasks"][0], "test": 5}]}),
            "recipe's `data` differs.*tasks.0.test was 12, is 5",
        ),
    ],
)
def test_a_resumed_campaign_keeps_its_model_data_and_seed(
    context: Context, recipe: dict[str, Any], message: str
) -> None:
    state_uri = receipt_uri(context, decided(context, prepare(context)))
    with pytest.raises(UserError, match=message):
        prepare(context, recipe, resume_from=state_uri)


def test_a_state_that_is_not_there_is_an_error_that_says_so(context: Context) -> None:
    with pytest.raises(UserError, match="no such receipt"):
        prepare(context, resume_from=f"{context.store.root}/steps/decide/0123.json")
    with pytest.raises(UserError, match="not in this run's store"):
        prepare(context, resume_from="file:///elsewhere/steps/decide/0123.json")
    with pytest.raises(UserError, match="not the URI of a receipt"):
        prepare(context, resume_from="yesterday")
