"""The report of a run: one HTML page, without scripts and without anything from the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.rows import Dropped
from components.contracts.state import Plan, RoundRecord
from components.report.charts import drop_chart, loss_chart, score_chart
from components.report.checks import (
    alarm_lines,
    audit_line,
    bias_line,
    collapse_table,
    filter_rows,
    hints_line,
)
from components.report.costs import tokens_of
from components.report.runs import RoundView, RunView, TaskView
from components.report.words import cut, headline, outcome, percent, seconds_text
from components.runtime.receipts import Receipt

if TYPE_CHECKING:
    from jinja2 import Environment

EXAMPLES_PER_ROUND = 12
MAX_ROUNDS_SHOWN = 60
"""Earlier rounds are left to the summary: a longer page would pass the 1 MB that Kubeflow shows."""
MAX_SLICES = 40
_BEFORE_ROUNDS = -1
_AFTER_ROUNDS = 10**6
"""Sorting keys of prepare and publish in the cost table."""


def build_page(view: RunView, note: str = "") -> str:
    """Return the report of a run as HTML, under 1 MB. All text from models and data is escaped.

    Args:
        view: The run.
        note: A line about the run from the caller, such as the pipeline's own status.
    """
    shown = view.rounds[-MAX_ROUNDS_SHOWN:]
    threshold = view.recipe.decide.goal.threshold if view.recipe else None
    template = _templates().get_template("template.html")
    return template.render(
        view=view,
        note=note,
        headline=headline(view),
        outcome=outcome(view),
        figures=list(_figures(view)),
        score=score_chart(shown, threshold) if shown else "",
        drops=drop_chart(shown),
        losses=[(round_view, loss_chart(round_view)) for round_view in shown if round_view.curve],
        slices=_slices(shown),
        collapse=collapse_table(shown, view.recipe),
        hidden_rounds=len(view.rounds) - len(shown),
        rounds=[_round(view, round_view) for round_view in reversed(shown)],
        costs=list(_costs(view)),
        lineage=list(lineage(view)),
    )


def _figures(view: RunView) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the key figures under the headline."""
    champion = view.champion
    if champion is not None:
        low, high = champion.interval
        yield "champion", f"round {champion.round}"
        yield "validation", percent(champion.accuracy)
        yield "95 % interval", f"{100 * low:.1f} – {100 * high:.1f} %"
        yield "test", percent(champion.test_accuracy)
    if view.tasks:
        totals = view.totals
        yield "wall time", seconds_text(totals.wall_seconds)
        yield "not computing", percent(totals.share_not_computing, 0)
        yield "tokens", f"{totals.tokens:,.0f}"
        yield "peak memory", f"{totals.peak_memory_bytes / 2**20:,.0f} MiB"


def _slices(rounds: Sequence[RoundView]) -> list[tuple[str, list[float | None]]]:
    """Return (slice, accuracy per round), the rows of the heat map."""
    names = {name for round_view in rounds for name in round_view.record.slices}

    def order(name: str) -> list[tuple[int, int, str]]:
        # Numbers in names sort as numbers: length=9 stands before length=10.
        return [
            (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"(\d{1,9})", name)
        ]

    chosen = sorted(names, key=order)[:MAX_SLICES]
    return [
        (name, [round_view.record.slices.get(name) for round_view in rounds]) for name in chosen
    ]


def _round(view: RunView, round_view: RoundView) -> dict[str, Any]:
    """Return the template's fields of one round."""
    record, select = round_view.record, round_view.select
    return {
        "record": record,
        "train": round_view.train,
        "alarms": alarm_lines(record, select),
        "audit": audit_line(select),
        "hints": hints_line(select),
        "bias": bias_line(select),
        "filters": filter_rows(select),
        "changes": _changes_after(view, record),
        "kept": [
            (row.prompt, row.completion, _scores_text(row.provenance)) for row in round_view.kept
        ],
        "dropped": [_dropped(row) for row in round_view.dropped],
    }


def _changes_after(view: RunView, record: RoundRecord) -> list[tuple[str, Any, Any]]:
    """Return (setting, old, new) of the settings that the round after this one uses otherwise."""
    state = view.state
    assert state is not None, "rounds come from a state"
    if state.stop and record is state.history[-1]:
        return []  # the plan of a campaign that has ended is not carried out
    plans = {other.round: other.plan for other in state.history}
    following_plan = plans.get(record.round + 1, state.plan)
    changes = []
    for name in Plan.model_fields:
        old, new = getattr(record.plan, name), getattr(following_plan, name)
        if old != new:
            changes.append((name, old, new))
    return changes


def _scores_text(provenance: dict[str, Any]) -> str:
    scores = {name: value for name, value in provenance.items() if isinstance(value, float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(scores.items()))


def _dropped(row: Dropped) -> tuple[str, str, str]:
    """Return (prompt, answer, reason); a row of unknown form is shown as JSON."""
    prompt = str(row.row.get("prompt", row.row.get("prompt_id", "")))
    answer = row.row.get("completion", row.row.get("text"))
    if answer is None:
        answer = json.dumps(row.row, ensure_ascii=False, sort_keys=True)
    reason = f"{row.reason}: {row.detail}" if row.detail else row.reason
    return prompt, str(answer), reason


def _costs(view: RunView) -> Iterator[dict[str, Any]]:
    """Yield the lines of the cost table: one per round and step, shards together."""
    outside_rounds = {"prepare": _BEFORE_ROUNDS, "publish": _AFTER_ROUNDS}
    tasks_by_line: dict[tuple[int, str], list[TaskView]] = {}
    for task in view.tasks:
        order = outside_rounds.get(task.last.step, task.last.round)
        tasks_by_line.setdefault((order, task.last.step), []).append(task)

    def line_order(line: tuple[int, str]) -> tuple[int, float]:
        return line[0], tasks_by_line[line][0].attempts[0].started

    for order, step in sorted(tasks_by_line, key=line_order):
        tasks = tasks_by_line[order, step]
        attempts = [task.worked for task in tasks]
        yield {
            "round": "" if order in (_BEFORE_ROUNDS, _AFTER_ROUNDS) else order,
            "step": step,
            "tasks": len(tasks),
            "seconds": sum(attempt.seconds for attempt in attempts),
            "work_seconds": sum(attempt.work_seconds for attempt in attempts),
            "compute_seconds": sum(
                attempt.costs.get("compute_seconds", 0.0) for attempt in attempts
            ),
            "tokens": sum(tokens_of(attempt) for attempt in attempts),
            "peak_mebibytes": max(attempt.peak_memory_bytes for attempt in attempts) / 2**20,
            "status": ", ".join(sorted({task.status for task in tasks} - {"done"})),
        }


def lineage(view: RunView) -> Iterator[tuple[int, str, Receipt]]:
    """Yield (depth, role, receipt) of the champion's ancestry: the champion first, each once."""
    by_digest = {receipt.digest: receipt for receipt in view.receipts.values()}
    champion = view.receipts.get(view.state.champion) if view.state else None
    listed: set[str] = set()

    def walk(receipt: Receipt, role: str, depth: int) -> Iterator[tuple[int, str, Receipt]]:
        if receipt.ref in listed:
            return
        listed.add(receipt.ref)
        yield depth, role, receipt
        for name, digest in sorted(receipt.inputs.items(), key=lambda item: item[0]):
            if digest in by_digest:
                yield from walk(by_digest[digest], name, depth + 1)

    if champion is not None:
        yield from walk(champion, "champion", 0)


def _total(rows: Iterable[dict[str, Any]], name: str) -> float:
    return float(sum(row[name] for row in rows))


@cache
def _templates() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cut=cut, percent=percent, seconds=seconds_text, total=_total)
    return environment
