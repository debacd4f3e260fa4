"""A sweep of the small campaign: what combinations share is done once, and twice is once."""

from __future__ import annotations

import json
from typing import Any

from components.report.runs import begun_runs, load_run
from tests.pipeline.campaigns import Place
from tests.pipeline.conftest import MakePlace

SWEEP = (
    "recipe.yaml",
    "--json",
    "--rounds=1",
    "--over",
    "select.labelled_share=0.4,0.6",
)


def swept(place: Place, *arguments: str) -> tuple[int, dict[str, Any], str]:
    done = place.cli("sweep", *SWEEP, *arguments)
    return done.returncode, json.loads(done.stdout), done.stderr


def test_a_sweep_does_shared_work_once_and_continues_where_it_was(
    make_place: MakePlace,
) -> None:
    place = make_place({"decide.max_rounds": 1})
    # A sweep that got no further than its first combination.
    first = place.run(
        "--rounds=1", "--set=select.labelled_share=0.4", "--set=publish.release=false"
    )
    assert not first.told["published"], first.said
    code, document, said = swept(place)
    runs = document["runs"]
    # No champion met the goal.
    assert code == 1, said
    assert [run["settings"] for run in runs] == [
        {"select.labelled_share": 0.4},
        {"select.labelled_share": 0.6},
    ]
    assert runs[0]["run_id"] == first.told["run_id"]
    assert runs[0]["score"] == first.told["champion_score"]
    assert [(run["rounds"], run["exit_code"]) for run in runs] == [(2, 1), (2, 1)]
    assert all(run["vendi"] > 1 and run["distinct_samples"] is not None for run in runs)
    assert any(run["on_front"] for run in runs)
    assert "2 of 2: select.labelled_share=0.6" in said
    second = load_run(place.context, runs[1]["run_id"])
    status = {task.name: task.status for task in second.tasks}
    shared = (
        "evaluate-base",
        "train-r0",
        "evaluate-r0",
        "generate-r1-s0",
        "generate-r1-s1",
    )
    assert [status[name] for name in shared] == ["reused"] * 5
    assert status["train-r1"] == "done"
    # Trials open and release nothing.
    assert not list(place.context.store.list("openings/"))
    assert not list(place.context.store.list("models/"))
    # Once more: nothing is done anew, and the outcome is the same.
    receipts = place.receipts()
    assert swept(place)[:2] == (code, document)
    assert place.receipts() == receipts
    assert len(begun_runs(place.context)) == 2


def test_a_combination_that_fails_ends_no_other(make_place: MakePlace) -> None:
    place = make_place({"decide.max_rounds": 1, "train.too_long": "error"})
    over = ("--over", "train.max_length=4,16")
    done = place.cli("sweep", "recipe.yaml", "--json", "--rounds=0", *over)
    document = json.loads(done.stdout)
    failed, whole = document["runs"]
    assert done.returncode == 2, done.stderr
    assert (failed["exit_code"], failed["on_front"]) == (2, False)
    assert "train.max_length" in failed["error"]
    assert f"error: train.max_length=4: {failed['error']}" in done.stderr
    assert whole["error"] == ""
    assert whole["on_front"]


def test_an_augmentation_of_nothing_is_the_same_training_and_any_other_is_not(
    make_place: MakePlace,
) -> None:
    place = make_place({"decide.max_rounds": 1})
    over = ("--over", "train.rounds.augmentation=null,{},{word_dropout: 0.3}")
    done = place.cli("sweep", "recipe.yaml", "--json", "--rounds=1", *over)
    assert done.returncode == 1, done.stderr
    runs = json.loads(done.stdout)["runs"]
    views = [load_run(place.context, run["run_id"]) for run in runs]
    trainings = [{task.name: task for task in view.tasks}["train-r1"] for view in views]
    assert [task.status for task in trainings] == ["done", "reused", "done"]
    assert trainings[0].last.receipt == trainings[1].last.receipt
    losses = [view.rounds[1].train.final_loss for view in views if view.rounds[1].train]
    assert losses[0] == losses[1] != losses[2]
