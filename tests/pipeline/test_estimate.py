"""`estimate` against a whole campaign: from its records, and from a trial that knows nothing of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from components.cli.estimate.forecast import TASK_GAP_SECONDS
from tests.pipeline.campaigns import Place, Run
from tests.pipeline.conftest import MakePlace


def estimated(place: Place, *arguments: str) -> dict[str, Any]:
    done = place.cli("estimate", "recipe.yaml", "--rounds=2", "--json", *arguments)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def files_of(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


def tokens_of(document: dict[str, Any]) -> float:
    most = document["most"]
    return float(most["tokens_trained"] + most["tokens_sampled"])


def test_the_records_of_a_run_tell_what_the_same_run_costs(
    whole: tuple[Place, Run],
) -> None:
    place, run = whole
    document = estimated(place)
    assert document["calibration"]["source"] == "earlier run"
    assert document["calibration"]["run_id"] == run.told["run_id"]
    assert tokens_of(document) == pytest.approx(run.told["tokens"], rel=0.01)
    # Longer rounds cost more: of 28 steps in place of 14.
    longer = estimated(place, "--set", "train.rounds.steps=28")
    training, longer_training = (
        next(line for line in each["each_round"] if line["task"] == "train")
        for each in (document, longer)
    )
    assert longer_training["tokens_trained"] == pytest.approx(
        2 * training["tokens_trained"]
    )


def test_a_trial_tells_the_tokens_of_a_run_and_leaves_nothing_behind(
    whole: tuple[Place, Run],
) -> None:
    place, run = whole
    earlier_files = files_of(place.store)
    document = estimated(place, "--trial", "--price", "machine-hour=2")
    assert document["calibration"]["source"] == "trial"
    assert tokens_of(document) == pytest.approx(run.told["tokens"], rel=0.25)
    for lines, tasks in (
        ("before_rounds", ["prepare", "evaluate-base", "train-r0", "evaluate-r0"]),
        ("each_round", ["generate", "train", "evaluate"]),
    ):
        seconds = {line["task"]: line["seconds"] for line in document[lines]}
        assert all(seconds[task] > TASK_GAP_SECONDS for task in tasks), (
            "each was tried out"
        )
    assert document["most"]["money"] == pytest.approx(
        document["most"]["seconds"] / 1800
    )
    assert document["least"]["seconds"] < document["most"]["seconds"]
    assert files_of(place.store) == earlier_files


def test_what_a_run_would_refuse_is_refused_in_one_line(make_place: MakePlace) -> None:
    # A hundred validation prompts cannot prove a gain at such a level.
    place = make_place({"decide.alpha": 1e-40})
    done = place.cli("estimate", "recipe.yaml", "--json")
    assert (done.returncode, done.stdout) == (2, "")
    [error] = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "this recipe can never promote: validation has 100 prompts" in error
    assert "Traceback" not in done.stderr
    assert not place.store.exists()
