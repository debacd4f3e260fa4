"""`init` writes a recipe that fits somebody's file, or says in one line why it cannot."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

from components.cli.first_steps.answers import (
    require_check,
    require_data,
    require_model,
)
from components.cli.first_steps.new_recipe import Wishes, name_of, new_recipe
from components.cli.first_steps.try_model import Models, Settings, prompts_of
from components.cli.main import Verbs
from components.cli.shipped_recipes import find_recipe
from components.contracts.recipe_file import parse_recipe
from components.errors import UserError
from components.runtime.context import make_context

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


def test_long_answers_get_room_and_near_duplicates_of_them_are_dropped(
    tmp_path: Path,
) -> None:
    data = table(tmp_path, 400, answer="because " * 60)
    recipe = parse_recipe(
        yaml.safe_load(new_recipe(Wishes(data, HUB, "exact", "n"), {}).text)
    )
    assert recipe.select.minhash_threshold < 1.0
    assert recipe.generate.max_new_tokens > 480


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (0, "no usable row"),
        (3, "split .* is empty|never promote"),
        (20, "never promote"),
    ],
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


def test_columns_of_other_names_are_given_by_options(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [f"How much is {number}?,{number}" for number in range(200)]
    path.write_text("\n".join(["ask,reply", *lines]) + "\n")
    fields = {"prompt_field": "ask", "completion_field": "reply"}
    with pytest.raises(
        UserError, match="here: --prompt-field NAME and --completion-field NAME"
    ):
        new_recipe(Wishes(str(path), HUB, "exact", "n"), {})
    written = new_recipe(Wishes(str(path), HUB, "exact", "n", fields), {})
    (source,) = parse_recipe(yaml.safe_load(written.text)).data.sources
    assert (source.prompt_field, source.completion_field) == ("ask", "reply")
    assert sum(written.counts.values()) == 200
    with pytest.raises(UserError, match="--prompt-field"):
        prompts_of(str(path), "exact", {}, 3)
    assert len(prompts_of(str(path), "exact", {}, 3, fields)) == 3


def test_a_recipe_releases_under_its_own_name(tmp_path: Path) -> None:
    data = table(tmp_path, 400)
    recipe = parse_recipe(
        yaml.safe_load(new_recipe(Wishes(data, HUB, "exact", "n"), {}).text)
    )
    # Else the next file's model would be compared with this one's release.
    assert recipe.publish.name == recipe.name == "n"


def test_a_check_that_fits_no_answer_is_named_and_not_the_empty_splits(
    tmp_path: Path,
) -> None:
    data = table(tmp_path, 400, answer="even")
    with pytest.raises(UserError, match=r"check numeric refuses the answer .* 'even'"):
        new_recipe(Wishes(data, HUB, "numeric", "n"), {})


def test_rows_that_teach_one_answer_are_warned_of(tmp_path: Path) -> None:
    data = table(tmp_path, 400)
    assert (
        "all 400 answers are '4'"
        in new_recipe(Wishes(data, HUB, "exact", "n"), {}).warning
    )
    with (tmp_path / "My Questions.csv").open("a") as file:
        file.write("How much is nothing?,0\n")
    assert new_recipe(Wishes(data, HUB, "exact", "n"), {}).warning == ""


def test_what_is_typed_is_taken_as_a_person_means_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    table(tmp_path, 1)
    name = "My Questions.csv"
    for answer in (name, f" {name} ", f"'{name}'", f'"{name}"', r"My\ Questions.csv"):
        assert require_data(answer) == name
    for answer in ("", "My Question.csv", "'", "a b c"):
        with pytest.raises(UserError):
            require_data(answer)
    assert require_model("Scratch ") == "scratch"
    assert require_model(HUB) == HUB
    with pytest.raises(
        UserError, match="if you mean a model of the hub, write hf://org/name@"
    ):
        require_model("org/name")
    assert require_check(" Votes") == "votes"
    with pytest.raises(UserError, match="Did you mean 'numeric'"):
        require_check("numerik")


def test_the_bare_name_of_a_shipped_recipe_is_told_the_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("demo", "demo.yaml"):
        with pytest.raises(UserError, match=r"did you mean recipes/demo\.yaml"):
            find_recipe(Path(name))
    # Whoever names a folder, or another kind of file, means one of their own.
    for name in (
        "mine.yaml",
        "demo.txt",
        "x/demo.yaml",
        "../demo.yaml",
        "",
        "recipes/mine.yaml",
    ):
        assert find_recipe(Path(name)) == Path(name)
    Path("demo.yaml").touch()
    assert find_recipe(Path("demo.yaml")) == Path("demo.yaml")


def test_a_path_that_a_verb_cannot_use_is_named_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def read(path: Path) -> None:
        path.read_bytes()

    @app.command()
    def make(path: Path) -> None:
        path.mkdir()

    for verb, path, reason in (
        ("read", tmp_path, "Is a directory"),
        ("read", tmp_path / "file" / "x", "Not a directory"),
        ("make", tmp_path / "file" / "x", "Not a directory"),
        ("make", tmp_path / "file", "File exists"),
    ):
        done = CliRunner().invoke(app, [verb, str(path)])
        assert done.exit_code == UserError.exit_code
        assert (
            done.output.replace("\n", "") == f"error: {path} cannot be used: {reason}"
        )


def test_a_question_that_nobody_answers_ends_like_a_verb_that_is_stopped() -> None:
    app = typer.Typer(cls=Verbs, pretty_exceptions_enable=False, rich_markup_mode=None)

    @app.command()
    def ask() -> None:
        typer.prompt("How many")

    @app.command()
    def say() -> None:
        pass

    done = CliRunner().invoke(app, ["ask"], input="")
    assert done.exit_code == 130
    assert "error: stopped; nothing was written" in done.output


def test_a_model_in_a_folder_whose_name_no_run_can_have_is_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    context = make_context((tmp_path / "store").as_uri(), {})
    settings = Settings(temperature=0.0, max_new_tokens=1, system_prompt="")
    for name in ("my model", "größe", "a..b", "~x", "Model (1)", "nosuch"):
        with pytest.raises(
            UserError, match=f"no model: {re.escape(name)}: no such folder"
        ):
            Models(context, name, settings, compare=False)
    # It names no model: it is the run that is not there.
    for compare in (False, True):
        with pytest.raises(UserError, match="holds no run yet"):
            Models(context, "latest", settings, compare=compare)
