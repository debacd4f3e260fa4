"""`init` writes a recipe that fits somebody's file, or says in one line why it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from components.cli.first_steps.new_recipe import Wishes, name_of, new_recipe
from components.contracts.recipe_file import parse_recipe
from components.errors import UserError

HUB = "hf://HuggingFaceTB/SmolLM2-135M-Instruct@main"


def table(folder: Path, rows: int, answer: str = "4") -> str:
    path = folder / "My Questions.csv"
    lines = [f"How much is {number}?,{answer}" for number in range(rows)]
    path.write_text("\n".join(["question,answer", *lines]) + "\n")
    return str(path)


@pytest.mark.parametrize("model", [HUB, "scratch", "~/models/base"])
@pytest.mark.parametrize("check", ["exact", "numeric", "votes", "check.py:accepts"])
def test_the_recipe_is_valid_and_says_what_was_asked_for(
    tmp_path: Path, model: str, check: str
) -> None:
    data = table(tmp_path, 400)
    written = new_recipe(Wishes(data, model, check, name_of(data)), {})
    recipe = parse_recipe(yaml.safe_load(written.text))
    assert recipe.name == "my-questions"
    assert recipe.model.source == model
    (source,) = recipe.data.sources
    assert source.uri == data
    assert source.verifier == ("exact" if check == "votes" else check)
    assert recipe.select.verifier == (check != "votes")
    assert (recipe.select.min_vote_share > 0) == (check == "votes")
    # Questions of one form with answers of one letter are all near-duplicates.
    assert recipe.select.minhash_threshold == 1.0
    assert recipe.generate.max_new_tokens < 40
    # A person finds a comment where a decision is.
    assert written.text.count("#") >= 6
    if ":" not in check:
        assert sum(written.counts.values()) == 400
        assert "smallest gain" in written.outlook


@pytest.mark.parametrize(
    ("file", "model"),
    [
        # A year is a number to YAML, and "no" is false.
        ("2024.csv", HUB),
        ("no.csv", HUB),
        ("a/" + "long folder " * 12 + "/rows.csv", HUB),
        ("rows: all #1.csv", "/models/base: small #1"),
        ("Fragen für {alle}.csv", "~/Modelle/größer"),
    ],
)
def test_names_that_mean_something_to_yaml_stay_as_they_are(
    tmp_path: Path, file: str, model: str
) -> None:
    data = tmp_path / file
    data.parent.mkdir(parents=True, exist_ok=True)
    Path(table(tmp_path, 400)).rename(data)
    written = new_recipe(Wishes(str(data), model, "exact", name_of(file)), {})
    recipe = parse_recipe(yaml.safe_load(written.text))
    assert recipe.name == name_of(file)
    assert recipe.model.source == model
    assert recipe.data.sources[0].uri == str(data)


def test_long_answers_get_room_and_near_duplicates_of_them_are_dropped(tmp_path: Path) -> None:
    data = table(tmp_path, 400, answer="because " * 60)
    recipe = parse_recipe(yaml.safe_load(new_recipe(Wishes(data, HUB, "exact", "n"), {}).text))
    assert recipe.select.minhash_threshold < 1.0
    assert recipe.generate.max_new_tokens > 480


@pytest.mark.parametrize(
    ("rows", "words"),
    [(0, "no usable row"), (3, "split .* is empty|never promote"), (20, "never promote")],
)
def test_a_file_that_can_prove_nothing_is_told_at_once(
    tmp_path: Path, rows: int, words: str
) -> None:
    with pytest.raises(UserError, match=words):
        new_recipe(Wishes(table(tmp_path, rows), HUB, "exact", "n"), {})


def test_a_file_of_prose_and_an_unknown_check_are_refused(tmp_path: Path) -> None:
    prose = tmp_path / "prose.txt"
    prose.write_text("Once upon a time.\n\nThe end.\n")
    with pytest.raises(UserError, match=r"prose.txt: no row asks a question"):
        new_recipe(Wishes(str(prose), HUB, "exact", "n"), {})
    with pytest.raises(UserError, match="check 'numerik'"):
        new_recipe(Wishes(table(tmp_path, 400), HUB, "numerik", "n"), {})
