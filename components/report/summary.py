"""A run as one JSON document, for programs and for `--json`."""

from __future__ import annotations

from typing import Any

from components.contracts.state import RoundRecord
from components.report.views import RunView, TaskView
from components.report.words import start_of
from components.storage import keys

RunSummary = dict[str, Any]
"""Flat scores first, then rounds, tasks and errors."""
# Hosts and other details of an attempt are for people, and in its own record.
TASK_FIELDS = {
    "round",
    "seconds",
    "work_seconds",
    "peak_memory_bytes",
    "costs",
    "receipt",
}
"""Fields of a task's attempt that the document has."""
OUTSIDE_ROUNDS = ("prepare", "champion", "publish")
"""Steps that belong to no round, although their attempts have a round number."""


def summary_of(view: RunView) -> RunSummary:
    """Return a run in one JSON document."""
    return {
        **_scores(view),
        **_costs(view),
        **_data(view),
        "rounds": [round_document(view, one.record) for one in view.rounds],
        "tasks": [task_document(task) for task in view.tasks],
        "errors": [
            {"task": task.name, "kind": task.last.error_kind, "error": task.last.error}
            for task in view.failed
        ],
        "problems": list(view.problems),
    }


def _scores(view: RunView) -> RunSummary:
    # Every key is always there: a program that reads it need not ask how far the run came.
    champion = view.champion
    state = view.state
    state_uri = ""
    if view.state_ref:
        step, key = view.state_ref.split("/", 1)
        state_uri = f"{view.store}/{keys.receipt_key(step, key)}"
    return {
        "run_id": view.run_id,
        "store": view.store,
        "status": view.status,
        "target_met": view.target_met,
        "published": view.published is not None,
        "model": view.published.prefix if view.published is not None else "",
        "release": view.publication.why if view.publication is not None else "",
        "stop": (state.stop if state else None) or "",
        "threshold": view.recipe.decide.goal.threshold if view.recipe else None,
        "metric": view.recipe.decide.goal.metric if view.recipe else None,
        "base_score": state.base.score if state and state.base else None,
        "base_test_score": state.base.test_score if state and state.base else None,
        "champion_score": champion.score if champion else None,
        "champion_test_score": champion.test_score if champion else None,
        "champion_macro_f1": champion.macro_f1 if champion else None,
        "champion_brier": champion.brier if champion else None,
        "champion_round": state.champion_round if state else None,
        "state": state_uri,
    }


def _data(view: RunView) -> RunSummary:
    start = start_of(view)
    return {
        "rows": dict(start.counts) if start is not None else {},
        "rejected_rows": dict(start.rejected) if start is not None else {},
        "smallest_gain": start.smallest_gain if start is not None else None,
        "teacher": start.teacher.source if start is not None and start.teacher else "",
    }


def _costs(view: RunView) -> RunSummary:
    # Rounded to milliseconds: more digits would be noise of the clock.
    totals = view.totals
    share_not_computing = totals.share_not_computing
    if share_not_computing is not None:
        share_not_computing = round(share_not_computing, 4)
    return {
        "wall_seconds": round(totals.wall_seconds, 3),
        "task_seconds": round(totals.task_seconds, 3),
        "compute_seconds": round(totals.compute_seconds, 3),
        "share_not_computing": share_not_computing,
        "tokens": totals.tokens,
        "peak_memory_bytes": totals.peak_memory_bytes,
    }


def round_document(view: RunView, record: RoundRecord) -> RunSummary:
    """Return a round that is decided, with the seconds of its tasks."""
    return {
        "seconds": round_seconds(view, record.round),
        **record.model_dump(mode="json"),
    }


def task_document(task: TaskView) -> RunSummary:
    """Return a task: its status, and the attempt that did the work."""
    return {
        "task": task.name,
        "status": task.status,
        # Says that there were other attempts.
        "tries": len(task.attempts),
        **task.worked.model_dump(include=TASK_FIELDS),
    }


def round_seconds(view: RunView, round_number: int) -> float:
    """Return the task seconds of one round's work; tasks side by side both count."""
    seconds = sum(
        task.worked.seconds
        for task in view.tasks
        if task.last.round == round_number and task.last.step not in OUTSIDE_ROUNDS
    )
    return round(seconds, 3)
