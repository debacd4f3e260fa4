"""The report of a run: one HTML page, without scripts and without anything from the network."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import JsonValue

from components.contracts.rows import Dropped
from components.contracts.state import ModelRecord, Plan, RoundRecord
from components.contracts.summaries import TrainSummary
from components.measures import measure_of, percent
from components.report.advice import before_and_after, may_release, next_step
from components.report.charts import drop_chart, loss_chart, score_chart
from components.report.checks import (
    FilterRow,
    alarm_lines,
    audit_line,
    bias_line,
    collapse_table,
    filter_rows,
    hints_line,
    people_line,
    written_line,
)
from components.report.costs import tokens_of
from components.report.risks import cost_sentence, lost_slices, risks
from components.report.summary import OUTSIDE_ROUNDS
from components.report.views import Rounds, RoundView, RunView, TaskView
from components.report.words import cut, data_sentences, headline, outcome, seconds_text
from components.runtime.receipts import Receipt

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

EXAMPLES_PER_ROUND = 12
# A longer page would pass the 1 MB that Kubeflow shows.
MAX_ROUNDS_SHOWN = 60
"""Rounds on the page; earlier ones are left to the summary."""
MAX_SLICES = 40
"""Rows of the heat map."""
_BEFORE_ROUNDS = -1
"""Sorting key of prepare in the cost table."""
_AFTER_ROUNDS = 10**6
"""Sorting key of publish."""

Example = tuple[str, str, str]
"""(prompt, answer, scores or reason) of a sample."""
PlanChange = tuple[str, object, object]
"""(setting, old value, new value)."""
CostKey = tuple[int, str]
"""(sorting key of the round, step)."""


@dataclass(frozen=True)
class RoundSection:
    """The section of one round, as the template shows it."""

    record: RoundRecord
    train: TrainSummary | None
    alarms: list[str]
    audit: str
    written: str
    people: str
    hints: str
    bias: str
    filters: list[FilterRow]
    changes: list[PlanChange]
    accepted: list[Example]
    dropped: list[Example]


@dataclass(frozen=True)
class CostLine:
    """A line of the cost table: a step of a round, its shards together."""

    round: int | None
    """None for steps outside of rounds."""
    step: str
    tasks: int
    """Tasks side by side, whose seconds and tokens are added up."""
    seconds: float
    work_seconds: float
    compute_seconds: float
    tokens: float
    peak_mebibytes: float
    status: str
    """Statuses other than done."""


@dataclass(frozen=True)
class LineageEntry:
    """A receipt that the champion was made from."""

    depth: int
    """0 for the champion itself."""
    role: str
    """Name of the input."""
    round: int | None
    receipt: Receipt


def build_page(view: RunView, note: str = "") -> str:
    """Return the report of a run as HTML, under 1 MB. All text from models and data is escaped.

    Args:
        view: The run.
        note: A line about the run from the caller, such as the pipeline's own status.
    """
    recent_rounds = view.rounds[-MAX_ROUNDS_SHOWN:]
    threshold = view.recipe.decide.goal.threshold if view.recipe else None
    losses = [
        (round_view, loss_chart(round_view))
        for round_view in recent_rounds
        if round_view.curve
    ]
    base = view.state.base if view.state else None
    # With rounds left out, the champion before those shown is another one.
    all_are_shown = len(recent_rounds) == len(view.rounds)
    base_score = base.score if base is not None and all_are_shown else None
    metric = view.champion.metric if view.champion is not None else "accuracy"
    template = _templates().get_template("template.html")
    return template.render(
        view=view,
        measure=measure_of(metric),
        note=note,
        headline=headline(view),
        outcome=outcome(view),
        before_and_after=before_and_after(view),
        may_release=may_release(view),
        next_step=next_step(view),
        lost_slices=lost_slices(view),
        risks=list(risks(view)) if view.waits_for_approval else [],
        cost=cost_sentence(view.totals),
        figures=list(_figures(view)),
        score=score_chart(recent_rounds, threshold, base_score)
        if recent_rounds
        else "",
        drops=drop_chart(recent_rounds),
        losses=losses,
        slices=_slices(recent_rounds, base if all_are_shown else None),
        collapse=collapse_table(recent_rounds, view.recipe),
        hidden_rounds=len(view.rounds) - len(recent_rounds),
        rounds=[_section(view, round_view) for round_view in reversed(recent_rounds)],
        data=data_sentences(view),
        costs=_costs(view),
        lineage=list(lineage(view)),
    )


def _figures(view: RunView) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of the key figures under the headline."""
    # Test stands above, in large: validation has chosen the champion, and flatters it.
    champion = view.champion
    if champion is not None:
        measure = measure_of(champion.metric)
        assert view.state is not None, "a champion is in a state"
        if view.state.base is not None and view.state.champion_round is not None:
            yield "base on validation", measure.text(view.state.base.score)
        interval = measure.interval_text(champion.interval)
        yield "champion on validation", f"{measure.text(champion.score)} {interval}"
        if champion.macro_f1 is not None:
            yield "macro-F1", f"{champion.macro_f1:.3f}"
        if champion.brier is not None:
            yield "Brier score", f"{champion.brier:.3f}"
    if view.tasks:
        totals = view.totals
        yield "wall time", seconds_text(totals.wall_seconds)
        yield "not computing", percent(totals.share_not_computing, 0)
        yield "tokens", f"{totals.tokens:,.0f}"
        peak_mebibytes = totals.peak_memory_bytes / 2**20
        yield "peak memory", f"{peak_mebibytes:,.0f} MiB"


def _slices(
    rounds: Rounds, base: ModelRecord | None
) -> list[tuple[str, list[float | None]]]:
    """Return (slice, accuracy of the base and per round), the rows of the heat map."""
    # A slice that a round did not measure has an empty cell in its column; so has a weak round,
    # which trained no model to measure.
    columns = [{} if one.record.weak else one.record.slices for one in rounds]
    columns.insert(0, base.slices if base is not None else {})
    names = {name for slices in columns for name in slices}
    rows = []
    for name in sorted(names, key=_slice_order)[:MAX_SLICES]:
        accuracies = [slices.get(name) for slices in columns]
        rows.append((name, accuracies))
    return rows


def _slice_order(name: str) -> list[tuple[int, int, str]]:
    """Return a sorting key that has length=9 before length=10."""
    # At most nine digits: the name is data, and Python reads no number of over 4,300 digits.
    order = []
    for piece in re.split(r"(\d{1,9})", name):
        if piece.isdecimal():
            order.append((0, int(piece), ""))
        else:
            order.append((1, 0, piece))
    return order


def _section(view: RunView, round_view: RoundView) -> RoundSection:
    record = round_view.record
    select = round_view.select
    accepted: list[Example] = []
    for row in round_view.accepted:
        scores = _scores_text(row.provenance)
        accepted.append((row.prompt, row.completion, scores))
    return RoundSection(
        record=record,
        train=round_view.train,
        alarms=alarm_lines(record, select),
        audit=audit_line(select),
        people=people_line(select),
        written=written_line(round_view.generate),
        hints=hints_line(select),
        bias=bias_line(select),
        filters=filter_rows(select),
        changes=_changes_after(view, record),
        accepted=accepted,
        dropped=[_dropped(row) for row in round_view.dropped],
    )


def _changes_after(view: RunView, record: RoundRecord) -> list[PlanChange]:
    """Return the settings that the round after this one uses otherwise."""
    state = view.state
    assert state is not None, "rounds come from a state"
    # The last plan of a campaign that has ended is never carried out.
    if state.stop and record is state.history[-1]:
        return []
    plans = {finished.round: finished.plan for finished in state.history}
    following_plan = plans.get(record.round + 1, state.plan)
    changes: list[PlanChange] = []
    for name in Plan.model_fields:
        old = getattr(record.plan, name)
        new = getattr(following_plan, name)
        if old != new:
            changes.append((name, old, new))
    return changes


def _scores_text(provenance: dict[str, JsonValue]) -> str:
    # Entries of other types say where a row comes from, not how good it is.
    scores = []
    for name, value in sorted(provenance.items()):
        if isinstance(value, float):
            scores.append(f"{name} {value:.4g}")
    return ", ".join(scores)


def _dropped(row: Dropped) -> Example:
    """Return a dropped sample; a row of unknown form is shown as JSON."""
    # Filters drop samples and training rows, which call the answer differently.
    fields = row.row
    prompt = fields.get("prompt", fields.get("prompt_id", ""))
    answer = fields.get("completion", fields.get("text"))
    if answer is None:
        answer = json.dumps(fields, ensure_ascii=False, sort_keys=True)
    reason = f"{row.reason}: {row.detail}" if row.detail else row.reason
    return str(prompt), str(answer), reason


def _costs(view: RunView) -> list[CostLine]:
    """Return the lines of the cost table in the order of the rounds and of time."""
    # Attempts of these have the number of the round that the state was in.
    outside_rounds = {"prepare": _BEFORE_ROUNDS, "publish": _AFTER_ROUNDS}
    tasks_by_line: dict[CostKey, list[TaskView]] = {}
    for task in view.tasks:
        order = outside_rounds.get(task.last.step, task.last.round)
        tasks_by_line.setdefault((order, task.last.step), []).append(task)

    def line_order(line: CostKey) -> tuple[int, float]:
        round_order, _ = line
        first_task = tasks_by_line[line][0]
        return round_order, first_task.attempts[0].started

    in_order = sorted(tasks_by_line, key=line_order)
    return [_cost_line(line, tasks_by_line[line]) for line in in_order]


def _cost_line(line: CostKey, tasks: Sequence[TaskView]) -> CostLine:
    order, step = line
    # A re-used task took a second; what it re-used is what the run has cost.
    attempts = [task.worked for task in tasks]
    compute_seconds = [
        attempt.costs.get("compute_seconds", 0.0) for attempt in attempts
    ]
    peak_bytes = max(attempt.peak_memory_bytes for attempt in attempts)
    statuses = {task.status for task in tasks} - {"done"}
    return CostLine(
        round=None if step in OUTSIDE_ROUNDS or order < 0 else order,
        step=step,
        tasks=len(tasks),
        seconds=sum(attempt.seconds for attempt in attempts),
        work_seconds=sum(attempt.work_seconds for attempt in attempts),
        compute_seconds=sum(compute_seconds),
        tokens=sum(tokens_of(attempt) for attempt in attempts),
        peak_mebibytes=peak_bytes / 2**20,
        status=", ".join(sorted(statuses)),
    )


def lineage(view: RunView) -> Iterator[LineageEntry]:
    """Yield the champion's ancestry: the champion first, every receipt once."""
    receipts_by_digest = {receipt.digest: receipt for receipt in view.receipts.values()}
    rounds = _rounds_of_receipts(view)
    listed: set[str] = set()

    def walk(receipt: Receipt, role: str, depth: int) -> Iterator[LineageEntry]:
        # Many steps share inputs, such as the splits.
        if receipt.ref in listed:
            return
        listed.add(receipt.ref)
        yield LineageEntry(depth, role, rounds.get(receipt.ref), receipt)
        # A receipt names its inputs by digest; one that could not be read is left out.
        for name, digest in sorted(receipt.inputs.items()):
            if digest in receipts_by_digest:
                yield from walk(receipts_by_digest[digest], name, depth + 1)

    champion_ref = view.state.champion if view.state else None
    champion = view.receipts.get(champion_ref or "")
    if champion is not None:
        yield from walk(champion, "champion", 0)


def _rounds_of_receipts(view: RunView) -> dict[str, int]:
    """Return ref of a receipt → its round, for all that belong to one."""
    rounds = {
        task.last.receipt: task.last.round
        for task in view.tasks
        if task.last.step not in OUTSIDE_ROUNDS and task.last.round >= 0
    }
    if view.state is not None:
        for record in view.state.history:
            rounds |= dict.fromkeys(record.receipts.values(), record.round)
    return rounds


def _total(lines: Iterable[CostLine], name: str) -> float:
    return float(sum(getattr(line, name) for line in lines))


def _marked(text: str) -> Markup:
    """Return a sentence as HTML: escaped, with commands and keys, which stand in backticks, as
    code."""
    from markupsafe import Markup, escape

    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def templates_in(folder: Path) -> Environment:
    """Return the environment of a folder of HTML templates, in which all text is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        # Answers of models and rows of files are strangers' text: none of it may become markup.
        autoescape=True,
        # A field that was renamed in Python alone must be an error, not an empty cell.
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _templates() -> Environment:
    environment = templates_in(Path(__file__).parent)
    environment.filters.update(
        cut=cut, percent=percent, seconds=seconds_text, total=_total, marked=_marked
    )
    return environment
