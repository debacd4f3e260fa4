"""Recipes of an older version: every renamed key and value is named with its new name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.contracts.recipe_file import (
    RENAMED_KEYS,
    RENAMED_VALUES,
    load_recipe,
    parse_recipe,
    set_key,
)
from components.errors import UserError

OLD = [
    (
        {"data": {"human": [{"uri": "file:///d.jsonl", "split": "heldout"}]}},
        "data.human is called data.sources now",
    ),
    (
        {"data.fractions": {"heldout": 0.2}},
        "data.fractions.heldout is called data.fractions.dev",
    ),
    (
        {"data.tasks.0.heldout": 8},
        "data.tasks.0.heldout is called data.tasks.0.dev now",
    ),
    (
        {"select": {"diversity": {"rows": 9}}},
        "select.diversity is called select.keep now",
    ),
    (
        {"select": {"human_share": 0.4}},
        "select.human_share is called select.labelled_share now",
    ),
    (
        {"data.sources": [{"uri": "file:///d.jsonl", "split": "heldout"}]},
        "data.sources.0.split: heldout is called dev now",
    ),
]
"""(sections of an old recipe, what is said of them)."""


def recipe_with(changes: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": "old",
        "data": {
            "tasks": [{"task": "copy", "ladder": {"labelled": [1, 2], "climb": [3, 3]}}]
        },
        "decide": {"goal": {"threshold": 0.9}},
    }
    for path, value in changes.items():
        set_key(document, path, value)
    return document


@pytest.mark.parametrize(("changes", "said"), OLD, ids=[said for _, said in OLD])
def test_an_old_name_in_a_file_is_an_error_with_the_new_one(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_with(changes)))
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(f"{path}: {said}")


BOMB = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"a{number}: &a{number} [{', '.join([f'*a{number - 1}'] * 10)}]\n"
    for number in range(1, 10)
)
"""Ten lines that stand for ten billion values."""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"{BOMB}name: *a9\n", "more than 100,000 values"),
        (f"{BOMB}name: tiny\n", "more than 100,000 values"),
        ("x: &x [*x]\n", "an alias within itself"),
        (f"x: {'[' * 20_000}\n", "nested too deeply"),
        (f"x: {'{a: ' * 3_000}1{'}' * 3_000}\n", "nested too deeply"),
        (f"seed: {'9' * 5_000}\n", "a value cannot be read"),
        ("name: 2024-13-45\n", "a value cannot be read"),
        ("name: a\nname: b\n", "the key 'name' is written twice"),
        ("name: 2024-01-01\n", "name: expected text; put it in quotes"),
        ('"\\ud800": 1\n', "unable to parse raw data as a unicode string"),
        ("seed: .inf\n", "inf is no number that a recipe can hold"),
        ("", "expected a mapping of sections"),
    ],
    ids=lambda text: text[:24],
)
def test_hostile_yaml_is_one_line_and_takes_no_memory(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_recipe(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_list_in_the_place_of_a_word_is_an_error_and_no_traceback() -> None:
    sources = [{"uri": "file:///d.jsonl", "split": ["heldout"]}]
    with pytest.raises(
        UserError, match=r"data\.sources\.0\.split: Input should be 'auto'"
    ):
        parse_recipe(recipe_with({"data.sources": sources}))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.human.0.limit=5", "data.human is called data.sources now"),
        (
            "data.fractions.heldout=0.2",
            "data.fractions.heldout is called data.fractions.dev now",
        ),
        (
            "data.tasks.0.heldout=8",
            "data.tasks.0.heldout is called data.tasks.0.dev now",
        ),
        (
            "select.human_share=0.4",
            "select.human_share is called select.labelled_share now",
        ),
        (
            "select.influence.validation_rows=64",
            "select.influence.validation_rows is called select.influence.dev_rows now",
        ),
        (
            "data.sources.0.split=heldout",
            "data.sources.0.split: heldout is called dev now",
        ),
    ],
)
def test_an_old_name_in_an_override_is_an_error_with_the_new_one(
    tmp_path: Path, override: str, said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        yaml.safe_dump(recipe_with({"data.sources": [{"uri": "file:///d.jsonl"}]}))
    )
    with pytest.raises(UserError, match=said):
        load_recipe(path, (override,))


def test_every_new_name_is_a_key_of_the_recipe() -> None:
    new = {
        "data.sources": [{"uri": "file:///d.jsonl", "split": "dev"}],
        "data.fractions.dev": 0.1,
        "data.tasks.0.dev": 8,
        "select.keep": {"by": "random", "rows": 9},
        "select.labelled_share": 0.4,
        "select.influence.dev_rows": 64,
    }
    assert set(RENAMED_KEYS.values()) == {key.replace(".0", "") for key in new}
    assert set(RENAMED_VALUES.values()) == {"dev"}
    parse_recipe(recipe_with(new))


BASE = """name: x
data: {sources: [{uri: 'file:///d.jsonl'}]}
decide: {goal: {threshold: 0.5}}
"""


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "train: {max_gradient_norm: .inf}",
            r"train\.max_gradient_norm: inf .*such as 1e9",
        ),
        ("train: {weight_decay: .nan}", r"train\.weight_decay: nan is no number"),
        (
            "select: {max_length_ratio: 1e999}",
            r"select\.max_length_ratio: .*is no number",
        ),
        (
            "select: {likelihood: {base: [1, .inf]}}",
            r"select\.likelihood\.base\.1: inf is no",
        ),
        ("generate: {temperature: -.inf}", r"generate\.temperature: -inf is no number"),
        ("seed: 1\nseed: 2", "key 'seed' is written twice.*line 5"),
        (
            "train: {batch_size: 8, first: {}, batch_size: 8}",
            "key 'batch_size' is written twice",
        ),
        ("data: {}", "key 'data' is written twice.*line 4"),
        ("'seed': 1\nseed: 1", "key 'seed' is written twice"),
        ("seed: 010", "010 would be read as 8: write the number in decimal"),
        ("seed: 1:30", "1:30 would be read as 90"),
        ("train: {checkpoint_minutes: 1:30.5}", "1:30.5 would be read as 90.5"),
        (
            "select: {likelihood: {champion: [5, 1]}}",
            r"the lower end comes first: \[1, 5\]",
        ),
        (
            "select: {likelihood: {ratio: [1.5, 0.5]}}",
            r"select\.likelihood\.ratio: .*\[0.5, 1.5\]",
        ),
        (
            "select: {min_length_ratio: 5}",
            r"min_length_ratio \(5\) > max_length_ratio \(4\)",
        ),
        (
            "generate: {endpoint: {model: m, parameters: {x: .inf}}, engine: openai}",
            "inf is no",
        ),
    ],
    ids=str,
)
def test_what_yaml_reads_as_something_else_is_an_error_with_its_key(
    tmp_path: Path, text: str, said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{BASE}{text}\n")
    with pytest.raises(UserError, match=said):
        load_recipe(path)


def test_an_override_is_read_as_strictly_as_the_file(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(BASE)
    for override in (
        "train.first={steps: 1, steps: 2}",
        "seed=010",
        "train.weight_decay=.inf",
    ):
        with pytest.raises(UserError, match=r"written twice|read as 8|is no number"):
            load_recipe(path, (override,))
    assert (
        load_recipe(path, ("train.max_gradient_norm=1e9",)).train.max_gradient_norm
        == 1e9
    )


def test_merged_and_repeated_parts_of_a_recipe_are_no_keys_written_twice(
    tmp_path: Path,
) -> None:
    path = tmp_path / "recipe.yaml"
    parts = "train:\n  first: &short {steps: 5, learning_rate: 0.1}\n"
    path.write_text(
        f"{BASE}{parts}  rounds: {{<<: *short, steps: 7}}\n  pretrain: *short\n"
    )
    train = load_recipe(path).train
    assert (train.first.steps, train.rounds.steps, train.rounds.learning_rate) == (
        5,
        7,
        0.1,
    )
    assert train.pretrain == train.first


@pytest.mark.parametrize(
    ("override", "said"),
    [
        # A key of another section, below this one if there is one.
        ("max_rounds=3", "unknown key 'max_rounds': did you mean decide.max_rounds?"),
        ("decide.threshold=1", "did you mean decide.goal.threshold?"),
        ("data.verifier=exact", "did you mean data.sources.0.verifier?"),
        ("model.hidden_size=8", "did you mean model.scratch.hidden_size?"),
        # A typo of a key beside it comes first: other sections have a `source`.
        ("data.source=[]", "did you mean 'sources'?"),
        ("train.batchsize=8", "did you mean 'batch_size'?"),
        # A guess that resembles nothing would mislead.
        (
            "data.path=x",
            "unknown key 'data.path'; there are: sources, tasks, fractions, text, ",
        ),
        (
            "model.scratch.num_heads=3",
            "hidden_size 64 must be a multiple of num_heads 3",
        ),
        ("train=3", "train: expected a section, keys with their values (got 3)"),
        ("seed=1.5", "seed: expected a whole number (got 1.5)"),
        ("seed=abc", "seed: expected a whole number (got 'abc')"),
        (
            "select.verifier=maybe",
            "select.verifier: expected true or false (got 'maybe')",
        ),
        ("data.sources=3", "data.sources: expected a list (got 3)"),
        ("name=My Name", "name: a name has lower-case letters, digits and hyphens"),
        ("data.sources=[{uri: a.csv, verifier: EXACT}]", "Did you mean 'exact'?"),
        ("=1", "--set =1: write section.key=value"),
        ("train..steps=1", "--set train..steps=1: write section.key=value"),
    ],
)
def test_a_wrong_key_or_value_is_told_in_words_of_a_recipe(
    tmp_path: Path, override: str, said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_with({})), encoding="utf-8")
    with pytest.raises(UserError, match=re.escape(said)):
        load_recipe(path, (override,))


def test_a_section_that_contradicts_itself_is_not_printed_whole() -> None:
    settings = {
        "engine": "openai",
        "prompts_per_round": 305,
        "samples_per_prompt": 4,
        "shards": 2,
    }
    with pytest.raises(UserError, match=r"belong together: give both or neither$"):
        parse_recipe(recipe_with({"generate": settings}))


def test_a_compiled_pipeline_is_no_recipe_and_is_told_as_what_it_is(
    tmp_path: Path,
) -> None:
    path = tmp_path / "pipeline.yaml"
    path.write_text("# PIPELINE DEFINITION\n# Name: ratchet-tiny\na: 1\n---\nb: 2\n")
    with pytest.raises(UserError, match=r"pipeline\.yaml: this is a compiled pipeline"):
        load_recipe(path)


def test_a_recipe_in_another_encoding_is_told_so(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("name: b\u00fc\n", encoding="latin-1")
    with pytest.raises(
        UserError, match=r"recipe\.yaml: not UTF-8 text; save it as UTF-8$"
    ):
        load_recipe(path)


@pytest.mark.parametrize(
    ("key", "number"),
    [
        ("train.rounds.steps", True),
        ("train.layers.trained", True),
        ("train.micro_batch_size", False),
        ("train.first.learning_rate", True),
        ("seed", False),
        ("generate.top_k", False),
        ("data.sources.0.limit", True),
        ("select.likelihood.base", [True, 3]),
    ],
)
def test_true_in_the_place_of_a_number_is_an_error_and_not_1(
    key: str, number: object
) -> None:
    document = recipe_with({"data.sources": [{"uri": "file:///d.jsonl"}], key: number})
    with pytest.raises(
        UserError, match=f"{re.escape(key)}: expected a number, and this is true"
    ):
        parse_recipe(document)


def test_switches_take_true_also_where_they_may_have_a_word() -> None:
    changes = {"train.offload": True, "train.zero": 1, "select.verifier": True}
    assert parse_recipe(recipe_with(changes)).train.offload is True


@pytest.mark.parametrize(
    ("key", "wrong", "said"),
    [
        (
            "train.layers.trained",
            "last",
            "Input should be 'all' or 'inserted', or: expected a w",
        ),
        (
            "train.layers.trained",
            0,
            "Input should be 'all' or 'inserted', or: Input should be gr",
        ),
        (
            "train.lora.targets",
            "q_proj",
            "expected a list, or: Input should be 'all-linear'",
        ),
        (
            "train.offload",
            "perhaps",
            "expected true or false, or: Input should be 'auto'",
        ),
        (
            "train.micro_batch_size",
            -1,
            "Input should be greater than or equal to 1, or: Input",
        ),
        ("announce.to", [], "expected more entries"),
    ],
)
def test_a_wrong_value_is_told_once_by_its_key(
    key: str, wrong: object, said: str
) -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(recipe_with({key: wrong}))
    assert str(caught.value).startswith(f"recipe: {key}: {said}")
    assert ";" not in str(caught.value)


def test_a_wrong_entry_of_a_list_is_no_list_that_is_too_short() -> None:
    with pytest.raises(UserError) as caught:
        parse_recipe(recipe_with({"announce.to": ["mlfow"]}))
    assert str(caught.value).startswith(
        "recipe: announce.to.0: Input should be 'model-registry'"
    )
    assert ";" not in str(caught.value)


def test_a_key_of_a_section_that_is_null_can_be_set(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(f"{BASE}train: {{lora: null, rounds: {{augmentation: null}}}}\n")
    recipe = load_recipe(
        path, ("train.lora.rank=3", "train.rounds.augmentation.word_swap=0.1")
    )
    assert recipe.train.lora is not None
    assert recipe.train.lora.rank == 3
    assert recipe.train.rounds.augmentation is not None
    with pytest.raises(UserError, match=r"recipe key seed\.x\.y: no such section"):
        load_recipe(path, ("seed=1", "seed.x.y=2"))
