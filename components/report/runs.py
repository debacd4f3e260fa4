"""Everything a person wants to see of one run, gathered from attempt records, receipts and the
latest state.

Tolerant on purpose: this is read when something went wrong. What is missing or damaged becomes a
line of `RunView.problems`, never an exception; only a store that cannot be reached raises.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from components.contracts.artifacts import ACCEPTED, DROPPED, LOG, RECIPE, STATE
from components.contracts.recipe import Recipe
from components.contracts.rows import Dropped, TrainingRow, read_rows
from components.contracts.state import RoundRecord, State
from components.contracts.summaries import (
    EvaluateSummary,
    LogEntry,
    PublishSummary,
    SelectSummary,
    Summary,
    TrainSummary,
)
from components.errors import Corrupt, Missing, OlderReceipt, UserError
from components.report.costs import Totals, totals_of
from components.runtime.context import Context
from components.runtime.receipts import Attempt, Receipt, fetch, read_receipt, read_summary
from components.storage import keys

MAX_ROWS_READ = 20_000
"""Rows of a file that are looked at when a few are to be shown."""

R = TypeVar("R", bound=BaseModel)
S = TypeVar("S", bound=Summary)
T = TypeVar("T")


@dataclass(frozen=True)
class TaskView:
    """One task of the graph with all its attempts, oldest first."""

    name: str
    attempts: tuple[Attempt, ...]

    @property
    def last(self) -> Attempt:
        """The newest attempt."""
        return self.attempts[-1]

    @property
    def worked(self) -> Attempt:
        """The attempt that did the work the newest one stands for: its times are the real ones."""
        done = [
            one
            for one in self.attempts
            if one.receipt and one.receipt == self.last.receipt and not one.reused
        ]
        return done[-1] if done else self.last

    @property
    def status(self) -> str:
        """`done`, `reused`, `failed` or `unfinished` (running, or stopped without a word)."""
        if self.last.error:
            return "failed"
        if not self.last.receipt:
            return "unfinished"
        return "reused" if self.last.reused else "done"


@dataclass(frozen=True)
class RoundView:
    """One finished round: its record and, where they could be read, a look into its receipts."""

    record: RoundRecord
    train: TrainSummary | None = None
    """None if the receipt could not be read, like the next two."""
    select: SelectSummary | None = None
    evaluate: EvaluateSummary | None = None
    curve: tuple[LogEntry, ...] = ()
    kept: tuple[TrainingRow, ...] = ()
    dropped: tuple[Dropped, ...] = ()


@dataclass(frozen=True)
class RunView:
    """A run as far as it is known."""

    run_id: str
    store: str
    recipe: Recipe | None
    state: State | None
    state_ref: str
    tasks: tuple[TaskView, ...]
    receipts: dict[str, Receipt]
    """`step/key` → receipt, of everything the run names and that could be read."""
    rounds: tuple[RoundView, ...]
    published: PublishSummary | None
    """Of the publish receipt that belongs to the newest attempt; None if nothing was published."""
    totals: Totals
    problems: tuple[str, ...]

    @property
    def failed(self) -> tuple[TaskView, ...]:
        """Tasks that failed since the run was last started (every start begins with `prepare`)."""
        begun = max(
            (task.last.started for task in self.tasks if task.last.step == "prepare"), default=0.0
        )
        return tuple(
            task for task in self.tasks if task.status == "failed" and task.last.started >= begun
        )

    @property
    def champion(self) -> RoundRecord | None:
        """The record of the round that made the champion."""
        state = self.state
        return (
            next((one for one in state.history if one.round == state.champion_round), None)
            if state
            else None
        )

    @property
    def target_met(self) -> bool:
        """True if the champion reached the goal, by the word of publish or decide, else by its
        accuracy."""
        if self.published is not None:
            return self.published.target_met
        if self.state is not None and self.state.stop == "target":
            return True
        return bool(
            self.champion
            and self.recipe
            and self.champion.accuracy >= self.recipe.decide.goal.threshold
        )

    @property
    def status(self) -> str:
        """`published`, `failed`, `unfinished` (running or stopped) or `unknown` (no trace of it)."""
        if self.failed:
            return "failed"
        if self.published is not None:
            return "published"
        return "unfinished" if self.tasks else "unknown"


def load_run(context: Context, run_id: str, *, examples: int = 0) -> RunView:
    """Gather what is known of a run. `examples` is how many kept and dropped rows per round to
    read; 0 also leaves the training curves out. Raises Transient or UserError if the store itself
    cannot be used."""
    problems: list[str] = []
    tasks = _tasks(context, run_id, problems)
    attempts = sorted((one for task in tasks for one in task.attempts), key=lambda one: one.started)
    state, state_ref = _latest_state(context, tasks, problems)
    receipts: dict[str, Receipt] = {}
    for ref in dict.fromkeys(named_receipts(tasks, state)):
        _tolerate(problems, lambda ref=ref: receipts.setdefault(ref, read_receipt(context, ref)))  # type: ignore[misc]
    start = receipts.get(state.start if state.start is not None else state_ref) if state else None
    recipe = _tolerate(problems, lambda: _recipe(context, start)) if start else None
    rounds = tuple(
        _round(context, record, receipts, examples, problems)
        for record in (state.history if state else ())
    )
    return RunView(
        run_id=run_id,
        store=context.store.root,
        recipe=recipe,
        state=state,
        state_ref=state_ref,
        tasks=tasks,
        receipts=receipts,
        rounds=rounds,
        published=_published(tasks, receipts, problems),
        totals=totals_of(attempts),
        problems=tuple(dict.fromkeys(problems)),
    )


def run_id_of_job(context: Context, job_id: str) -> str | None:
    """The run that a pipeline job carried out, None if it did not get far enough to say so."""
    try:
        return str(json.loads(context.store.get_bytes(keys.job_key(job_id)))["run_id"])
    except (Missing, UserError, ValueError, KeyError, TypeError):
        return None


def latest_run_id(context: Context) -> str | None:
    """The run with the newest attempt, by the start time in the attempts' names; None in an empty
    store."""
    newest = (0, "")
    for key in context.store.list(keys.attempts_prefix("x").replace("x/", "")):
        _, run_id, _, name = key.split("/", 3)
        started = name.split("-")[0]
        newest = max(newest, (int(started) if started.isdigit() else 0, run_id))
    return newest[1] or None


def named_receipts(tasks: tuple[TaskView, ...], state: State | None) -> Iterator[str]:
    """References of all receipts that a run's tasks and state name; some come twice."""
    yield from (task.last.receipt for task in tasks if task.last.receipt)
    if state is not None:
        named = (
            state.prepared,
            state.start,
            state.champion,
            state.champion_evaluation,
            state.first_evaluation,
            *state.selections,
        )
        yield from (ref for ref in named if ref is not None)
        for record in state.history:
            yield from record.receipts.values()


def summary_of(view: RunView) -> dict[str, Any]:
    """A run in one JSON document: flat scores first, then rounds, tasks and errors."""
    champion, totals = view.champion, view.totals
    return {
        "run_id": view.run_id,
        "store": view.store,
        "status": view.status,
        "target_met": view.target_met,
        "published": view.published is not None,
        "model": view.published.prefix if view.published is not None else "",
        "stop": (view.state.stop if view.state else None) or "",
        "threshold": view.recipe.decide.goal.threshold if view.recipe else None,
        "first_accuracy": view.state.history[0].accuracy
        if view.state and view.state.history
        else None,
        "champion_accuracy": champion.accuracy if champion else None,
        "champion_test_accuracy": champion.test_accuracy if champion else None,
        "champion_round": champion.round if champion else None,
        "state": f"{view.store}/{keys.receipt_key(*view.state_ref.split('/', 1))}"
        if view.state_ref
        else "",
        "wall_seconds": round(totals.wall_seconds, 3),
        "task_seconds": round(totals.task_seconds, 3),
        "compute_seconds": round(totals.compute_seconds, 3),
        "share_not_computing": None
        if totals.share_not_computing is None
        else round(totals.share_not_computing, 4),
        "tokens": totals.tokens,
        "peak_memory_bytes": totals.peak_memory_bytes,
        "rounds": [
            {"seconds": round_seconds(view, one.record.round), **one.record.model_dump(mode="json")}
            for one in view.rounds
        ],
        "tasks": [
            {
                "task": task.name,
                "status": task.status,
                "tries": len(task.attempts),
                **task.worked.model_dump(
                    include={
                        "round",
                        "seconds",
                        "work_seconds",
                        "peak_memory_bytes",
                        "costs",
                        "receipt",
                    }
                ),
            }
            for task in view.tasks
        ],
        "errors": [
            {"task": one.name, "kind": one.last.error_kind, "error": one.last.error}
            for one in view.failed
        ],
        "problems": list(view.problems),
    }


def round_seconds(view: RunView, number: int) -> float:
    """Task seconds of one round's work (tasks side by side both count)."""
    return round(
        sum(
            task.worked.seconds
            for task in view.tasks
            if task.last.round == number and task.last.step not in ("prepare", "publish")
        ),
        3,
    )


def _tasks(context: Context, run_id: str, problems: list[str]) -> tuple[TaskView, ...]:
    found: list[Attempt] = []
    for key in context.store.list(keys.attempts_prefix(run_id)):
        try:
            found.append(Attempt.model_validate_json(context.store.get_bytes(key)))
        except (ValidationError, Corrupt) as error:
            problems.append(f"{key}: not an attempt record ({type(error).__name__})")
    by_task: dict[str, list[Attempt]] = {}
    for attempt in sorted(found, key=lambda one: one.started):
        by_task.setdefault(attempt.task, []).append(attempt)
    views = [TaskView(name, tuple(attempts)) for name, attempts in by_task.items()]
    return tuple(sorted(views, key=lambda task: task.attempts[0].started))


def _latest_state(
    context: Context, tasks: tuple[TaskView, ...], problems: list[str]
) -> tuple[State | None, str]:
    """The newest state by time, or an older one that is its continuation (a second start that was
    cut short)."""
    named = [
        one
        for task in tasks
        for one in task.attempts
        if one.step in ("prepare", "decide") and one.receipt
    ]
    refs = dict.fromkeys(one.receipt for one in sorted(named, key=lambda one: -one.started))
    best: tuple[State, str] | None = None
    for ref in refs:
        state = _tolerate(problems, lambda ref=ref: _state(context, ref))  # type: ignore[misc]
        if state is None:
            continue
        if best is None:
            best = (state, ref)
            continue
        same_start = (best[0].start or best[1]) == (state.start or ref)
        if (
            same_start
            and state.next_round > best[0].next_round
            and _begins_with(state.history, best[0].history)
        ):
            best = (state, ref)
    return best if best is not None else (None, "")


def _begins_with(history: tuple[RoundRecord, ...], head: tuple[RoundRecord, ...]) -> bool:
    return history[: len(head)] == head


def _state(context: Context, ref: str) -> State:
    return State.model_validate_json(fetch(context, read_receipt(context, ref), STATE).read_bytes())


def _recipe(context: Context, start: Receipt) -> Recipe:
    return Recipe.model_validate_json(fetch(context, start, RECIPE).read_bytes())


def _round(
    context: Context,
    record: RoundRecord,
    receipts: dict[str, Receipt],
    examples: int,
    problems: list[str],
) -> RoundView:
    train, select, evaluate = (
        receipts.get(record.receipts.get(step, "")) for step in ("train", "select", "evaluate")
    )
    view = RoundView(
        record=record,
        train=_summary(train, TrainSummary, problems),
        select=_summary(select, SelectSummary, problems),
        evaluate=_summary(evaluate, EvaluateSummary, problems),
    )
    if not examples:
        return view
    kept = _rows(context, select, ACCEPTED, TrainingRow, problems)
    dropped = _rows(context, select, DROPPED, Dropped, problems)
    return dataclasses.replace(
        view,
        curve=tuple(_rows(context, train, LOG, LogEntry, problems)),
        kept=tuple(_spread(kept, examples)),
        dropped=tuple(_of_every_reason(dropped, examples)),
    )


def _published(
    tasks: tuple[TaskView, ...], receipts: dict[str, Receipt], problems: list[str]
) -> PublishSummary | None:
    refs = [task.last.receipt for task in tasks if task.last.step == "publish"]
    return _summary(receipts.get(refs[-1]), PublishSummary, problems) if refs else None


def _summary(receipt: Receipt | None, kind: type[S], problems: list[str]) -> S | None:
    """The summary of a receipt; None if there is no receipt, or it is not of this kind."""
    if receipt is None:
        return None
    return _tolerate(problems, lambda: read_summary(receipt, kind))


def _rows(
    context: Context, receipt: Receipt | None, name: str, kind: type[R], problems: list[str]
) -> list[R]:
    """The first MAX_ROWS_READ rows of a file; none if there is no such file."""
    if receipt is None or name not in receipt.objects:
        return []

    def read() -> list[R]:
        return list(itertools.islice(read_rows(fetch(context, receipt, name), kind), MAX_ROWS_READ))

    return _tolerate(problems, read) or []


def _spread(rows: list[R], count: int) -> list[R]:
    """At most `count` rows, evenly over the list."""
    return (
        [rows[index * len(rows) // count] for index in range(count)] if len(rows) > count else rows
    )


def _of_every_reason(rows: list[Dropped], count: int) -> list[Dropped]:
    """At most `count` rows, taken from the reasons in turn, so that rare reasons are seen too."""
    groups: dict[str, list[Dropped]] = {}
    for row in rows:
        groups.setdefault(row.reason, []).append(row)
    in_turn = (
        row for turn in itertools.zip_longest(*groups.values()) for row in turn if row is not None
    )
    return sorted(itertools.islice(in_turn, count), key=lambda row: row.reason)


def _tolerate(problems: list[str], read: Callable[[], T]) -> T | None:
    """What `read` returns, or None with a line in `problems` if what it reads is missing or
    damaged. Raises OlderReceipt: the rest of the store is as old."""
    try:
        return read()
    except OlderReceipt:
        raise
    except (Corrupt, ValidationError, ValueError, UserError) as error:
        problems.append(" ".join(str(error).split())[:300])
        return None
