"""The `watch` verb: follow a run from its store alone, wherever it is carried out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass

from rich.console import Console
from rich.text import Text

from components.cli.messages import as_json_text
from components.cli.stores import unknown_run
from components.contracts.state import RoundRecord
from components.measures import measure_of
from components.report.runs import load_run
from components.report.summary import (
    RunSummary,
    round_document,
    round_seconds,
    summary_of,
    task_document,
)
from components.report.views import RunView, TaskView
from components.report.words import cut, headline, seconds_text
from components.runtime.context import Context
from components.storage import keys

_STYLES = {"done": "green", "failed": "red", "reused": "dim", "promoted": "green"}

Fingerprint = dict[str, str | None]
"""Key of an attempt record → word that changes with its content."""


@dataclass(frozen=True)
class Event:
    """Something that has happened, for people and for programs."""

    line: Text
    document: RunSummary


def watch(
    context: Context,
    run_id: str,
    console: Console,
    pause: Callable[[], object],
    *,
    as_json: bool = False,
) -> RunView:
    """Print what happens to a run until it ends, and return it as it is then.

    A line for each task that ends and each round that is decided; a terminal has one more line that
    moves, with what is under way.

    Args:
        context: Store of the run.
        run_id: The run.
        console: Where to print; without a terminal nothing moves.
        pause: Waits before the next look at the store.
        as_json: Print a JSON document a line (JSON Lines), whose `event` is `task`, `round` or `end`.

    Raises:
        UserError: The store knows no such run.
        Transient: The store cannot be reached for now.
    """
    view = _load(context, run_id)
    fingerprint = _fingerprint(context, view)
    announced: set[str] = set()
    moving = nullcontext() if as_json else console.status("")
    with moving as status:
        while True:
            for event in _news(view):
                if event.line.plain not in announced:
                    announced.add(event.line.plain)
                    _print(console, event, as_json=as_json)
            if has_ended(view):
                break
            outlook = _outlook(view, context.clock())
            if status is not None:
                status.update(Text(outlook))
            # Where nothing moves, it is said once for each task that begins.
            if (
                not (as_json or console.is_terminal)
                and (begun := _begun(view)) not in announced
            ):
                announced.add(begun)
                console.print(Text(outlook, style="dim"), soft_wrap=True)
            pause()
            # One listing, and a look at each record that may have changed: a whole run is read
            # again only when something has happened.
            newest = _fingerprint(context, view)
            if newest != fingerprint:
                view = _load(context, run_id)
                fingerprint = _fingerprint(context, view)
    end = Event(Text(headline(view)), {"event": "end", **summary_of(view)})
    _print(console, end, as_json=as_json)
    return view


def _print(console: Console, event: Event, *, as_json: bool) -> None:
    if as_json:
        # Not by rich, which would wrap and colour it.
        document = as_json_text(event.document)
        print(document, file=console.file, flush=True)
    else:
        console.print(event.line, soft_wrap=True)


def has_ended(view: RunView) -> bool:
    """Return True if nothing more happens to a run unless it is started again."""
    return view.publication is not None or bool(view.failed)


def _load(context: Context, run_id: str) -> RunView:
    view = load_run(context, run_id)
    if not view.tasks:
        raise unknown_run(context, run_id)
    return view


def _fingerprint(context: Context, view: RunView) -> Fingerprint:
    """Return what changes when an attempt of the run begins or ends."""
    # A record that has an end is never written again.
    ended = {
        attempt.order
        for task in view.tasks
        for attempt in task.attempts
        if attempt.receipt or attempt.error
    }
    fingerprint: Fingerprint = {}
    for key in context.store.list(keys.attempts_prefix(view.run_id)):
        milliseconds, _, sequence = (
            key.rpartition("/")[2].removesuffix(".json").partition("-")
        )
        has_end = any(
            int(started * 1000) == _number(milliseconds)
            and order == _number(sequence.rpartition("-")[2])
            for order, started in ended
        )
        fingerprint[key] = None if has_end else context.store.version(key)
    return fingerprint


def _number(text: str) -> int:
    with suppress(ValueError):
        return int(text)
    return -1


def _news(view: RunView) -> Iterator[Event]:
    """Yield each task that has ended and each round that is decided."""
    history = () if view.state is None else view.state.history
    records = {record.round: record for record in history}
    for task in view.tasks:
        if task.status == "unfinished":
            continue
        document = {"error": task.last.error, **task_document(task)}
        yield Event(_task_line(task), {"event": "task", **document})
        record = records.get(task.last.round)
        if task.last.step == "decide" and record is not None:
            yield Event(
                _round_line(record), {"event": "round", **round_document(view, record)}
            )


def _task_line(task: TaskView) -> Text:
    line = Text(f"{cut(task.name, 40):<16} ")
    line.append(task.status, style=_STYLES.get(task.status, ""))
    line.append(f", {seconds_text(task.worked.seconds)}", style="dim")
    rate = _rate(task)
    if rate:
        line.append(f", {rate:,.0f} tokens/s", style="dim")
    if task.last.error:
        line.append(f": {cut(task.last.error, 300)}", style="red")
    return line


def _round_line(record: RoundRecord) -> Text:
    measure = measure_of(record.metric)
    line = Text(f"round {record.round} ", style="bold")
    line.append(record.verdict, style=_STYLES.get(record.verdict, "yellow"))
    if not record.weak:
        interval = measure.interval_text(record.interval)
        line.append(
            f", {measure.name} {measure.text(record.score)} {interval} on validation"
        )
    line.append(f": {cut(record.why, 300)}")
    return line


def _rate(task: TaskView) -> float:
    """Return the tokens per second of a task's computing; 0 where that is not known."""
    costs = task.worked.costs
    tokens = sum(amount for name, amount in costs.items() if name.startswith("tokens"))
    seconds = costs.get("compute_seconds", 0.0)
    return tokens / seconds if seconds else 0.0


def _begun(view: RunView) -> str:
    return "begun: " + ", ".join(task.name for task in _under_way(view))


def _under_way(view: RunView) -> list[TaskView]:
    return [task for task in view.tasks if task.status == "unfinished"]


def _outlook(view: RunView, now_seconds: float) -> str:
    """Return what is under way, the time that is left at most, and the cost, in one line."""
    pieces = []
    for task in _under_way(view):
        piece = (
            f"{task.name} for {seconds_text(max(0.0, now_seconds - task.last.started))}"
        )
        earlier = _same_step_before(view, task)
        if earlier is not None:
            piece += f" ({seconds_text(earlier.worked.seconds)} in round {earlier.last.round})"
        pieces.append(piece)
    if not pieces:
        pieces.append("between two tasks")
    pieces += [*_time_left(view), *_costs(view)]
    return " · ".join(pieces)


def _same_step_before(view: RunView, task: TaskView) -> TaskView | None:
    """Return the same step of the newest earlier round that did its work."""
    earlier_tasks = [
        other_task
        for other_task in view.tasks
        if other_task.last.step == task.last.step
        and 0 <= other_task.last.round < task.last.round
        and other_task.status in ("done", "reused")
    ]
    return max(
        earlier_tasks, key=lambda earlier_task: earlier_task.last.round, default=None
    )


def _time_left(view: RunView) -> Iterator[str]:
    """Yield how long the run takes at most, once a round with samples is done."""
    if view.recipe is None or view.state is None:
        return
    max_rounds = view.recipe.decide.max_rounds
    finished = [record.round for record in view.state.history]
    yield f"{len(finished)} rounds done, {max_rounds} at most after round 0"
    lasting = [round_seconds(view, number) for number in finished if number]
    if not lasting or view.state.stop is not None:
        return
    # A task that is under way is part of the first of these rounds: an upper bound.
    rounds_left = max(0, max_rounds - max(finished))
    left_seconds = rounds_left * sum(lasting) / len(lasting)
    yield f"about {seconds_text(left_seconds)} left at most"


def _costs(view: RunView) -> Iterator[str]:
    """Yield what the run has cost, against its budget if it has one."""
    budget = view.recipe.decide.budget if view.recipe is not None else None
    minutes = view.totals.task_seconds / 60
    if budget is not None and budget.minutes is not None:
        yield f"{minutes:.1f} of {budget.minutes:g} minutes"
    else:
        yield f"{minutes:.1f} minutes of tasks"
    if budget is not None and budget.tokens is not None:
        yield f"{view.totals.tokens:,.0f} of {budget.tokens:,} tokens"
    else:
        yield f"{view.totals.tokens:,.0f} tokens"
