"""Recipes of an older version: every renamed key and value is named with its new name."""

from __future__ import annotations

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
    ({"data.fractions": {"heldout": 0.2}}, "data.fractions.heldout is called data.fractions.dev"),
    ({"data.tasks.0.heldout": 8}, "data.tasks.0.heldout is called data.tasks.0.dev now"),
    ({"select": {"human_share": 0.4}}, "select.human_share is called select.labelled_share now"),
    (
        {"data.sources": [{"uri": "file:///d.jsonl", "split": "heldout"}]},
        "data.sources.0.split: heldout is called dev now",
    ),
]
"""(sections of an old recipe, what is said of them)."""


def recipe_with(changes: dict[str, Any]) -> dict[str, Any]:
    document: dict[str, Any] = {
        "name": "old",
        "data": {"tasks": [{"task": "copy", "ladder": {"labelled": [1, 2], "climb": [3, 3]}}]},
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


def test_a_list_in_the_place_of_a_word_is_an_error_and_no_traceback() -> None:
    sources = [{"uri": "file:///d.jsonl", "split": ["heldout"]}]
    with pytest.raises(UserError, match=r"data\.sources\.0\.split: Input should be 'auto'"):
        parse_recipe(recipe_with({"data.sources": sources}))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.human.0.limit=5", "data.human is called data.sources now"),
        ("data.fractions.heldout=0.2", "data.fractions.heldout is called data.fractions.dev now"),
        ("data.tasks.0.heldout=8", "data.tasks.0.heldout is called data.tasks.0.dev now"),
        ("select.human_share=0.4", "select.human_share is called select.labelled_share now"),
        (
            "select.influence.validation_rows=64",
            "select.influence.validation_rows is called select.influence.dev_rows now",
        ),
        ("data.sources.0.split=heldout", "data.sources.0.split: heldout is called dev now"),
    ],
)
def test_an_old_name_in_an_override_is_an_error_with_the_new_one(
    tmp_path: Path, override: str, said: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_with({"data.sources": [{"uri": "file:///d.jsonl"}]})))
    with pytest.raises(UserError, match=said):
        load_recipe(path, (override,))


def test_every_new_name_is_a_key_of_the_recipe() -> None:
    new = {
        "data.sources": [{"uri": "file:///d.jsonl", "split": "dev"}],
        "data.fractions.dev": 0.1,
        "data.tasks.0.dev": 8,
        "select.labelled_share": 0.4,
        "select.influence.dev_rows": 64,
    }
    assert set(RENAMED_KEYS.values()) == {key.replace(".0", "") for key in new}
    assert set(RENAMED_VALUES.values()) == {"dev"}
    parse_recipe(recipe_with(new))
