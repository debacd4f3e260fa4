import re
from collections import Counter
from typing import Any

import pytest

from components.contracts.recipe import BUILTIN_TASK_NAMES, TaskSource
from components.contracts.rows import Dropped
from components.errors import UserError
from components.prepare.examples import Example
from components.prepare.tasks import make_examples
from components.verifiers import BUILTIN_TASKS, verify

ALPHABET = set("0123456789+*-=() ")


def made(seed: int = 0, **settings: Any) -> dict[str, list[Example]]:
    splits: dict[str, list[Example]] = {}
    for item in make_examples(TaskSource.model_validate(settings), seed):
        if not isinstance(item, Dropped):
            splits.setdefault(item[0], []).append(item[1])
    return splits


def lengths(examples: list[Example]) -> Counter[int]:
    return Counter(int(example.tags["length"]) for example in examples)


LADDER = {"labelled": [1, 8], "climb": [9, 12]}
SIZES = {"labelled": 400, "dev": 80, "unlabelled": 50, "validation": 100, "test": 100}


@pytest.mark.parametrize("task", ["reverse", "copy", "addition"])
def test_a_ladder_has_labels_up_to_its_labelled_length_only(task: str) -> None:
    splits = made(task=task, ladder=LADDER, **SIZES)
    assert max(lengths(splits["train"] + splits["dev"])) == 8
    assert lengths(splits["unlabelled"]) == dict.fromkeys(range(9, 13), 50)
    for name in ("validation", "test"):
        assert lengths(splits[name]) == dict.fromkeys(range(8, 13), 20)
    # The prompts that the plan is made by are of the same lengths; dev rows stop trainings.
    assert lengths(splits["dev_prompts"]) == dict.fromkeys(range(8, 13), 16)
    assert not any(example.is_asked for example in splits["dev"])
    for name in ("train", "dev"):
        assert set(lengths(splits[name])) == set(range(1, 9))
    assert lengths(splits["train"])[8] == 50


@pytest.mark.parametrize("task", ["reverse", "copy", "addition"])
def test_puzzles_are_distinct_over_all_splits_and_their_answers_right(
    task: str,
) -> None:
    examples = [
        example
        for rows in made(task=task, ladder=LADDER, **SIZES).values()
        for example in rows
    ]
    assert len({example.identity for example in examples}) == len(examples)
    for example in examples:
        assert set(example.prompt) <= ALPHABET
        assert example.completion is not None
        assert set(example.completion) <= ALPHABET
        assert verify(example.as_prompt(), example.completion)
        assert example.reference == {}
        assert example.tags["task"] == task


def test_a_dev_split_that_is_left_out_is_as_large_as_validation() -> None:
    sizes = {name: count for name, count in SIZES.items() if name != "dev"}
    splits = made(task="reverse", ladder=LADDER, **sizes)
    assert lengths(splits["dev_prompts"]) == lengths(splits["validation"])
    gym = made(task="reasoning_gym/chain_sum", **sizes)
    assert len(gym["dev"]) == len(gym["validation"]) == 100
    assert all(example.is_asked for example in gym["dev"])


def test_addition_writes_the_sum_of_two_equally_long_numbers_backwards() -> None:
    example = made(task="addition", ladder=LADDER, **SIZES)["test"][0]
    first, second = example.prompt.removesuffix("=").split("+")
    assert len(first) == len(second) == 8
    assert example.completion == str(int(first) + int(second))[::-1]


def test_a_recipe_can_name_every_built_in_task() -> None:
    assert set(BUILTIN_TASK_NAMES) == set(BUILTIN_TASKS)


def test_different_tasks_ask_in_different_forms() -> None:
    prompts = {
        task: made(task=task, ladder=LADDER, **SIZES)["train"][0].prompt
        for task in ("reverse", "copy", "addition")
    }
    shapes = {re.sub("[0-9]+", "n", prompt) for prompt in prompts.values()}
    assert shapes == {"n=", "(n)=", "n+n="}


def test_a_short_length_gives_fewer_rows_and_most_of_them_to_training() -> None:
    splits = made(task="reverse", ladder={"labelled": [1, 2], "climb": [3, 3]}, **SIZES)
    assert lengths(splits["train"])[1] >= 7
    assert lengths(splits["train"])[2] >= 60
    assert sum(lengths(rows)[1] for rows in splits.values()) <= 10
    assert splits["validation"]
    assert splits["unlabelled"]


def test_the_same_seed_makes_the_same_puzzles_and_another_seed_others() -> None:
    settings: dict[str, Any] = {"task": "reverse", "ladder": LADDER, **SIZES}
    assert made(1, **settings) == made(1, **settings)
    assert made(1, **settings)["test"] != made(2, **settings)["test"]


def test_numbers_of_any_length_can_be_drawn() -> None:
    splits = made(
        task="addition", ladder={"labelled": [1, 16], "climb": [17, 30]}, **SIZES
    )
    assert max(lengths(splits["unlabelled"])) == 30


@pytest.mark.parametrize(
    "name",
    [
        "gcd",
        "basic_arithmetic",
        "chain_sum",
        "countdown",
        "letter_counting",
        "mini_sudoku",
        "spell_backward",
        "graph_color",
    ],
)
def test_reasoning_gym_puzzles_are_checked_by_their_stored_entry(name: str) -> None:
    sizes = {"labelled": 6, "dev": 2, "unlabelled": 5, "validation": 3, "test": 3}
    if (
        name == "graph_color"
    ):  # has no answer of its own, so nobody could be taught with it
        with pytest.raises(UserError, match="accepts none of its own answers"):
            made(task=f"reasoning_gym/{name}", **sizes)
        return
    splits = made(task=f"reasoning_gym/{name}", **sizes)
    assert {split: len(rows) for split, rows in splits.items()} == {
        "train": 6,
        "dev": 2,
        "unlabelled": 5,
        "validation": 3,
        "test": 3,
    }
    examples = [example for rows in splits.values() for example in rows]
    assert len({example.identity for example in examples}) == len(examples)
    for example in examples:
        stored = type(example.as_prompt()).model_validate_json(
            example.as_prompt().model_dump_json()
        )
        assert verify(stored, example.completion or "")
        assert not verify(stored, "certainly not")


def test_a_task_with_few_puzzles_gives_every_split_its_share() -> None:
    sizes = {
        "labelled": 200,
        "dev": 50,
        "unlabelled": 500,
        "validation": 100,
        "test": 100,
    }
    splits = made(
        task="reasoning_gym/gcd",
        config={"min_value": 1, "max_value": 12, "min_numbers": 2, "max_numbers": 2},
        **sizes,
    )
    assert sum(map(len, splits.values())) <= 144
    assert all(
        splits[name] for name in ("train", "dev", "unlabelled", "validation", "test")
    )


@pytest.mark.parametrize(
    ("task", "config", "message"),
    [
        ("reasoning_gym/gdc", {}, "did you mean gcd"),
        ("reasoning_gym/gcd", {"minimum": 3}, "config refused.*min_numbers"),
        ("reasoning_gym/gcd", {"min_numbers": -3}, "config refused"),
        ("reasoning_gym/gcd", {"seed": 3}, "may not set seed"),
        ("reasoning_gym/simple_integration", {}, "as code"),
    ],
)
def test_a_task_that_cannot_be_made_is_an_error_with_the_remedy(
    task: str, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        made(task=task, config=config)
