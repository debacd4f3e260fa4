"""What the verbs print: runs, receipts and states, on wide and on narrow terminals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.contracts.state import RoundRecord, State
from components.errors import UserError
from components.report.summary import round_seconds
from components.report.views import RunView
from components.report.words import cut, headline, outcome, percent, seconds_text
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_receipt, ref_of_uri

NARROW_COLUMNS = 100
"""Below this a table of rounds would break words; each round becomes a few lines instead."""

_STYLES = {"good": "green", "bad": "red", "warn": "yellow", "soft": "dim"}


def print_run(console: Console, view: RunView, *, tasks: bool = False) -> None:
    """Headline, rounds and totals of a run; with `tasks` every task and what it died of too."""
    style, label = outcome(view)
    console.print(Text.assemble((view.run_id, "bold"), "  ", (label, _STYLES[style])))
    console.print(Text(headline(view)))
    if view.state is not None and view.state.history:
        console.print()
        seconds = {record.round: round_seconds(view, record.round) for record in view.state.history}
        print_rounds(console, view.state.history, seconds)
    if tasks:
        console.print()
        _print_tasks(console, view)
        for task in view.failed:
            console.print(Text(f"{task.name}: {cut(task.last.error, 500)}", style="red"))
    for problem in view.problems:
        console.print(Text(f"not readable: {cut(problem, 300)}", style="yellow"))
    if view.tasks:
        console.print()
        idle = view.totals.share_not_computing
        told = f", {percent(idle, 0)} of it not computing" if idle is not None else ""
        console.print(
            Text(f"wall time {seconds_text(view.totals.wall_seconds)}{told}", style="dim")
        )


def print_rounds(
    console: Console, history: tuple[RoundRecord, ...], seconds: dict[int, float]
) -> None:
    """The rounds of a campaign, oldest first."""
    if console.width < NARROW_COLUMNS:
        for record in history:
            console.print(Text.assemble((f"round {record.round}  ", "bold"), _verdict(record)))
            console.print(Text(f"  {_accuracy(record)}"))
            console.print(Text(f"  {_accepted(record)} accepted, {_seconds(seconds, record)}"))
            console.print(Text(f"  {cut(record.why, 300)}", style="dim"))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("round", "accuracy [95 %]", "accepted", "verdict", "seconds"):
        table.add_column(
            name,
            no_wrap=True,
            justify="right" if name in ("round", "accepted", "seconds") else "left",
        )
    table.add_column("why", ratio=1)
    for record in history:
        table.add_row(
            str(record.round),
            _accuracy(record),
            _accepted(record),
            _verdict(record),
            _seconds(seconds, record),
            Text(cut(record.why, 300)),
        )
    console.print(table)


def _print_tasks(console: Console, view: RunView) -> None:
    for task in view.tasks:
        style = {"done": "green", "failed": "red", "reused": "dim", "unfinished": "yellow"}[
            task.status
        ]
        line = Text.assemble((f"{cut(task.name, 40):<15} ", ""), (f"{task.status:<11}", style))
        line.append(f"{task.worked.seconds:8.1f} s", style="dim")
        if console.width >= NARROW_COLUMNS:
            line.append(f"  {task.worked.peak_memory_bytes / 2**20:6,.0f} MiB", style="dim")
            line.append(
                f"  {task.last.receipt}"
                + (f"  try {len(task.attempts)}" if len(task.attempts) > 1 else "")
            )
        console.print(line, no_wrap=True, overflow="ellipsis")


def _accuracy(record: RoundRecord) -> str:
    low, high = record.interval
    return f"{percent(record.accuracy)} [{100 * low:.1f}–{100 * high:.1f}]"


def _accepted(record: RoundRecord) -> str:
    return f"{record.accepted}/{record.generated}" if record.generated else "–"


def _verdict(record: RoundRecord) -> Text:
    return Text(record.verdict, style="yellow" if record.verdict == "rejected" else "green")


def _seconds(seconds: dict[int, float], record: RoundRecord) -> str:
    spent = seconds.get(record.round, 0.0)
    return seconds_text(spent) if spent else "–"


def find_receipt(context: Context, target: str) -> Receipt:
    """The receipt behind a `step/key` reference, a receipt's URI or the path of a KFP pointer
    artifact."""
    path = Path(target)
    if "://" not in target and path.is_file():
        try:
            target = str(json.loads(path.read_text(encoding="utf-8"))["uri"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(f"{path}: not a pointer artifact (JSON with a `uri`)") from None
    if "://" in target:
        return read_receipt(context, ref_of_uri(context, target))
    step, slash, key = target.partition("/")
    if not (step and slash and key):
        raise UserError(
            f"{target!r}: give step/key, the URI of a receipt or the file of a pointer artifact"
        )
    return read_receipt(context, target)


def print_receipt(console: Console, receipt: Receipt, state: State | None) -> None:
    """A receipt for people; a state's rounds below it."""
    console.print(Text.assemble((receipt.step, "bold"), f"/{receipt.key}"))
    _print_pairs(console, {"digest": receipt.digest, "code": receipt.code, "seed": receipt.seed})
    for title, values in (
        ("inputs", receipt.inputs),
        ("summary", receipt.summary),
        ("config", receipt.config),
    ):
        if values:
            console.print(Text(f"\n{title}", style="dim"))
            _print_pairs(console, values)
    if receipt.objects:
        console.print(Text("\nobjects", style="dim"))
        _print_pairs(
            console,
            {name: f"{ref.size:,} bytes  {ref.sha256}" for name, ref in receipt.objects.items()},
        )
    if state is not None:
        console.print(Text("\nstate", style="dim"))
        shown = state.model_dump(mode="json", exclude={"history", "schema_version"})
        _print_pairs(console, shown)
        if state.history:
            console.print()
            print_rounds(console, state.history, {})


def _print_pairs(console: Console, values: dict[str, Any]) -> None:
    width = min(24, max(len(name) for name in values))
    for name, value in values.items():
        shown = (
            value
            if isinstance(value, str)
            else json.dumps(value, ensure_ascii=False, sort_keys=True)
        )
        console.print(Text(f"{cut(name, 60):<{width}}  {cut(shown, 400)}"), soft_wrap=False)
