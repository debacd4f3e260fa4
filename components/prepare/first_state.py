"""The first state of a campaign, and that of a run which continues an earlier one."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import JsonValue

from components.contracts.recipe import Recipe
from components.contracts.state import TRAIN_SETTINGS, Plan, State, base_plan
from components.errors import UserError
from components.runtime.campaign import Campaign, load_campaign
from components.runtime.context import Context
from components.runtime.receipts import Receipt, ref_of_uri
from components.storage import keys

MUST_MATCH_ON_RESUME = ("model", "data", "seed")
"""Parts of the recipe that base checkpoint and splits are made from."""


def resumed_campaign(context: Context, uri: str, recipe: Recipe) -> Campaign:
    """Return the campaign that a run continues.

    Args:
        context: surroundings of the step.
        uri: receipt of `decide`, or of the start, of the earlier run.
        recipe: recipe of this run.

    Raises:
        UserError: there is no such receipt, or it was made from another model, data or seed.
    """
    ref = ref_of_uri(context, uri)
    # Missing would be damage (exit 3); here a person copied a wrong URI.
    step, key = ref.split("/", 1)
    if context.store.size(keys.receipt_key(step, key)) is None:
        raise UserError(
            f"resume_from {uri}: no such receipt; copy the state URI that the earlier run's last "
            "decide task shows"
        )
    campaign = load_campaign(context, uri)
    earlier = campaign.recipe.model_dump(mode="json")
    current = recipe.model_dump(mode="json")
    for section in MUST_MATCH_ON_RESUME:
        if earlier[section] != current[section]:
            difference = _difference(earlier[section], current[section])
            raise UserError(
                f"resume_from {uri}: the recipe's `{section}` differs from that run's "
                f"({difference}), and its base model and splits come from it; restore it, or "
                "start a new run without resume_from"
            )
    earlier_metric = campaign.recipe.decide.goal.metric
    if earlier_metric != recipe.decide.goal.metric:
        raise UserError(
            f"resume_from {uri}: decide.goal.metric was {earlier_metric}, is "
            f"{recipe.decide.goal.metric}, and its champion was chosen by the former; restore it, "
            "or start a new run without resume_from"
        )
    return campaign


def first_state(recipe: Recipe, prepared: Receipt) -> State:
    """Return the state that a campaign begins with; the base model is not measured yet."""
    return State(
        run_id=recipe.run_id,
        prepared=prepared.ref,
        round=_round_before_the_first(recipe),
        plan=first_plan(recipe),
    )


def _round_before_the_first(recipe: Recipe) -> int | None:
    # Without a supervised stage the first round is round 1, and its number the same as elsewhere.
    return None if recipe.train.has_supervised_stage else 0


def first_plan(recipe: Recipe) -> Plan:
    """Return the plan of the first round; `decide` makes the plans of later rounds."""
    ladder = recipe.data.ladder
    if not recipe.train.has_supervised_stage:
        level = ladder.climb[0] if ladder is not None else 0
        return base_plan(recipe).model_copy(update={"level": level})
    stage = recipe.train.first
    # Round 0 may be pre-training alone.
    if stage.steps == 0 and recipe.train.pretrain is not None:
        stage = recipe.train.pretrain
    changes = {
        "training": "supervised",
        "learning_rate": stage.learning_rate,
        "steps": stage.steps,
        "level": ladder.labelled[1] if ladder is not None else 0,
    }
    return base_plan(recipe).model_copy(update=changes)


def continued_state(campaign: Campaign, recipe: Recipe) -> State:
    """Return the last state of a campaign, ready to go on under this recipe."""
    # The earlier run ended for some reason; this one counts its rounds without gain anew.
    last_round = campaign.state.round
    changes = {
        "run_id": recipe.run_id,
        "start": None,
        "round": _round_before_the_first(recipe) if last_round is None else last_round,
        "go": True,
        "stop": None,
        "rounds_without_gain": 0,
        "plan": _continued_plan(campaign, recipe),
    }
    return campaign.state.model_copy(update=changes)


def _continued_plan(campaign: Campaign, recipe: Recipe) -> Plan:
    """Return the plan as reflection left it, but for settings that the new recipe changes."""
    if campaign.state.round is None:
        return first_plan(recipe)
    # Compared with the earlier recipe, not with the plan: what reflection changed stays changed
    # unless the person changed the same setting.
    earlier = base_plan(campaign.recipe)
    changes = {
        name: value
        for name, value in base_plan(recipe)
        if value != getattr(earlier, name)
    }
    current_settings = _written_settings(recipe)
    for name, written in _written_settings(campaign.written).items():
        if current_settings[name] != written:
            # As the recipe says, until reflection changes it again.
            changes[name] = None
    return campaign.state.plan.model_copy(update=changes)


def _written_settings(recipe: Recipe) -> dict[str, object]:
    """Return the values of the settings that a plan leaves to the recipe until it changes them."""
    augmentation = recipe.train.rounds.augmentation
    settings: dict[str, object] = {
        name: getattr(recipe.train, name) for name in TRAIN_SETTINGS
    }
    settings["min_vote_share"] = recipe.select.min_vote_share
    settings["max_new_tokens"] = recipe.generate.max_new_tokens
    settings["word_dropout"] = None
    if augmentation is not None:
        settings["word_dropout"] = (
            augmentation.word_dropout,
            augmentation.max_word_dropout,
        )
    return settings


def _difference(earlier: JsonValue, current: JsonValue, key: str = "") -> str:
    """Return the first place where two JSON values differ, in words; `key` is where they are."""
    for name, old_value, new_value in _paired_items(earlier, current):
        if old_value != new_value:
            inner_key = f"{key}.{name}" if key else name
            return _difference(old_value, new_value, inner_key)
    prefix = f"{key} " if key else ""
    return f"{prefix}was {earlier!r:.80}, is {current!r:.80}"


def _paired_items(
    earlier: JsonValue, current: JsonValue
) -> Iterator[tuple[str, JsonValue, JsonValue]]:
    """Yield (name, item, item) of two objects or of two lists of one length; else nothing."""
    if isinstance(earlier, dict) and isinstance(current, dict):
        for name in sorted(earlier.keys() | current.keys()):
            yield name, earlier.get(name), current.get(name)
    if (
        isinstance(earlier, list)
        and isinstance(current, list)
        and len(earlier) == len(current)
    ):
        for index, old_item in enumerate(earlier):
            yield str(index), old_item, current[index]
