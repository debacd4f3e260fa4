"""What ends a campaign: patience, the goal, the last planned round, the budget."""

from __future__ import annotations

import pytest

from components.errors import UserError
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.storage import keys
from tests.unit.crafted import recipe_of, results_of, right_of
from tests.unit.decisions import SAMPLE_TOKENS, TRAIN_TOKENS, Campaign, simple, told


def test_patience_ends_the_campaign_and_the_best_stays(context: Context) -> None:
    campaign = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "patience": 2, "max_rounds": 9}),
    )
    campaign.round(simple(40))
    campaign.round(simple(60))
    assert told(campaign.round(simple(58))).stop is None
    receipt = campaign.round(simple(59))
    assert (told(receipt).go, told(receipt).stop) == (False, "patience")
    assert campaign.state.champion_round == 1
    assert "The campaign ends (patience)" in campaign.card


def test_the_goal_ends_the_campaign_even_in_round_zero(campaign: Campaign) -> None:
    receipt = campaign.round(simple(100))
    assert (told(receipt).go, told(receipt).stop) == (False, "target")


def test_only_a_champion_reaches_the_goal(context: Context) -> None:
    campaign = Campaign(context, recipe_of(decide={"goal": {"threshold": 0.95}}))
    campaign.round(simple(93))
    receipt = campaign.round(simple(96))  # above the goal, but three wins are no proof
    assert told(receipt).verdict == "rejected"
    assert told(receipt).stop is None


def test_the_goal_may_be_a_slice(context: Context) -> None:
    goal = {"threshold": 0.9, "slice": "length=9"}
    campaign = Campaign(context, recipe_of(decide={"goal": goal}))
    receipt = campaign.round(
        results_of({"length=8": right_of(50, 50), "length=9": right_of(50, 20)})
    )
    assert told(receipt).score == 0.4
    assert campaign.state.history[0].overall == 0.7
    assert campaign.state.history[0].slices == {"length=8": 1.0, "length=9": 0.4}
    receipt = campaign.round(
        results_of({"length=8": right_of(50, 50), "length=9": right_of(50, 46)})
    )
    assert told(receipt).stop == "target"


def test_a_goal_about_a_slice_that_is_not_there_names_those_that_are(
    context: Context,
) -> None:
    campaign = Campaign(
        context, recipe_of(decide={"goal": {"threshold": 0.9, "slice": "length=12"}})
    )
    with pytest.raises(UserError, match=r"'length=12' \(there are: length=9\)"):
        campaign.round(results_of({"length=9": [True]}))


def test_the_last_planned_round_ends_the_campaign(context: Context) -> None:
    campaign = Campaign(
        context, recipe_of(decide={"goal": {"threshold": 0.99}, "max_rounds": 2})
    )
    campaign.round(simple(10))
    assert told(campaign.round(simple(40))).stop is None
    assert told(campaign.round(simple(70))).stop == "max_rounds"


@pytest.mark.parametrize(
    ("tokens", "stops_at"),
    [
        (TRAIN_TOKENS, 0),
        (2 * TRAIN_TOKENS - 1, 0),
        (2 * TRAIN_TOKENS, 1),
        (3 * TRAIN_TOKENS + 2 * SAMPLE_TOKENS - 1, 1),
    ],
)
def test_no_round_is_begun_that_would_cross_the_token_budget(
    context: Context, tokens: int, stops_at: int
) -> None:
    campaign = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "budget": {"tokens": tokens}}),
    )
    stops = [
        told(campaign.round(simple(40))).stop,
        told(campaign.round(simple(60))).stop,
    ]
    assert stops.index("budget") == stops_at


def test_a_round_that_fits_the_token_budget_to_the_last_token_is_begun(
    context: Context,
) -> None:
    tokens = 3 * TRAIN_TOKENS + 2 * SAMPLE_TOKENS
    campaign = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "budget": {"tokens": tokens}}),
    )
    stops = [
        told(campaign.round(simple(40))).stop,
        told(campaign.round(simple(60))).stop,
    ]
    assert stops == [None, None]


def test_minutes_are_those_of_all_attempts_of_the_run(context: Context) -> None:
    campaign = Campaign(
        context,
        recipe_of(decide={"goal": {"threshold": 0.99}, "budget": {"minutes": 10}}),
    )
    for number, seconds in enumerate((100.0, 100.0)):
        attempt = Attempt(
            task="train-r0",
            step="train",
            round=0,
            started=number,
            seconds=seconds,
            error="out of memory",
        )
        key = keys.attempt_key("crafted-run", "train-r0", f"{number}-1")
        context.store.put_bytes(key, attempt.model_dump_json().encode())
    context.store.put_bytes(
        keys.attempt_key("crafted-run", "train-r0", "7-1"), b"not a record"
    )
    assert told(campaign.round(simple(40))).stop is None
    # 200 seconds so far, 205 for this round and for the next one: more than 600.
    late = Attempt(
        task="evaluate-r1", step="evaluate", round=1, started=0, seconds=205.0
    )
    context.store.put_bytes(
        keys.attempt_key("crafted-run", "evaluate-r1", "9-1"),
        late.model_dump_json().encode(),
    )
    assert told(campaign.round(simple(60))).stop == "budget"
