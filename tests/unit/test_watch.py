"""`watch` tells what happens to a run from its store alone, and ends when the run does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest
from rich.console import Console

from components.cli.local.run import exit_code_of
from components.cli.watch import watch
from components.errors import Transient, UserError
from components.runtime.attempts import Task, attempting
from components.runtime.context import Context
from tests.unit.handmade import RECIPE, Campaign


def followed(
    context: Context, made: Campaign, steps: list[Callable[[], object]]
) -> tuple[str, int]:
    """Return what is printed into a pipe while the steps happen, one at each pause, and the exit
    status."""
    coming: Iterator[Callable[[], object]] = iter(steps)
    console = Console(file=io.StringIO(), width=200)
    # A pause after the last step is an error: the run has ended.
    view = watch(context, made.run_id, console, lambda: next(coming)())
    assert next(coming, None) is None, "it ended before the run did"
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue(), exit_code_of(view)


def test_a_run_is_followed_to_its_end(context: Context) -> None:
    budget = {**RECIPE["decide"], "budget": {"minutes": 60, "tokens": 1_000_000}}
    made = Campaign(context, {**RECIPE, "decide": budget})
    made.prepare()
    task = Task(run_id=made.run_id, name="train-r2", round=2)
    under_way = ExitStack()

    def train_begins() -> None:
        under_way.enter_context(attempting(context, task, "train"))

    def train_is_killed_and_done_again() -> None:
        under_way.close()
        made.round(2, 0.93, "promoted", stop="target")

    said, status = followed(
        context,
        made,
        [
            lambda: None,
            lambda: made.round(0, 0.41, "promoted"),
            lambda: made.round(1, 0.68, "promoted"),
            train_begins,
            train_is_killed_and_done_again,
            lambda: made.publish(target_met=True),
        ],
    )
    lines = said.splitlines()
    assert "prepare          done, 2.0 s" in lines
    assert "generate-r1-s0   done, 6.0 s, 800 tokens/s" in lines
    verdict = "round 1 promoted, accuracy 68.0 % [63.0–72.5] on validation: 136 of 200 right, p = 0.004"
    assert lines.count(verdict) == 1
    [training] = [line for line in lines if line.startswith("train-r2 for ")]
    assert "(20.0 s in round 1)" in training
    # Rounds 2 and 3, each as long as round 1: two shards of 6 s, 3 s, 20 s, 4 s and 1 s.
    assert (
        "2 rounds done, 3 at most after round 0 · about 80.0 s left at most" in training
    )
    assert "of 60 minutes" in training
    assert "of 1,000,000 tokens" in training
    assert lines[-1].startswith("Target met: ")
    assert status == 0
    assert "\x1b" not in said


def test_programs_get_a_document_a_line(context: Context) -> None:
    made = Campaign(context)
    made.prepare()
    said = io.StringIO()
    steps: Iterator[Callable[[], object]] = iter(
        [
            lambda: made.round(0, 0.41, "promoted"),
            lambda: made.publish(target_met=False),
        ]
    )
    console = Console(file=said, width=40)
    watch(context, made.run_id, console, lambda: next(steps)(), as_json=True)
    events = [json.loads(line) for line in said.getvalue().splitlines()]
    tasks = [event["task"] for event in events if event["event"] == "task"]
    assert tasks.count("prepare") == 1
    [decided] = [event for event in events if event["event"] == "round"]
    assert (decided["round"], decided["verdict"], decided["score"]) == (
        0,
        "promoted",
        0.41,
    )
    assert (events[-1]["event"], events[-1]["run_id"]) == ("end", made.run_id)


def test_a_run_that_fails_ends_it_with_the_status_of_the_failure(
    context: Context,
) -> None:
    made = Campaign(context)
    made.prepare()
    said, status = followed(
        context,
        made,
        [lambda: made.fail("train", "train-r0", 0, Transient("the store is away"))],
    )
    assert "train-r0         failed, 3.5 s: the store is away" in said
    assert status == Transient.exit_code
    for wrong, advice in (
        ("never", "`runs` lists them"),
        (made.run_id[:-1], f"did you mean {made.run_id}"),
        (made.run_id.partition("-")[0], f"did you mean {made.run_id}"),
    ):
        with pytest.raises(UserError, match=f"knows no run {wrong!r}; {advice}"):
            watch(context, wrong, Console(file=io.StringIO()), lambda: None)
