"""What the data can prove, told before anything is spent."""

from __future__ import annotations

from typing import Any

import pytest

from components.contracts.recipe import Recipe
from components.contracts.rows import Prompt
from components.errors import UserError
from components.prepare.outlook import outlook_of
from components.select.filters import PASSES
from components.select.remedies import REMEDIES, remedy_for
from components.statistics import mcnemar_one_sided


def recipe(**sections: Any) -> Recipe:
    document = {
        "name": "r",
        "data": {"sources": [{"uri": "a.csv"}]},
        "decide": {"goal": {"threshold": 0.9}, **sections.pop("decide", {})},
        **sections,
    }
    return Recipe.model_validate(document)


def prompts(number: int, **tags: str) -> list[Prompt]:
    return [
        Prompt(
            id=str(n),
            text=str(n),
            verifier="exact",
            tags=tags,
            reference={"answer": "1"},
        )
        for n in range(number)
    ]


@pytest.mark.parametrize(
    ("alpha", "rounds"), [(0.05, 4), (0.05, 1), (0.05, 16), (0.2, 2)]
)
def test_the_smallest_gain_is_what_the_gate_would_accept_and_one_win_less_is_not(
    alpha: float, rounds: int
) -> None:
    section = {"alpha": alpha, "max_rounds": rounds}
    outlook = outlook_of(recipe(decide=section), prompts(40), 100)
    level = alpha / rounds
    wins = outlook.wins_needed
    assert wins is not None
    assert mcnemar_one_sided(wins, 0) <= level
    assert mcnemar_one_sided(wins - 1, 0) > level
    assert outlook.smallest_gain == wins / 40
    assert f"{100 * outlook.smallest_gain:.1f} points" in outlook.in_words
    # So many prompts suffice, one less never does.
    outlook_of(recipe(decide=section), prompts(wins), 100)
    with pytest.raises(UserError, match=rf"never promote.*at least {wins} are"):
        outlook_of(recipe(decide=section), prompts(wins - 1), 100)


def test_families_count_each_once() -> None:
    by_topic = {"family": "topic"}
    many = [*prompts(50, topic="a"), *prompts(50, topic="b")]
    with pytest.raises(UserError, match=r"never promote: validation has 2 families"):
        outlook_of(recipe(decide=by_topic), many, 100)
    with pytest.raises(
        UserError, match=r"50 of 100 validation prompts have no tag 'topic'"
    ):
        outlook_of(
            recipe(decide=by_topic), [*prompts(50), *prompts(50, topic="b")], 100
        )


def test_a_goal_that_no_prompt_belongs_to_is_an_error() -> None:
    goal = {"goal": {"threshold": 0.9, "slice": "length=9"}}
    with pytest.raises(UserError, match=r"goal.slice 'length=9'.*length=8"):
        outlook_of(recipe(decide=goal), prompts(20, length="8"), 100)


@pytest.mark.parametrize(
    "sections",
    [
        {"generate": {"samples_per_prompt": 1}},
        {"generate": {"samples_per_prompt": 8}, "select": {"max_per_prompt": 1}},
        {"select": {"keep": {"by": "random", "rows": 15}}},
    ],
)
def test_a_round_that_cannot_accept_enough_is_an_error(
    sections: dict[str, Any],
) -> None:
    with pytest.raises(
        UserError, match=r"at most 15 samples.*select.min_accepted is 16"
    ):
        outlook_of(recipe(**sections), prompts(20), 15)


def test_every_filter_has_words_for_what_helps_and_the_largest_reason_gets_them() -> (
    None
):
    names = {entry.name for filters in PASSES for entry in filters}
    # These two drop under other words.
    renamed = {"contamination": {"in_evaluation"}, "difficulty": {"solved"}}
    renamed["hint"] = {"leaked_hint", "parroted_hint"}
    renamed["people"] = {"people", "unmarked"}
    for name in names:
        assert renamed.get(name, {name}) <= REMEDIES.keys()
    assert "data.fractions.unlabelled" in remedy_for({"verifier": 3, "duplicate": 397})
    assert "generate.max_new_tokens" in remedy_for({"unfinished": 9, "verifier": 3})
    assert "minhash_threshold" in remedy_for({"near_duplicate": 9})
