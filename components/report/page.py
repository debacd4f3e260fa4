"""The report of a run: one self-contained HTML page, without scripts and without anything from the
network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.contracts.rows import Dropped
from components.contracts.state import Plan
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
"""Rounds beyond this are left to the summary: a longer page would pass the 1 MB that Kubeflow
shows."""
MAX_SLICES = 40


def build_page(view: RunView, note: str = "") -> str:
    """The report of a run as HTML, under 1 MB. All text from models and data is escaped. `note` is
    a line for what the caller knows beside the run, such as the pipeline's own status."""
    shown = view.rounds[-MAX_ROUNDS_SHOWN:]
    template = _templates().get_template("template.html")
    return template.render(
        view=view,
        note=note,
        headline=headline(view),
        outcome=outcome(view),
        figures=list(_figures(view)),
        score=score_chart(shown, view.recipe.decide.goal.threshold if view.recipe else None)
        if shown
        else "",
        drops=drop_chart(shown),
        losses=[(one, loss_chart(one)) for one in shown if one.curve],
        slices=_slices(shown),
        collapse=collapse_table(shown, view.recipe),
        hidden_rounds=len(view.rounds) - len(shown),
        rounds=[_round(view, one) for one in reversed(shown)],
        costs=list(_costs(view)),
        lineage=list(lineage(view)),
    )


def _figures(view: RunView) -> Iterator[tuple[str, str]]:
    """The key figures under the headline: (what, how much)."""
    champion, totals = view.champion, view.totals
    if champion is not None:
        low, high = champion.interval
        yield "champion", f"round {champion.round}"
        yield "validation", percent(champion.accuracy)
        yield "95 % interval", f"{100 * low:.1f} – {100 * high:.1f} %"
        yield "test", percent(champion.test_accuracy)
    if view.tasks:
        yield "wall time", seconds_text(totals.wall_seconds)
        yield "not computing", percent(totals.share_not_computing, 0)
        yield "tokens", f"{totals.tokens:,.0f}"
        yield "peak memory", f"{totals.peak_memory_bytes / 2**20:,.0f} MiB"


def _slices(rounds: Sequence[RoundView]) -> list[tuple[str, list[float | None]]]:
    """Rows of the heat map: slice, accuracy per round; numbers in names sort as numbers."""
    names = {name for one in rounds for name in one.record.slices}

    def order(name: str) -> list[tuple[int, int, str]]:
        return [
            (0, int(piece), "") if piece.isdecimal() else (1, 0, piece)
            for piece in re.split(r"(\d{1,9})", name)
        ]

    chosen = sorted(names, key=order)[:MAX_SLICES]
    return [(name, [one.record.slices.get(name) for one in rounds]) for name in chosen]


def _round(view: RunView, one: RoundView) -> dict[str, Any]:
    state = view.state
    assert state is not None, "rounds come from a state"
    later = next(
        (record.plan for record in state.history if record.round == one.record.round + 1),
        state.plan,
    )
    return {
        "record": one.record,
        "train": one.train,
        "alarms": alarm_lines(one.record, one.select),
        "audit": audit_line(one.select),
        "hints": hints_line(one.select),
        "bias": bias_line(one.select),
        "filters": filter_rows(one.select),
        "changes": []
        if state.stop and one.record is state.history[-1]
        else list(plan_changes(one.record.plan, later)),
        "kept": [(row.prompt, row.completion, _why_kept(row.provenance)) for row in one.kept],
        "dropped": [_dropped(row) for row in one.dropped],
    }


def plan_changes(before: Plan, after: Plan) -> Iterator[tuple[str, Any, Any]]:
    """(setting, old, new) of every setting that differs."""
    for name in Plan.model_fields:
        old, new = getattr(before, name), getattr(after, name)
        if old != new:
            yield name, old, new


def _why_kept(provenance: dict[str, Any]) -> str:
    scores = {name: value for name, value in provenance.items() if isinstance(value, float)}
    return ", ".join(f"{name} {value:.4g}" for name, value in sorted(scores.items()))


def _dropped(row: Dropped) -> tuple[str, str, str]:
    """(prompt, answer, reason); a row of unknown form is shown as it is."""
    prompt = str(row.row.get("prompt", row.row.get("prompt_id", "")))
    answer = row.row.get("completion", row.row.get("text"))
    text = (
        json.dumps(row.row, ensure_ascii=False, sort_keys=True) if answer is None else str(answer)
    )
    return prompt, text, f"{row.reason}: {row.detail}" if row.detail else row.reason


def _costs(view: RunView) -> Iterator[dict[str, Any]]:
    """Lines of the cost table: one per round and step, shards together."""
    groups: dict[tuple[int, str], list[TaskView]] = {}
    for task in view.tasks:
        order = (
            -1
            if task.last.step == "prepare"
            else 10**6
            if task.last.step == "publish"
            else task.last.round
        )
        groups.setdefault((order, task.last.step), []).append(task)
    for (order, step), tasks in sorted(
        groups.items(), key=lambda item: (item[0][0], item[1][0].attempts[0].started)
    ):
        worked = [task.worked for task in tasks]
        yield {
            "round": "" if order in (-1, 10**6) else order,
            "step": step,
            "tasks": len(tasks),
            "seconds": sum(one.seconds for one in worked),
            "work_seconds": sum(one.work_seconds for one in worked),
            "compute_seconds": sum(one.costs.get("compute_seconds", 0.0) for one in worked),
            "tokens": sum(tokens_of(one) for one in worked),
            "peak_mebibytes": max(one.peak_memory_bytes for one in worked) / 2**20,
            "status": ", ".join(sorted({task.status for task in tasks} - {"done"})),
        }


def lineage(view: RunView) -> Iterator[tuple[int, str, int | None, Receipt]]:
    """The champion's ancestry: (depth, role, round or None, receipt), the champion first, every
    receipt once."""
    by_digest = {receipt.digest: receipt for receipt in view.receipts.values()}
    champion = view.receipts.get(view.state.champion or "") if view.state else None
    rounds = _rounds_of_receipts(view)
    seen: set[str] = set()

    def walk(
        receipt: Receipt, role: str, depth: int
    ) -> Iterator[tuple[int, str, int | None, Receipt]]:
        if receipt.ref in seen:
            return
        seen.add(receipt.ref)
        yield depth, role, rounds.get(receipt.ref), receipt
        for name, digest in sorted(receipt.inputs.items(), key=lambda item: item[0]):
            if digest in by_digest:
                yield from walk(by_digest[digest], name, depth + 1)

    if champion is not None:
        yield from walk(champion, "champion", 0)


def _rounds_of_receipts(view: RunView) -> dict[str, int]:
    """Ref of a receipt → its round, for all that belong to one."""
    rounds = {
        task.last.receipt: task.last.round
        for task in view.tasks
        if task.last.step not in ("prepare", "publish")
    }
    for record in view.state.history if view.state is not None else ():
        rounds |= dict.fromkeys(record.receipts.values(), record.round)
    return rounds


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
