"""What is carried out, and what is not, in every way a campaign can go: through the real command
line, without mocks.

A guard that is wrongly false skips its round and the run still succeeds, so each test asserts the
exact list of tasks. Those that are compared with the campaign `whole` stand in this file, so that
one process of the tests has it; test_scenario_ends.py has the others.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from components.storage.store import open_store
from tests.conftest import SECRET_KEY, S3Server
from tests.pipeline.campaigns import (
    END,
    ROUND_0,
    Place,
    Run,
    assert_published,
    round_tasks,
    state_object,
)
from tests.pipeline.conftest import MakePlace
from tests.waiting import wait_until


def test_all_unrolled_rounds_run_until_max_rounds(whole: tuple[Place, Run]) -> None:
    place, run = whole
    assert run.executed == [*ROUND_0, *round_tasks(1), *round_tasks(2), *END], run.said
    assert (run.code, run.told["stop"], run.told["target_met"]) == (
        1,
        "max_rounds",
        False,
    )
    assert run.verdicts == ["promoted", "promoted", "promoted"]
    assert run.accuracies == sorted(run.accuracies)
    assert_published(place, run, champion_round=2)
    assert [one["accepted"] > 0 for one in run.told["rounds"]] == [False, True, True]
    assert run.told["problems"] == []
    assert Path(run.told["report"]).read_text().startswith("<!doctype html>")


def test_rounds_after_the_target_only_hand_the_state_on(
    whole: tuple[Place, Run], make_place: MakePlace
) -> None:
    _, before = whole
    threshold = (before.accuracies[1] + before.accuracies[2]) / 2
    place = make_place(
        {
            "decide.goal.threshold": threshold,
            "decide.max_rounds": 4,
            "generate.shards": 1,
        }
    )
    run = place.run("--rounds", "4")
    assert run.executed == [
        *ROUND_0,
        *round_tasks(1, 1),
        *round_tasks(2, 1),
        "pass-through-r3",
        "pass-through-r4",
        *END,
    ], run.said
    assert (run.code, run.told["stop"], run.told["target_met"]) == (0, "target", True)
    assert run.verdicts == ["promoted", "promoted", "promoted"]
    assert run.errors == []
    assert_published(place, run, champion_round=2)
    # The samples do not depend on the number of shards, nor training on the goal.
    assert run.accuracies == before.accuracies


def test_a_first_stage_that_ruins_the_users_model_is_rejected_and_nothing_published(
    whole: tuple[Place, Run], make_place: MakePlace
) -> None:
    """The promise: never worse than what you came with."""
    finished, taught = whole
    place = make_place(
        {
            "model": {"source": (finished.store / taught.told["model"]).as_uri()},
            "train.first": {"steps": 4, "learning_rate": 1.0},
            "train.rounds.learning_rate": 1e-9,
            "decide.max_rounds": 1,
            "generate.shards": 1,
        }
    )
    run = place.run("--rounds", "1")
    assert run.executed == [*ROUND_0, *round_tasks(1, 1), *END], run.said
    assert run.verdicts == ["rejected", "rejected"]
    assert (run.code, run.told["published"], run.told["model"]) == (1, False, "")
    assert run.told["release"].startswith("the champion is the base model")
    assert run.told["champion_round"] is None
    assert run.told["base_score"] == run.told["champion_score"] == taught.accuracies[2]
    assert run.accuracies[0] < run.accuracies[1] == run.told["base_score"]
    assert not (place.store / "models").exists()
    assert (
        "Nothing was released: the champion is the base"
        in Path(run.told["report"]).read_text()
    )
    assert place.cli("verify").returncode == 0


def test_self_improvement_may_begin_with_the_base(
    whole: tuple[Place, Run], make_place: MakePlace
) -> None:
    finished, taught = whole
    place = make_place(
        {
            "model": {"source": (finished.store / taught.told["model"]).as_uri()},
            "train.first": {"steps": 0},
            "train.rounds": {"steps": 60, "learning_rate": 0.003},
            "decide.max_rounds": 1,
            "generate.shards": 1,
        }
    )
    run = place.run("--rounds", "1")
    base = ["prepare", "evaluate-base", "first-champion", "pass-through-r0"]
    assert run.executed == [*base, *round_tasks(1, 1), *END], run.said
    assert [one["round"] for one in run.told["rounds"]] == [1]
    assert run.verdicts == ["promoted"]
    assert run.told["base_score"] == taught.accuracies[2] < run.accuracies[0]
    assert_published(place, run, champion_round=1)


def test_a_second_start_repeats_nothing(whole: tuple[Place, Run]) -> None:
    place, first = whole
    before = place.receipts()
    again = place.run("--rounds", "2")
    assert again.executed == first.executed
    assert set(again.task_status.values()) == {"reused"}
    assert again.task_status.keys() == first.task_status.keys()
    assert (again.code, again.told["state"], again.told["model"]) == (
        1,
        first.told["state"],
        first.told["model"],
    )
    assert place.receipts() == before
    assert again.told["rounds"] == first.told["rounds"]


def test_a_run_goes_on_from_a_state_with_global_round_numbers(
    whole: tuple[Place, Run],
) -> None:
    place, first = whole
    longer = (
        "--rounds",
        "1",
        "--set",
        "decide.max_rounds=3",
        "--resume-from",
        first.told["state"],
    )
    run = place.run(*longer)
    assert run.executed == [
        "prepare",
        "evaluate-base",
        "first-champion",
        "pass-through-r0",
        *round_tasks(1),
        *END,
    ], run.said
    assert [one["round"] for one in run.told["rounds"]] == [0, 1, 2, 3]
    assert run.accuracies[:3] == first.accuracies
    assert (run.code, run.told["stop"]) == (1, "max_rounds")
    names = {
        "prepare",
        "publish",
        "generate-r3-s0",
        "generate-r3-s1",
        *round_tasks(3),
    } - {"generate-r3"}
    # The base was measured by the earlier run.
    assert run.task_status == {
        **dict.fromkeys(names, "done"),
        "evaluate-base": "reused",
    }
    assert run.told["run_id"] != first.told["run_id"]
    # Back to the beginning of the campaign, in the earlier run.
    verified = json.loads(place.cli("verify", run.told["run_id"], "--json").stdout)
    assert verified["damaged"] == []
    earlier = json.loads(place.cli("verify", first.told["run_id"], "--json").stdout)
    assert verified["receipts"] > earlier["receipts"]
    assert_published(place, run, champion_round=run.told["champion_round"])


def test_a_campaign_in_a_bucket_has_the_receipts_of_one_in_a_folder(
    whole: tuple[Place, Run], make_place: MakePlace, s3_server: S3Server
) -> None:
    folder, expected = whole
    uri = s3_server.new_uri()
    place = make_place(store_uri=uri, extra=s3_server.environment)
    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1), *round_tasks(2), *END], run.said
    assert (run.code, run.verdicts, run.accuracies) == (
        1,
        expected.verdicts,
        expected.accuracies,
    )
    assert run.told["store"] == uri
    assert SECRET_KEY not in run.said + json.dumps(run.told)

    store = open_store(uri, s3_server.environment)
    stored = {
        key.removeprefix("steps/").removesuffix(".json"): key
        for key in store.list("steps/")
    }
    receipts = {ref: store.get_bytes(key) for ref, key in stored.items()}
    assert state_object(run, receipts) == state_object(expected, folder.receipts())
    in_folder = folder.receipts()
    assert receipts == {ref: data for ref, data in in_folder.items() if ref in receipts}
    assert f"{run.told['model']}model.safetensors" in list(
        store.list(run.told["model"])
    )

    verified = place.cli("verify", "--json")
    assert verified.returncode == 0, verified.stderr
    told = json.loads(verified.stdout)
    assert (told["damaged"], told["receipts"]) == ([], len(receipts))
    page = place.cli("report", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    assert (place.folder / "page.html").stat().st_size > 10_000


def test_a_killed_run_is_finished_by_the_same_command_with_the_same_receipts(
    whole: tuple[Place, Run], make_place: MakePlace
) -> None:
    other, uninterrupted = whole
    place = make_place()
    kill_in(place, "train-r1")
    assert len(list((place.store / "steps" / "train").glob("*.json"))) == 1, (
        "round 1 was trained before the kill"
    )
    shown = place.cli("status", "--json")
    assert '"status": "unfinished"' in shown.stdout, shown.stderr

    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1), *round_tasks(2), *END], run.said
    reused = {name for name, status in run.task_status.items() if status == "reused"}
    assert reused == {*ROUND_0, "generate-r1-s0", "generate-r1-s1", "select-r1"}
    assert run.errors == []
    assert state_object(run, place.receipts()) == state_object(
        uninterrupted, other.receipts()
    )
    made = place.receipts()
    assert made == {ref: data for ref, data in other.receipts().items() if ref in made}


def kill_in(place: Place, task: str) -> None:
    """Start a run and kill all its processes, with SIGKILL, while a task works."""
    process = subprocess.Popen(
        place.command("run", "--rounds", "2"),
        cwd=place.folder,
        env=place.environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: list(place.store.glob(f"attempts/*/{task}/*.json")), process)
    time.sleep(0.2)
    for one in (process.pid, *descendants(process.pid)):
        # A task dies with its monitor, which may have been killed just before.
        with suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """Ids of all processes that a process started, and of those that they started."""
    parents = {}
    for entry in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has just ended
        parents[int(entry.parent.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
