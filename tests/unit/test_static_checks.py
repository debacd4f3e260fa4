"""Mistakes in what a recipe names cost seconds, and leave no run behind."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from components.cli.local.static_checks import check_recipe
from components.cli.needed_packages import require_packages
from components.cli.needed_variables import needs_of
from components.contracts.recipe import Recipe
from components.errors import UserError
from tests.unit.tiny import save_tiny

pytestmark = pytest.mark.process


def recipe(folder: Path, verifier: str = "exact", **sections: Any) -> Recipe:
    data = folder / "qa.csv"
    data.write_text("question,answer\n2+2,4\n3+3,6\n")
    document = {
        "name": "r",
        "data": {"sources": [{"uri": str(data), "verifier": verifier}]},
        "decide": {"goal": {"threshold": 0.9}},
        **sections,
    }
    return Recipe.model_validate(document)


def check(folder: Path, **settings: Any) -> None:
    check_recipe(
        recipe(folder, **settings), folder / "recipe.yaml", {"HOME": str(folder)}
    )


def test_a_recipe_without_mistakes_passes(tmp_path: Path) -> None:
    save_tiny(tmp_path / "model")
    (tmp_path / "own.py").write_text(
        "def right(prompt, answer, reference):\n    return True\n"
    )
    check(tmp_path, model={"source": "~/model"}, verifier="own.py:right")
    check(tmp_path)
    # Nothing is fetched: whether a hub or a bucket has it, prepare finds out.
    check(tmp_path, model={"source": "hf://org/name@main"})
    check(tmp_path, model={"source": "release://name"})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("./nowhere", "no such folder"),
        ("org/name", r"hf://org/name@REVISION"),
        ("hf://org/name", "without a revision"),
        ("S3://bucket/x", "use a path"),
        ("./empty", "config.json is missing"),
        ("./weightless", "no weights"),
        ("./model.gguf", "no such file"),
    ],
)
def test_a_model_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("empty", "weightless"):
        (tmp_path / name).mkdir()
    (tmp_path / "weightless" / "config.json").write_text(
        json.dumps({"model_type": "llama"})
    )
    with pytest.raises(UserError, match=words):
        check(tmp_path, model={"source": source})


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, "there is no file"),
        ("def wrong(prompt, answer, reference): return True", "no function 'right'"),
        ("def right(prompt answer): pass", "line 1"),
        (
            "import no_such_package\ndef right(*arguments): return True",
            "no_such_package",
        ),
        (
            "def right(prompt, answer, reference):\n    return 1 / 0",
            "ZeroDivisionError",
        ),
        ("def right(prompt, answer, reference): return 'yes'", "own.py:right"),
    ],
)
def test_code_of_the_users_is_imported_and_tried(
    tmp_path: Path, code: str | None, words: str
) -> None:
    if code is not None:
        (tmp_path / "own.py").write_text(code + "\n")
    with pytest.raises(UserError, match=words):
        check(tmp_path, verifier="own.py:right")


@pytest.mark.parametrize(
    ("config", "layers", "words"),
    [
        ({"num_hidden_layers": 2}, {"extra": 3}, "extra 3: the base has 2 .*2 or less"),
        ({"num_hidden_layers": 2}, {"max_extra": 9}, "max_extra 9: the base has 2"),
        (
            {"num_hidden_layers": 2},
            {"extra": -2},
            "extra -2: the base has 2 .*-1 or more",
        ),
        ({"num_hidden_layers": 2}, {"min_extra": -2}, "min_extra -2: the base has 2"),
        ({"n_layer": 12}, {"extra": 13}, "extra 13: the base has 12"),
        ({"num_layers": 4}, {"extra": 5}, "extra 5: the base has 4"),
        ({"n_layers": 4}, {"extra": 5}, "extra 5: the base has 4"),
        ({"num_hidden_layers": 2}, {"extra": 2, "max_extra": 2, "min_extra": -1}, ""),
        ({"num_hidden_layers": "two"}, {"extra": 9}, ""),
        ({}, {"extra": 9}, ""),
    ],
)
def test_a_depth_that_the_base_cannot_have_is_told_before_any_task(
    tmp_path: Path, config: dict[str, Any], layers: dict[str, int], words: str
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    (folder / "model.safetensors").touch()
    settings = {"model": {"source": str(folder)}, "train": {"layers": layers}}
    if not words:
        check(tmp_path, **settings)
        return
    with pytest.raises(UserError, match=words):
        check(tmp_path, **settings)


def test_other_folders_that_are_missing_are_named_by_their_keys(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"select.reward.source: .*no such folder"):
        check(tmp_path, select={"reward": {"source": "~/reward"}})
    harness = {"harness": {"folder": "~/tasks", "tasks": ["one"]}}
    with pytest.raises(UserError, match=r"evaluate.harness.folder: .*no such folder"):
        check(tmp_path, evaluate=harness)


def test_a_gym_task_without_its_package_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = {"data": {"tasks": [{"task": "reasoning_gym/gcd"}]}}
    check(tmp_path, **tasks)
    # As Python sees a package that is not installed.
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)
    with pytest.raises(
        UserError, match=r"need the package reasoning-gym, .*: pip install"
    ):
        check(tmp_path, **tasks)
    check(tmp_path)


@pytest.mark.parametrize(
    ("sections", "variable", "words"),
    [
        ({"notify": {"url_env": "TEAM_WEBHOOK"}}, "TEAM_WEBHOOK", "the webhook's URL"),
        ({"select": {"judge": {"model": "m"}}}, "RATCHET_JUDGE_URL", "the judge's URL"),
        (
            {"announce": {"to": ["model-registry"]}},
            "MODEL_REGISTRY_URL",
            "the registry's address",
        ),
        (
            {"announce": {"to": ["mlflow"]}},
            "MLFLOW_TRACKING_URI",
            "the server's address",
        ),
        (
            {"generate": {"engine": "openai", "endpoint": {"model": "m"}}},
            "OPENAI_API_KEY",
            "the endpoint's key",
        ),
    ],
)
def test_a_service_whose_address_or_key_is_missing_is_told(
    tmp_path: Path, sections: dict[str, Any], variable: str, words: str
) -> None:
    with pytest.raises(
        UserError, match=f"needs the variable {variable}; set it to {words}"
    ):
        check(tmp_path, **sections)
    wanted = recipe(tmp_path, **sections)
    check_recipe(
        wanted, tmp_path / "recipe.yaml", {"HOME": str(tmp_path), variable: "x"}
    )
    # Containers of this machine get it.
    assert variable in [need.variable for need in needs_of(wanted)]


@pytest.mark.parametrize(
    ("package", "sections"),
    [
        ("vllm", {"generate": {"engine": "vllm"}}),
        ("openai", {"generate": {"engine": "openai", "endpoint": {"model": "m"}}}),
        ("lm_eval", {"evaluate": {"harness": {"folder": "tasks", "tasks": ["t"]}}}),
    ],
)
def test_a_package_that_a_later_step_imports_is_missed_before_the_first(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    package: str,
    sections: dict[str, Any],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    (key,) = sections
    with pytest.raises(
        UserError, match=rf"{key}\.\w+.* needs the package {package}, .*: install"
    ):
        require_packages(recipe(tmp_path, **sections))
    require_packages(recipe(tmp_path))
