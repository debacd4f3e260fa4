"""Combinations of settings, the Pareto front of what they came to, and errors before a run begins."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from components.cli.sweep.grid import Axis, axes_of, combinations_of
from components.cli.sweep.outcomes import (
    SweptRun,
    exit_code_of_all,
    swept_run,
    with_front,
)
from components.cli.sweep.table import print_swept_runs
from components.errors import UserError
from components.report.runs import load_run
from components.runtime.context import Context
from tests.unit.commanding import TINY, cli
from tests.unit.handmade import whole_campaign


def ended(score: float | None, vendi: float | None, **more: Any) -> SweptRun:
    common = {
        "settings": {"select.min_vote_share": 0.5},
        "run_id": f"run-{score}-{vendi}",
        "exit_code": 1,
        "error": "",
        "rounds": 3,
        "promoted": 1,
        "target_met": False,
        "metric": "accuracy",
        "score": score,
        "vendi": vendi,
    }
    return SweptRun.model_validate({**common, **more})


def test_values_are_written_as_those_of_set() -> None:
    assert axes_of(
        ["a.b=0.5,0.7", "c=x, 'y,z' ,null", "train.lora.targets=[q],[q, v]", "d=1"]
    ) == [
        Axis("a.b", (0.5, 0.7)),
        Axis("c", ("x", "y,z", None)),
        Axis("train.lora.targets", (["q"], ["q", "v"])),
        Axis("d", (1,)),
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["select.threshold"],
            "--over select.threshold: write section.key=value,value",
        ),
        (["a..b=1"], "--over a..b=1: write section.key=value,value"),
        (["=1,2"], "--over =1,2: write section.key=value,value"),
        (["a.b="], "--over a.b=: write section.key=value,value"),
        (["a.b=1],[2"], "the values are not YAML"),
        (["a.b=1, {"], "the values are not YAML"),
        (["a.b=010"], "write the number in decimal"),
        (["a.b=1", "a.b=2"], "a.b is named twice"),
        (["publish.release=true,false"], "a sweep releases nothing"),
    ],
)
def test_an_option_that_cannot_be_read_is_one_line(
    options: list[str], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        axes_of(options)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def combinations(folder: Path, *options: str, overrides: tuple[str, ...] = ()) -> Any:
    (folder / "r.yaml").write_text(TINY)
    return combinations_of(folder / "r.yaml", overrides, axes_of(options))


def test_every_combination_is_a_recipe_of_its_own_that_releases_nothing(
    tmp_path: Path,
) -> None:
    swept = combinations(
        tmp_path,
        "generate.temperature=0.7,1",
        "train.lora=null,{rank: 2}",
        "train.rounds.learning_rate=1e-05,2.5e-7",
        overrides=("seed=4",),
    )
    assert [one.text for one in swept][:3] == [
        "generate.temperature=0.7 train.lora=null train.rounds.learning_rate=1e-05",
        "generate.temperature=0.7 train.lora=null train.rounds.learning_rate=2.5e-07",
        'generate.temperature=0.7 train.lora={"rank": 2} train.rounds.learning_rate=1e-05',
    ]
    assert len({one.recipe.run_id for one in swept}) == 8
    for one in swept:
        recipe = one.recipe
        assert (recipe.seed, recipe.publish.release) == (4, False)
        assert recipe.generate.temperature == one.settings["generate.temperature"]
        assert recipe.train.rounds.learning_rate in (1e-5, 2.5e-7)
    assert swept[2].recipe.train.lora.rank == 2


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            ["select.min_vote_shar=0.5,1"],
            "unknown key 'select.min_vote_shar': did you mean",
        ),
        (
            ["generate.temperature=0.7,hot"],
            "generate.temperature: expected a number (got 'hot')",
        ),
        (
            ["generate.temperature=0.7,0.70"],
            "is the same recipe as generate.temperature=0.7",
        ),
        (
            ["seed=" + ",".join(map(str, range(101)))],
            "101 combinations, and 100 are the most",
        ),
        (["name=2026-01-01"], "put text in quotes"),
    ],
)
def test_a_combination_that_is_no_recipe_is_refused_before_any_begins(
    tmp_path: Path, options: list[str], words: str
) -> None:
    with pytest.raises(UserError) as caught:
        combinations(tmp_path, *options)
    assert words in str(caught.value)


@pytest.mark.process
def test_wrong_usage_leaves_no_store_behind(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(TINY)
    for options in (
        ("r.yaml",),
        ("r.yaml", "--over", "generate.temperatur=1"),
        ("r.yaml", "--over", "seed=1", "--quality", "beauty"),
        ("none.yaml", "--over", "seed=1"),
    ):
        done = cli(tmp_path, "sweep", *options, columns=300)
        assert done.returncode == 2, done.stderr
        assert "Traceback" not in done.stderr
    assert not (tmp_path / ".ratchet").exists()


def test_the_front_is_what_no_other_campaign_beats() -> None:
    runs = [
        ended(0.9, 2.0),
        ended(0.8, 4.0),
        ended(0.8, 3.0),
        ended(0.7, 4.0),
        ended(0.5, 9.0),
    ]
    assert [run.on_front for run in with_front(runs, "score", "vendi")] == [
        True,
        True,
        False,
        False,
        True,
    ]
    # Equals beat nobody, and what failed or was not measured is no point at all.
    runs = [
        ended(0.9, 2.0),
        ended(0.9, 2.0),
        ended(1.0, 9.0, error="train: lost"),
        ended(1.0, None),
    ]
    assert [run.on_front for run in with_front(runs, "score", "vendi")] == [
        True,
        True,
        False,
        False,
    ]
    # A perplexity is better when it is lower.
    runs = [ended(9.0, 2.0, metric="perplexity"), ended(8.0, 2.0, metric="perplexity")]
    assert [run.on_front for run in with_front(runs, "score", "vendi")] == [False, True]
    runs = [
        ended(0.1, 9, consistency=0.5, distinct_2=0.2),
        ended(0.9, 1, consistency=0.6, distinct_2=0.1),
    ]
    assert [run.on_front for run in with_front(runs, "consistency", "distinct_2")] == [
        True,
        True,
    ]
    assert [run.on_front for run in with_front(runs, "score", "distinct_samples")] == [
        False,
        False,
    ]


def test_the_exit_status_is_that_of_the_first_failure_else_of_the_goal() -> None:
    good, bad = ended(0.9, 1.0, target_met=True), ended(0.1, 1.0)
    failed = [ended(0.1, 1.0, error="x", exit_code=code) for code in (3, 75)]
    assert exit_code_of_all([bad, good]) == 0
    assert exit_code_of_all([bad, bad]) == 1
    assert exit_code_of_all([good, *failed]) == 3


@pytest.mark.parametrize("columns", [40, 80, 160])
def test_a_table_is_readable_on_any_terminal(context: Context, columns: int) -> None:
    made = whole_campaign(context)
    view = load_run(context, made.run_id)
    (combination,) = combinations(
        Path(context.scratch.parent), "generate.temperature=0.7"
    )
    run = swept_run(combination, view, 0, "")
    assert (run.metric, run.score, run.promoted, run.rounds) == ("accuracy", 0.93, 3, 4)
    text = io.StringIO()
    console = Console(file=text, width=columns)
    print_swept_runs(
        console, with_front([run, ended(0.2, 0.1)], "score", "vendi"), "score and vendi"
    )
    written = text.getvalue()
    assert max(map(len, written.splitlines())) <= columns
    assert "93.0 %" in written
    assert json.loads(run.model_dump_json())["settings"] == {
        "generate.temperature": 0.7
    }


def test_a_shipped_recipe_can_be_swept() -> None:
    path = Path(__file__).resolve().parents[2] / "recipes" / "self-feedback.yaml"
    swept = combinations_of(
        path,
        (),
        axes_of(["select.min_vote_share=0.5,0.75,1.0", "generate.temperature=0.7,1.0"]),
    )
    assert len(swept) == 6
