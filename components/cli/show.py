"""Runs, receipts and states as the verbs print them, on wide and on narrow terminals."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import JsonValue
from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.contracts.state import RoundRecord, State
from components.errors import Missing, UserError
from components.measures import measure_of, percent
from components.report.differences import Differences
from components.report.summary import round_seconds
from components.report.views import RunView, TaskView
from components.report.words import cut, data_sentences, headline, outcome, seconds_text
from components.runtime.context import Context
from components.runtime.receipts import Receipt, read_receipt, ref_of_uri

# Everything is printed as rich's Text: in a plain string, a model's words in brackets would be
# taken for markup. And everything that others wrote is cut: a reason may be pages long.

# Below this a table of rounds would break words; each round becomes a few lines instead.
NARROW_COLUMNS = 100

_STYLES = {"good": "green", "bad": "red", "warn": "yellow", "soft": "dim"}
_TASK_STYLES = {
    "done": "green",
    "failed": "red",
    "reused": "dim",
    "unfinished": "yellow",
}


def print_run(console: Console, view: RunView, *, tasks: bool = False) -> None:
    """Print headline, rounds and totals of a run.

    Args:
        console: Where to print.
        view: The run.
        tasks: Print every task too, with its error.
    """
    style, label = outcome(view)
    console.print(Text.assemble((view.run_id, "bold"), "  ", (label, _STYLES[style])))
    _print(console, headline(view))
    if view.state is not None and view.state.history:
        console.print()
        seconds = {
            record.round: round_seconds(view, record.round)
            for record in view.state.history
        }
        print_rounds(console, view.state.history, seconds)
    sentences = data_sentences(view)
    if sentences:
        console.print()
    for sentence in sentences:
        _print(console, cut(sentence, 400), "dim")
    if tasks:
        console.print()
        _print_tasks(console, view)
    for problem in view.problems:
        _print(console, f"not readable: {cut(problem, 300)}", "yellow")
    if view.tasks:
        console.print()
        _print(console, _wall_time(view), "dim")


def print_waiting(console: Console, view: RunView) -> None:
    """Print that the champion waits for approval, and what releases it."""
    publication = view.publication
    assert publication is not None, "what waits was compared"
    command = (
        f"approve {view.run_id} --version {publication.version} --store {view.store}"
    )
    text = f"waiting for approval: `{command}` releases {publication.name} {publication.version}"
    console.print(Text(text, style="yellow"), soft_wrap=True)


def _wall_time(view: RunView) -> str:
    text = f"wall time {seconds_text(view.totals.wall_seconds)}"
    idle_share = view.totals.share_not_computing
    if idle_share is None:
        return text
    return f"{text}, {percent(idle_share, 0)} of it not computing"


def print_runs(
    console: Console, views: Sequence[RunView], begun: Mapping[str, str]
) -> None:
    """Print a line or, on a narrow terminal, a few lines for each run.

    Args:
        console: Where to print.
        views: The runs.
        begun: Run → date and time at which it began.
    """
    if console.width < NARROW_COLUMNS:
        for view in views:
            style, label = outcome(view)
            console.print(
                Text.assemble((view.run_id, "bold"), "  ", (label, _STYLES[style]))
            )
            _print(
                console, f"  {begun[view.run_id]}, {_rounds_done(view)}, {_gain(view)}"
            )
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for title in (
        "run",
        "begun (UTC)",
        "outcome",
        "rounds",
        "base → champion",
        "on test",
    ):
        table.add_column(title, no_wrap=title != "run")
    for view in views:
        style, label = outcome(view)
        champion = view.champion
        table.add_row(
            Text(view.run_id, style="bold"),
            begun[view.run_id],
            Text(label, style=_STYLES[style]),
            _rounds_done(view),
            _gain(view),
            measure_of(champion.metric).text(champion.test_score) if champion else "–",
        )
    console.print(table)


def _rounds_done(view: RunView) -> str:
    num_rounds = len(view.rounds)
    return f"{num_rounds} round{'' if num_rounds == 1 else 's'}"


def _gain(view: RunView) -> str:
    """Return the validation scores of base and champion, by the measure of the run."""
    base = view.state.base if view.state is not None else None
    champion = view.champion
    if base is None or champion is None:
        return "– → –"
    measure = measure_of(champion.metric)
    return f"{measure.text(base.score)} → {measure.text(champion.score)}"


def print_differences(console: Console, differences: Differences) -> None:
    """Print what two runs were asked for differently, then both outcomes."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    for run_id in (differences.first, differences.second):
        table.add_column(Text(run_id), overflow="fold")
    if not differences.recipe:
        table.add_row("the same recipe", "", "")
    for difference in differences.recipe:
        table.add_row(
            Text(difference.key), _value(difference.first), _value(difference.second)
        )
    table.add_section()
    for difference in differences.outcome:
        table.add_row(
            Text(difference.key.replace("_", " "), style="dim"),
            _value(difference.first),
            _value(difference.second),
        )
    console.print(table)


def _value(value: JsonValue) -> Text:
    if value is None:
        return Text("–")
    return Text(cut(value if isinstance(value, str) else json.dumps(value), 100))


def print_rounds(
    console: Console, history: tuple[RoundRecord, ...], seconds: Mapping[int, float]
) -> None:
    """Print the rounds of a campaign, oldest first.

    Args:
        console: Where to print; a narrow one gets lines instead of a table.
        history: The rounds.
        seconds: Round → time it took.
    """
    if console.width < NARROW_COLUMNS:
        for record in history:
            _print_round_lines(console, record, seconds)
        return
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("round", no_wrap=True, justify="right")
    table.add_column(f"{history[0].metric} [95 %]", no_wrap=True)
    table.add_column("accepted", no_wrap=True, justify="right")
    table.add_column("verdict", no_wrap=True)
    table.add_column("seconds", no_wrap=True, justify="right")
    table.add_column("why", ratio=1)
    for record in history:
        table.add_row(
            str(record.round),
            _score(record),
            _accepted(record),
            _verdict(record),
            _seconds(seconds, record),
            Text(cut(record.why, 300)),
        )
    console.print(table)


def _print_round_lines(
    console: Console, record: RoundRecord, seconds: Mapping[int, float]
) -> None:
    title = Text(f"round {record.round}  ", style="bold")
    console.print(title + _verdict(record))
    accepted = _accepted(record)
    duration = _seconds(seconds, record)
    _print(console, f"  {_score(record)}")
    _print(console, f"  {accepted} accepted, {duration}")
    _print(console, f"  {cut(record.why, 300)}", "dim")


def _print(console: Console, text: str, style: str = "") -> None:
    console.print(Text(text, style=style))


def _print_tasks(console: Console, view: RunView) -> None:
    is_wide = console.width >= NARROW_COLUMNS
    for task in view.tasks:
        console.print(
            _task_line(task, is_wide=is_wide), no_wrap=True, overflow="ellipsis"
        )
    for task in view.failed:
        reason = cut(task.last.error, 500)
        _print(console, f"{task.name}: {reason}", "red")


def _task_line(task: TaskView, *, is_wide: bool) -> Text:
    name = cut(task.name, 40)
    line = Text(f"{name:<15} ")
    line.append(f"{task.status:<11}", style=_TASK_STYLES[task.status])
    line.append(f"{task.worked.seconds:8.1f} s", style="dim")
    if is_wide:
        peak_mib = task.worked.peak_memory_bytes / 2**20
        line.append(f"  {peak_mib:6,.0f} MiB", style="dim")
        line.append(f"  {task.last.receipt}")
        if len(task.attempts) > 1:
            line.append(f"  try {len(task.attempts)}")
    return line


def _score(record: RoundRecord) -> str:
    if record.weak:
        return "no candidate"
    measure = measure_of(record.metric)
    return f"{measure.text(record.score)} {measure.interval_text(record.interval)}"


def _accepted(record: RoundRecord) -> str:
    return f"{record.accepted}/{record.generated}" if record.generated else "–"


def _verdict(record: RoundRecord) -> Text:
    return Text(
        record.verdict, style="yellow" if record.verdict == "rejected" else "green"
    )


def _seconds(seconds: Mapping[int, float], record: RoundRecord) -> str:
    spent = seconds.get(record.round, 0.0)
    return seconds_text(spent) if spent else "–"


def find_receipt(context: Context, target: str) -> Receipt:
    """Return a receipt.

    Args:
        context: Has the store.
        target: `step/key`, a receipt's URI, or the path of a KFP pointer artifact.

    Raises:
        UserError: It is none of these, or the store has no such receipt.
        Corrupt: The receipt is damaged.
    """
    # KFP keeps an artifact as a file; ours hold a pointer to the receipt.
    path = Path(target)
    if "://" not in target and path.is_file():
        try:
            target = str(json.loads(path.read_text(encoding="utf-8"))["uri"])
        except (OSError, ValueError, KeyError, TypeError):
            raise UserError(
                f"{path}: not a pointer artifact (JSON with a `uri`)"
            ) from None
    if "://" in target:
        return existing_receipt(context, ref_of_uri(context, target))
    step, slash, key = target.partition("/")
    if not (step and slash and key):
        raise UserError(
            f"{target!r}: give step/key, the URI of a receipt or the file of a pointer artifact"
        )
    return existing_receipt(context, target)


def existing_receipt(context: Context, ref: str) -> Receipt:
    """Return the receipt of a `step/key` that a person gave. UserError if there is none."""
    try:
        return read_receipt(context, ref)
    except Missing:
        raise UserError(
            f"{context.store.root} has no receipt {ref}; `status --json` lists those of a run"
        ) from None


def print_receipt(console: Console, receipt: Receipt, state: State | None) -> None:
    """Print a receipt for people; a state's rounds below it."""
    console.print(Text.assemble((receipt.step, "bold"), f"/{receipt.key}"))
    _print_pairs(
        console, {"digest": receipt.digest, "code": receipt.code, "seed": receipt.seed}
    )
    _print_section(console, "inputs", receipt.inputs)
    _print_section(console, "summary", receipt.summary)
    _print_section(console, "config", receipt.config)
    objects = {}
    for name, ref in receipt.objects.items():
        objects[name] = f"{ref.size:,} bytes  {ref.sha256}"
    _print_section(console, "objects", objects)
    if state is not None:
        # The history is printed as rounds below.
        fields = state.model_dump(mode="json", exclude={"history", "schema_version"})
        _print_section(console, "state", fields)
        if state.history:
            console.print()
            print_rounds(console, state.history, {})


def _print_section(console: Console, title: str, values: Mapping[str, object]) -> None:
    if values:
        _print(console, f"\n{title}", "dim")
        _print_pairs(console, values)


def _print_pairs(console: Console, values: Mapping[str, object]) -> None:
    width = min(24, max(len(name) for name in values))
    for name, value in values.items():
        text = value if isinstance(value, str) else _json_text(value)
        short_name = cut(name, 60)
        short_text = cut(text, 400)
        _print(console, f"{short_name:<{width}}  {short_text}")


def _json_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
