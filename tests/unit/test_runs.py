"""A run is told from what is in the store, however little that is."""

from __future__ import annotations

import io
import re
from dataclasses import replace

import pytest
from pydantic import ValidationError
from rich.console import Console

from components.canonical import canonical_json
from components.cli.show import print_differences, print_runs
from components.cli.verify import check_run
from components.errors import Corrupt, UserError
from components.report.differences import differences_of
from components.report.runs import begun_runs, latest_run_id, load_run, run_id_of_job
from components.report.summary import summary_of
from components.report.words import headline
from components.runtime.attempts import Attempt
from components.runtime.context import Context
from components.storage import keys
from tests.unit.crafted import start_summary
from tests.unit.handmade import Campaign, whole_campaign


def test_a_finished_run_shows_its_rounds_champion_and_verdict(context: Context) -> None:
    made = whole_campaign(context)
    view = load_run(context, made.run_id, examples=5)
    assert view.status == "published"
    assert view.target_met
    assert [one.record.verdict for one in view.rounds] == [
        "promoted",
        "promoted",
        "rejected",
        "promoted",
    ]
    assert view.champion is not None
    assert view.champion == view.rounds[3].record
    assert (
        "went from the base model's 2.0 % over 41.0 % after round 0 to 93.0 %"
        in headline(view)
    )
    assert len(view.rounds[1].accepted) == 5
    assert {row.reason for row in view.rounds[1].dropped} == {
        "verifier",
        "duplicate",
        "unfinished",
    }
    assert len(view.rounds[1].curve) == 200
    assert view.problems == ()


def test_a_changed_attempt_record_is_told_and_not_believed(context: Context) -> None:
    made = whole_campaign(context)
    address = next(iter(context.store.list(keys.attempts_prefix(made.run_id))))
    stored = context.store.get_bytes(address)
    attempt = Attempt.from_bytes(stored)
    assert attempt.to_bytes() == stored
    # Every digit that can be another one: many of these are valid records.
    for match in re.finditer(rb"[0-8]", stored):
        begin, end = match.span()
        other = stored[:begin] + bytes([stored[begin] + 1]) + stored[end:]
        with pytest.raises((Corrupt, ValidationError)):
            Attempt.from_bytes(other)
    context.store.put_bytes(address, stored.replace(b'"seconds":', b'"seconds":9'))
    view = load_run(context, made.run_id)
    assert view.problems == (
        f"{address}: not an attempt record, or a changed one (Corrupt)",
    )
    # Records of older versions have no checksum.
    older = attempt.model_dump_json().encode()
    assert Attempt.from_bytes(older) == attempt


def test_a_goal_is_proved_only_by_the_test_split(context: Context) -> None:
    """The champion was chosen by validation; the campaign's test interval is 40 to 60 %."""
    view = load_run(context, whole_campaign(context).run_id)
    assert view.recipe is not None
    for threshold, words in (
        (0.4, "the goal is proved there"),
        (0.5, "the goal is not proved"),
    ):
        goal = view.recipe.decide.goal.model_copy(update={"threshold": threshold})
        decide = view.recipe.decide.model_copy(update={"goal": goal})
        recipe = view.recipe.model_copy(update={"decide": decide})
        assert words in headline(replace(view, recipe=recipe))


def test_wall_time_and_idle_share_count_shards_side_by_side_once(
    context: Context,
) -> None:
    made = whole_campaign(context)
    totals = load_run(context, made.run_id).totals
    assert totals.wall_seconds == made.now - 1_700_000_000.0
    assert (
        totals.compute_seconds == 4 * 18 + 4 * 3 + 3 * 2 * 5
    )  # shards one after the other here
    assert totals.tokens == 4 * 92_000 + 3 * 2 * 4_000
    assert totals.share_not_computing is not None
    assert (
        abs(
            totals.share_not_computing
            - (1 - totals.compute_seconds / totals.wall_seconds)
        )
        < 1e-9
    )


def test_a_run_that_failed_in_prepare_is_one_attempt_with_its_error(
    context: Context,
) -> None:
    made = Campaign(context)
    made.fail("prepare", "prepare", 0, UserError("no such file: data.jsonl"))
    view = load_run(context, made.run_id)
    assert view.status == "failed"
    assert view.state is None
    assert [(task.name, task.last.error_kind) for task in view.failed] == [
        ("prepare", "UserError")
    ]
    assert summary_of(view)["errors"] == [
        {"task": "prepare", "kind": "UserError", "error": "no such file: data.jsonl"}
    ]


def test_a_second_start_shows_finished_steps_as_reused_with_their_real_seconds(
    context: Context,
) -> None:
    made = Campaign(context)
    first = made.prepare()
    made.now += 100.0
    assert made.prepare().ref == first.ref
    (task,) = load_run(context, made.run_id).tasks
    assert (task.status, len(task.attempts)) == ("reused", 2)
    assert task.worked.seconds == 2.0
    assert task.last.seconds < task.worked.seconds


def test_the_time_between_two_starts_is_not_wall_time(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    made.now += 10_000.0
    made.prepare()
    assert load_run(context, made.run_id).totals.wall_seconds < 10.0


def test_a_second_start_that_was_cut_short_still_shows_the_rounds_of_the_first(
    context: Context,
) -> None:
    made = whole_campaign(context)
    made.now += 50.0
    made.state = made.state.model_copy(
        update={"history": (), "prepared": "", "round": None}
    )
    made.step("prepare", "prepare", 0, {}, lambda folder: start_summary())
    view = load_run(context, made.run_id)
    assert view.state is not None
    assert view.state.round == 3


@pytest.mark.parametrize(
    ("step", "task", "number", "accuracy", "words"),
    [
        (
            "prepare",
            "prepare",
            0,
            None,
            "The run failed in prepare before any round was finished.",
        ),
        (
            "evaluate",
            "evaluate-base",
            -1,
            None,
            "failed in evaluate-base before any round",
        ),
        ("train", "train-r0", 0, None, "failed in train-r0 before any round"),
        ("train", "train-r3", 3, 0.68, "Target not met: "),
        # The rounds before it were found done, and are those of this start.
        ("publish", "publish", 3, 0.93, "Target met: "),
    ],
)
def test_a_failed_start_does_not_report_what_an_earlier_one_reached(
    context: Context,
    step: str,
    task: str,
    number: int,
    accuracy: float | None,
    words: str,
) -> None:
    """Its data or code differ from the earlier start's: equal work would have been found done."""
    made = whole_campaign(context)
    assert load_run(context, made.run_id).target_met
    made.now += 50.0
    if step != "prepare":
        made.state = made.state.model_copy(
            update={"history": (), "prepared": "", "round": None}
        )
        made.step("prepare", "prepare", 0, {}, lambda folder: start_summary())
    made.fail(step, task, number, Corrupt("objects/ab/abc is gone"))
    view = load_run(context, made.run_id)
    assert (view.status, view.publication) == ("failed", None)
    assert words in headline(view)
    assert f"{task} " in headline(view)
    summary = summary_of(view)
    assert summary["champion_score"] == accuracy
    assert summary["target_met"] == (accuracy == 0.93)


def test_an_old_failure_is_forgotten_once_the_run_was_started_again(
    context: Context,
) -> None:
    made = Campaign(context)
    made.prepare()
    made.fail("train", "train-r0", 0, Corrupt("objects/ab/abc is gone"))
    assert [task.name for task in load_run(context, made.run_id).failed] == ["train-r0"]
    made.prepare()
    view = load_run(context, made.run_id)
    assert view.failed == ()
    assert view.status == "unfinished"


def test_a_failure_that_was_recorded_in_the_future_is_forgotten_too(
    context: Context,
) -> None:
    made = Campaign(context)
    made.prepare()
    now = made.now
    made.now += 365 * 86400.0
    made.fail("train", "train-r0", 0, Corrupt("objects/ab/abc is gone"))
    made.now = now
    assert [task.name for task in load_run(context, made.run_id).failed] == ["train-r0"]
    made.prepare()
    view = load_run(context, made.run_id)
    assert (view.failed, view.status) == ((), "unfinished")
    assert view.tasks[0].last.sequence > view.tasks[1].last.sequence


def test_a_run_of_a_machine_whose_clock_was_ahead_is_not_the_latest(
    context: Context,
) -> None:
    early = Campaign(
        context, {**Campaign(context).recipe.model_dump(mode="json"), "name": "ahead"}
    )
    early.now = context.clock() + 365 * 86400.0
    early.prepare()
    assert latest_run_id(context) == early.run_id
    made = Campaign(context)
    made.prepare()
    assert latest_run_id(context) == made.run_id


def test_damaged_records_become_problems_and_hide_nothing_else(
    context: Context,
) -> None:
    made = whole_campaign(context)
    context.store.put_bytes(
        keys.attempt_key(made.run_id, "train-r1", "0-1"), b"not json"
    )
    view = load_run(context, made.run_id)
    assert any("train-r1/0-1.json" in line for line in view.problems)
    assert len(view.rounds) == 4


def test_a_run_nobody_knows_is_empty_not_an_error(context: Context) -> None:
    view = load_run(context, "nothing-here")
    assert (view.status, view.tasks, view.rounds) == ("unknown", (), ())
    assert latest_run_id(context) is None


def test_the_latest_run_is_the_one_begun_last(context: Context) -> None:
    first = Campaign(context)
    first.prepare()
    second = Campaign(
        context, {**first.recipe.model_dump(mode="json"), "name": "a-later-run"}
    )
    second.now += 1_000.0
    second.prepare()
    assert latest_run_id(context) == second.run_id


def test_a_stray_file_among_the_attempts_hides_nothing(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    for key in (
        "attempts/notes.txt",
        f"attempts/{made.run_id}/notes.txt",
        "attempts/a/b/c/d.json",
    ):
        context.store.put_bytes(key, b"mine")
    assert latest_run_id(context) == made.run_id
    view = load_run(context, made.run_id)
    assert view.status == "unfinished"
    assert [line for line in view.problems if "notes.txt" in line] != []


def test_a_job_names_its_run_and_an_unknown_job_names_none(context: Context) -> None:
    context.store.put_bytes(
        keys.job_key("job-1"), canonical_json({"run_id": "by-hand-1"})
    )
    context.store.put_bytes(keys.job_key("job-2"), b"garbage")
    assert run_id_of_job(context, "job-1") == "by-hand-1"
    assert run_id_of_job(context, "job-2") is None
    assert run_id_of_job(context, "job-3") is None
    assert run_id_of_job(context, "{{no/key}}") is None


def two_runs(context: Context) -> tuple[Campaign, Campaign]:
    """A whole campaign, and one with another goal and seed that failed in prepare."""
    first = whole_campaign(context)
    document = first.recipe.model_dump(mode="json")
    document["seed"] += 1
    document["decide"]["goal"]["threshold"] = 0.25
    second = Campaign(context, document)
    second.now = first.now + 1_000.0
    # It fails before there is a state; its recipe is stored before that.
    recipe_key = keys.run_key(second.run_id, "recipe.json")
    context.store.put_bytes(
        recipe_key, canonical_json(second.recipe.model_dump(mode="json"))
    )
    second.fail("prepare", "prepare", 0, UserError("data/qa.csv is gone"))
    return first, second


@pytest.mark.parametrize("width", [70, 160])
def test_the_runs_of_a_store_are_listed_with_base_and_champion(
    context: Context, width: int
) -> None:
    first, second = two_runs(context)
    begun = begun_runs(context)
    assert list(begun) == [first.run_id, second.run_id]
    assert begun[second.run_id] == 1000.0 + first.now
    page = io.StringIO()
    views = [load_run(context, run_id) for run_id in begun]
    print_runs(
        Console(file=page, width=width), views, dict.fromkeys(begun, "2026-11-29 23:59")
    )
    text = page.getvalue()
    assert max(len(line) for line in text.splitlines()) <= width
    assert text.index(first.run_id) < text.index(second.run_id)
    assert "target met" in text
    assert "4 rounds" in text
    assert "2.0 % → 93.0 %" in text
    assert "failed" in text
    assert "– → –" in text


def test_two_runs_differ_in_what_was_asked_for_and_in_what_came_of_it(
    context: Context,
) -> None:
    first, second = two_runs(context)
    differences = differences_of(
        load_run(context, first.run_id), load_run(context, second.run_id)
    )
    asked = {one.key: (one.first, one.second) for one in differences.recipe}
    assert asked == {
        "seed": (first.recipe.seed, first.recipe.seed + 1),
        "decide.goal.threshold": (first.recipe.decide.goal.threshold, 0.25),
    }
    came = {one.key: (one.first, one.second) for one in differences.outcome}
    assert came["status"] == ("published", "failed")
    assert came["champion_score"] == (0.93, None)
    page = io.StringIO()
    print_differences(Console(file=page, width=80), differences)
    assert "decide.goal.threshold" in page.getvalue()
    assert max(len(line) for line in page.getvalue().splitlines()) <= 80
    same = differences_of(
        load_run(context, first.run_id), load_run(context, first.run_id)
    )
    assert same.recipe == []


def test_a_recipe_that_this_version_refuses_is_told_by_its_key(
    context: Context,
) -> None:
    document = {
        "name": "older",
        "data": {"human": [{"uri": "file:///d.jsonl"}]},
        "decide": {"goal": {"threshold": 0.9}},
    }
    context.store.put_bytes(
        keys.run_key("older-1", "recipe.json"), canonical_json(document)
    )
    assert load_run(context, "older-1").problems == (
        "the recipe of this run, as it was stored: data.human is called data.sources now",
    )


def test_a_run_that_other_code_began_is_not_damaged(context: Context) -> None:
    early = Campaign(context)
    early.now -= 1_000.0
    early.prepare(code="that of yesterday")
    made = whole_campaign(context)
    assert early.run_id == made.run_id
    findings = check_run(context, made.run_id)
    assert findings.damaged == []
    prepared = list(context.store.list("steps/prepare/"))
    assert len(prepared) == 2
    context.store.delete(next(key for key in prepared if made.prepared.key not in key))
    assert len(check_run(context, made.run_id).damaged) == 1
