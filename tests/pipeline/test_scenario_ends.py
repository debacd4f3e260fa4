"""Campaigns that end early, go on after a weak round or a failed step, or train adapters: each
asserts the exact list of tasks, and none needs another to be compared with."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from components.contracts.recipe_file import set_key
from components.contracts.summaries import TrainSummary
from components.decide.reflection.plan import LOSS_MOVED, TAKEN_BACK
from components.runtime.receipts import Receipt, read_summary
from components.storage.keys import object_key
from tests.doubles.webhook import Webhook
from tests.pipeline.campaigns import END, ROUND_0, Place, assert_published, round_tasks
from tests.pipeline.conftest import MakePlace


def test_a_target_that_the_first_stage_meets_needs_no_round(
    make_place: MakePlace,
) -> None:
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


def test_patience_ends_a_campaign_that_gets_no_better(make_place: MakePlace) -> None:
    place = make_place(
        {"train.rounds.learning_rate": 1e-9, "decide.patience": 1, "generate.shards": 1}
    )
    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1, 1), "pass-through-r2", *END], (
        run.said
    )
    assert (run.code, run.told["stop"], run.verdicts) == (
        1,
        "patience",
        ["promoted", "rejected"],
    )
    assert_published(place, run, champion_round=0)


def test_a_weak_round_is_told_of_and_mended_by_the_next_plan(
    make_place: MakePlace,
) -> None:
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
    (confirmed,) = (
        one for one in mended["causes"] if one["name"] == "change_confirmed"
    )
    assert "samples_finished went from 0 to 1, as predicted" in confirmed["evidence"]
    # The champion was neither trained nor measured again, and its share of alpha is still there.
    assert run.task_status["train-r1"] == run.task_status["evaluate-r1"] == "reused"
    assert len(train_receipts(place)) == 2
    assert "needed 0.8)" in mended["why"]
    said = " ".join(run.said.split())
    assert (
        "select-r1: nothing is trained in this round: 0 of 100 samples accepted" in said
    )
    assert_published(place, run, champion_round=2)
    remark = "In round 1 too few samples were accepted, so no candidate was trained."
    for told in (place.cli("status").stdout, Path(run.told["report"]).read_text()):
        assert remark in " ".join(told.split())
    samples = " ".join(place.cli("samples", "--round", "1").stdout.split())
    assert (
        "round 1: unfinished 100 nothing was trained: 0 of 100 samples accepted"
        in samples
    )
    assert place.cli("verify").returncode == 0


def test_a_weak_round_without_a_remedy_ends_the_campaign_with_its_champion(
    make_place: MakePlace,
) -> None:
    """Greedy samples stay what they are, whatever the plan changes."""
    place = make_place({"select.min_accepted": 100, "generate.shards": 1})
    run = place.run("--rounds", "2")
    assert run.executed == [*ROUND_0, *round_tasks(1, 1), "pass-through-r2", *END], (
        run.said
    )
    assert (run.code, run.told["stop"], run.errors) == (1, "weak", [])
    assert run.verdicts == ["promoted", "rejected"]
    assert (
        "of 100 samples accepted, select.min_accepted is 100"
        in run.told["rounds"][1]["why"]
    )
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
    everything = (
        run.said
        + Path(run.told["log"]).read_text()
        + Path(run.told["report"]).read_text()
    )
    assert "a-secret" not in everything
    set_key(place.document, "notify", None)
    stopped = [*ROUND_0, "generate-r1", "generate-r1", "select-r1", "report"]
    assert run.executed == stopped, run.said
    assert (
        run.code,
        run.told["exit_code"],
        run.told["published"],
        run.told["model"],
    ) == (
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
    assert {
        name for name, status in again.task_status.items() if status != "reused"
    } == {"select-r1"}

    # With the recipe mended only what depends on the change is done: nothing is trained or sampled
    # again.
    plain = place.run(
        "--rounds", "2", "--set", "select.reward=null", "--set", "decide.max_rounds=1"
    )
    # Fewer rounds than are unrolled.
    assert plain.executed == [*ROUND_0, *round_tasks(1), "pass-through-r2", *END], (
        plain.said
    )
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


def test_adapters_go_on_from_round_to_round_beside_one_frozen_base(
    make_place: MakePlace,
) -> None:
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
    assert {
        name for one in receipts for name in one.objects if name.startswith("adapter/")
    } == {
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


def test_adapters_are_added_to_a_champion_that_was_trained_in_full_and_are_published_merged(
    make_place: MakePlace,
) -> None:
    settings = {"decide.goal.threshold": 0.0, "decide.alpha": 0.8, "generate.shards": 1}
    place = make_place(settings)
    full = place.run("--rounds", "1")
    assert full.executed == [*ROUND_0, "pass-through-r1", *END], full.said
    trained_in_full = set(train_receipts(place))
    run = place.run(
        "--rounds",
        "1",
        "--set",
        "train.lora.rank=8",
        "--set",
        "train.rounds.learning_rate=0.01",
        "--set",
        "decide.goal.threshold=1.0",
        "--resume-from",
        full.told["state"],
    )
    assert run.executed[-7:] == [*round_tasks(1, 1), *END], run.said
    [added] = set(train_receipts(place)) - trained_in_full
    receipt = Receipt.from_bytes(added)
    assert receipt.config["frozen"] == "champion"
    assert {name.partition("/")[0] for name in receipt.objects} == {
        "model",
        "adapter",
        "log.jsonl",
    }
    assert run.verdicts[-1] == "promoted", run.told["rounds"][-1]
    # Evaluated, and published, is one whole model.
    assert_published(place, run, champion_round=1)
    published = place.store / run.told["model"]
    assert not list(published.glob("adapter*"))


def test_inserted_layers_go_on_from_round_to_round_and_are_published(
    make_place: MakePlace,
) -> None:
    place = make_place(
        {
            "train.layers": {"extra": 1},
            "decide.max_rounds": 1,
            "decide.alpha": 0.8,
        }
    )
    run = place.run("--rounds", "1")
    assert run.executed == [*ROUND_0, *round_tasks(1), *END], run.said
    receipts = [Receipt.from_bytes(content) for content in train_receipts(place)]
    assert [one.config["layers"] for one in receipts] == [
        {"extra": 1, "trained": "all"}
    ] * 2
    trained = sorted(
        (read_summary(one, TrainSummary) for one in receipts), key=lambda one: one.round
    )
    assert [one.init_from for one in trained] == ["base", "champion"]
    assert trained[1].first_loss < 0.8 * trained[0].first_loss
    assert_published(place, run, champion_round=run.told["champion_round"])
    # The base has two.
    config = json.loads((place.store / run.told["model"] / "config.json").read_text())
    assert config["num_hidden_layers"] == 3


def test_a_layer_that_reflection_inserts_is_judged_by_the_dev_loss_it_predicted(
    make_place: MakePlace,
) -> None:
    """A round that hardly learns gets another layer; nobody knows before whether it will help."""
    place = make_place(
        {
            "train.layers": {"max_extra": 1},
            "train.rounds": {"steps": 12, "learning_rate": 1e-4},
            "decide.max_rounds": 2,
            "generate.shards": 1,
        }
    )
    run = place.run("--rounds", "2")
    _, first, second = run.told["rounds"]
    changes = {cause["name"]: cause["change"] for cause in first["causes"]}
    assert (
        changes["too_little_capacity"] == "layers 0, all trained → +1, all trained"
    ), run.said
    assert second["plan"]["layers"] == {"extra": 1, "trained": "all"}
    receipts = [Receipt.from_bytes(content) for content in train_receipts(place)]
    depths = {}
    for receipt in receipts:
        model_config = receipt.objects["model/config.json"].sha256
        document = json.loads((place.store / object_key(model_config)).read_text())
        depths[read_summary(receipt, TrainSummary).round] = document[
            "num_hidden_layers"
        ]
    assert depths == {0: 2, 1: 2, 2: 3}
    fall = first["measures"]["dev_loss"] - second["measures"]["dev_loss"]
    came_true = fall > LOSS_MOVED * first["measures"]["dev_loss"]
    reviews = [cause["name"] for cause in second["causes"]]
    assert second["verdict"] == "rejected"
    assert (TAKEN_BACK in reviews) != came_true


def train_receipts(place: Place) -> list[bytes]:
    return [
        content for ref, content in place.receipts().items() if ref.startswith("train/")
    ]
