"""What is carried out, and what is not, in every way a campaign can go: through the real command
line, without mocks.

A guard that is wrongly false skips its round and the run still succeeds, so each test asserts the
exact list of tasks. They stand in one file, so that one process of the tests has the campaign that
they are compared with (`whole`).
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from components.contracts.recipe_file import set_key
from components.contracts.summaries import TrainSummary
from components.runtime.receipts import Receipt, read_summary
from components.storage.store import open_store
from tests.conftest import SECRET_KEY, S3Server
from tests.doubles.webhook import Webhook
from tests.pipeline.campaigns import Place, Run, round_tasks, state_object
from tests.pipeline.conftest import MakePlace
from tests.waiting import wait_until

ROUND_0 = ["prepare", "evaluate-base", "first-champion", *round_tasks(0)]
END = ["publish", "report"]


def test_all_unrolled_rounds_run_until_max_rounds(whole: tuple[Place, Run]) -> None:
    place, run = whole
    assert run.executed == [*ROUND_0, *round_tasks(1), *round_tasks(2), *END], run.said
    assert (run.code, run.told["stop"], run.told["target_met"]) == (1, "max_rounds", False)
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
        {"decide.goal.threshold": threshold, "decide.max_rounds": 4, "generate.shards": 1}
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


def test_a_target_that_the_first_stage_meets_needs_no_round(make_place: MakePlace) -> None:
    place = make_place({"decide.goal.threshold": 0.0, "publish.approval": "required"})
    run = place.run("--rounds", "1")
    assert run.executed == [*ROUND_0, "pass-through-r1", *END], run.said
    assert (run.code, run.told["stop"], run.verdicts) == (4, "target", ["promoted"])
    assert (run.told["status"], run.told["model"]) == ("waiting for approval", "")
    assert "Before you approve" in Path(run.told["report"]).read_text()
    approved = place.cli("approve", run.told["run_id"])
    assert approved.returncode == 0, approved.stderr
    told = json.loads(place.cli("status", "--json").stdout)
    assert_published(place, dataclasses.replace(run, told=told), champion_round=0)


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
    assert "Nothing was released: the champion is the base" in Path(run.told["report"]).read_text()
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


def test_patience_ends_a_campaign_that_gets_no_better(make_place: MakePlace) -> None:
    place = make_place(
        {"train.rounds.learning_rate": 1e-9, "decide.patience": 1, "generate.shards": 1}
    )
    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1, 1), "pass-through-r2", *END], run.said
    assert (run.code, run.told["stop"], run.verdicts) == (1, "patience", ["promoted", "rejected"])
    assert_published(place, run, champion_round=0)


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


def test_a_run_goes_on_from_a_state_with_global_round_numbers(whole: tuple[Place, Run]) -> None:
    place, first = whole
    longer = ("--rounds", "1", "--set", "decide.max_rounds=3", "--resume-from", first.told["state"])
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
    names = {"prepare", "publish", "generate-r3-s0", "generate-r3-s1", *round_tasks(3)} - {
        "generate-r3"
    }
    # The base was measured by the earlier run.
    assert run.task_status == {**dict.fromkeys(names, "done"), "evaluate-base": "reused"}
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
    assert (run.code, run.verdicts, run.accuracies) == (1, expected.verdicts, expected.accuracies)
    assert run.told["store"] == uri
    assert SECRET_KEY not in run.said + json.dumps(run.told)

    store = open_store(uri, s3_server.environment)
    stored = {key.removeprefix("steps/").removesuffix(".json"): key for key in store.list("steps/")}
    receipts = {ref: store.get_bytes(key) for ref, key in stored.items()}
    assert state_object(run, receipts) == state_object(expected, folder.receipts())
    in_folder = folder.receipts()
    assert receipts == {ref: data for ref, data in in_folder.items() if ref in receipts}
    assert f"{run.told['model']}model.safetensors" in list(store.list(run.told["model"]))

    verified = place.cli("verify", "--json")
    assert verified.returncode == 0, verified.stderr
    told = json.loads(verified.stdout)
    assert (told["damaged"], told["receipts"]) == ([], len(receipts))
    page = place.cli("report", "-o", "page.html")
    assert page.returncode == 0, page.stderr
    assert (place.folder / "page.html").stat().st_size > 10_000


def test_a_weak_round_is_told_of_and_mended_by_the_next_plan(make_place: MakePlace) -> None:
    """A limit of one token cuts every sample off: nothing is trained, and the limit is raised."""
    place = make_place({"generate.max_new_tokens": 1, "generate.shards": 1})
    run = place.run("--rounds", "2")
    rounds = [*round_tasks(1, 1), *round_tasks(2, 1)]
    assert run.executed == [*ROUND_0, *rounds, *END], run.said
    assert run.verdicts == ["promoted", "rejected", "promoted"]
    _, weak, mended = run.told["rounds"]
    assert [one["weak"] for one in run.told["rounds"]] == [False, True, False]
    assert weak["why"].startswith(
        "too few accepted samples, so no candidate was trained: 0 of 100 samples accepted, "
        "select.min_accepted is 1 (dropped: unfinished 100); most were dropped as `unfinished`"
    )
    assert weak["dropped"] == {"unfinished": 100}
    assert weak["receipts"].keys() == {"generate-0", "select"}
    assert (weak["p_value"], weak["tokens_trained"]) == (None, 0)
    causes = {cause["name"]: cause["change"] for cause in weak["causes"]}
    assert causes["truncation"] == "max_new_tokens as in the recipe → 2"
    assert "too_few_accepted" in causes
    assert mended["plan"]["max_new_tokens"] == 2
    (confirmed,) = (one for one in mended["causes"] if one["name"] == "change_confirmed")
    assert "samples_finished went from 0 to 1, as predicted" in confirmed["evidence"]
    # The champion was neither trained nor measured again, and its share of alpha is still there.
    assert run.task_status["train-r1"] == run.task_status["evaluate-r1"] == "reused"
    assert len(train_receipts(place)) == 2
    assert "needed 0.8)" in mended["why"]
    said = " ".join(run.said.split())
    assert "select-r1: nothing is trained in this round: 0 of 100 samples accepted" in said
    assert_published(place, run, champion_round=2)
    remark = "In round 1 too few samples were accepted, so no candidate was trained."
    for told in (place.cli("status").stdout, Path(run.told["report"]).read_text()):
        assert remark in " ".join(told.split())
    samples = " ".join(place.cli("samples", "--round", "1").stdout.split())
    assert "round 1: unfinished 100 nothing was trained: 0 of 100 samples accepted" in samples
    assert place.cli("verify").returncode == 0


def test_a_weak_round_without_a_remedy_ends_the_campaign_with_its_champion(
    make_place: MakePlace,
) -> None:
    """Greedy samples stay what they are, whatever the plan changes."""
    place = make_place({"select.min_accepted": 100, "generate.shards": 1})
    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1, 1), "pass-through-r2", *END], run.said
    assert (run.code, run.told["stop"], run.errors) == (1, "weak", [])
    assert run.verdicts == ["promoted", "rejected"]
    assert "of 100 samples accepted, select.min_accepted is 100" in run.told["rounds"][1]["why"]
    status = " ".join(place.cli("status").stdout.split())
    assert "the plan has nothing left to change about it" in status
    assert_published(place, run, champion_round=0)


def test_a_failing_step_stops_the_run_but_not_its_report(make_place: MakePlace) -> None:
    place = make_place()
    folder = place.folder / "no-reward-model"
    folder.mkdir()
    (folder / "config.json").write_text("{}", encoding="utf-8")
    set_key(place.document, "select.reward", {"source": folder.as_uri()})
    set_key(place.document, "notify", {"url_env": "TEAM_WEBHOOK"})
    with Webhook() as webhook:
        told_place = dataclasses.replace(place, extra={"TEAM_WEBHOOK": webhook.url})
        run = told_place.run("--rounds", "1")
        again = told_place.run("--rounds", "1")
    # What is found done is no news; that it failed once more is.
    verdict, *failures = webhook.texts
    assert "round 0: promoted; the candidate has accuracy" in verdict
    assert ["failed in select-r1: " in failure for failure in failures] == [True, True]
    everything = run.said + Path(run.told["log"]).read_text() + Path(run.told["report"]).read_text()
    assert "a-secret" not in everything
    set_key(place.document, "notify", None)
    stopped = [*ROUND_0, "generate-r1", "generate-r1", "select-r1", "report"]
    assert run.executed == stopped, run.said
    assert (run.code, run.told["exit_code"], run.told["published"], run.told["model"]) == (
        2,
        2,
        False,
        "",
    )
    assert len(run.errors) == 1
    assert run.errors[0].startswith("error: select-r1: ")
    assert "/no-reward-model" in run.errors[0]
    assert "Traceback" not in run.said
    assert [one["task"] for one in run.told["errors"]] == ["select-r1"]
    assert "/no-reward-model" in Path(run.told["report"]).read_text()
    assert not (place.store / "models").exists()

    # The same again fails the same way, without repeating what is done.
    assert (again.code, again.executed) == (2, stopped)
    assert again.task_status.pop("select-r1") == "failed"
    assert {name for name, status in again.task_status.items() if status != "reused"} == {
        "select-r1"
    }

    # With the recipe mended only what depends on the change is done: nothing is trained or sampled
    # again.
    plain = place.run(
        "--rounds", "2", "--set", "select.reward=null", "--set", "decide.max_rounds=1"
    )
    # Fewer rounds than are unrolled.
    assert plain.executed == [*ROUND_0, *round_tasks(1), "pass-through-r2", *END], plain.said
    assert (plain.code, plain.told["stop"]) == (1, "max_rounds")
    assert plain.verdicts == ["promoted", "promoted"]
    assert_published(place, plain, champion_round=1)
    reused = {name for name, status in plain.task_status.items() if status == "reused"}
    assert reused == {
        "evaluate-base",
        "train-r0",
        "evaluate-r0",
        "generate-r1-s0",
        "generate-r1-s1",
    }
    assert plain.accuracies[0] == run.accuracies[0]

    # Or it goes on from the last state.
    mended = place.run(
        "--rounds",
        "1",
        "--set",
        "select.reward=null",
        "--set",
        "decide.max_rounds=1",
        "--resume-from",
        run.told["state"],
    )
    assert mended.executed == [
        "prepare",
        "evaluate-base",
        "first-champion",
        "pass-through-r0",
        *round_tasks(1),
        *END,
    ], mended.said
    assert mended.verdicts == ["promoted", "promoted"]
    assert mended.accuracies[0] == run.accuracies[0]
    assert mended.errors == []
    assert mended.accuracies == plain.accuracies
    assert len(list((place.store / "steps" / "train").glob("*.json"))) == 2
    assert_published(place, mended, champion_round=1)


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
    assert state_object(run, place.receipts()) == state_object(uninterrupted, other.receipts())
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


def assert_published(place: Place, run: Run, champion_round: int) -> None:
    """The champion lies under a prefix that names its round, as a server of models wants it."""
    assert run.told["published"]
    assert run.told["champion_round"] == champion_round
    assert re.fullmatch(rf"models/last-digit/r{champion_round}-[0-9a-f]{{12}}/", run.told["model"])
    files = {path.name for path in (place.store / run.told["model"]).iterdir()}
    assert {
        "model.safetensors",
        "config.json",
        "tokenizer.json",
        "README.md",
        "metrics.json",
    } <= files


def test_adapters_go_on_from_round_to_round_beside_one_frozen_base(make_place: MakePlace) -> None:
    place = make_place(
        {
            "train.lora": {"rank": 8, "unfrozen_layers": 1},
            "train.first": {"steps": 40, "learning_rate": 0.01},
            "decide.max_rounds": 1,
            "decide.alpha": 0.8,
        }
    )
    run = place.run("--rounds", "1")
    assert run.executed == [*ROUND_0, *round_tasks(1), *END], run.said
    receipts = [Receipt.from_bytes(data) for data in train_receipts(place)]
    assert {name for one in receipts for name in one.objects if name.startswith("adapter/")} == {
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "adapter/structure.json",
    }
    trained = sorted(
        (read_summary(one, TrainSummary) for one in receipts), key=lambda one: one.round
    )
    assert [one.init_from for one in trained] == ["base", "champion"]
    # Round 1 begins where round 0 ended, not at the base.
    assert trained[1].first_loss < 0.8 * trained[0].first_loss
    assert_published(place, run, champion_round=run.told["champion_round"])


def train_receipts(place: Place) -> list[bytes]:
    return [content for ref, content in place.receipts().items() if ref.startswith("train/")]
