"""The outcomes of a sweep on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from components.cli.show import NARROW_COLUMNS
from components.cli.sweep.grid import value_text
from components.cli.sweep.outcomes import SweptRun
from components.measures import measure_of, percent
from components.report.words import cut

ON_FRONT = "*"
"""Mark of a campaign that no other is better than."""
LONGEST_VALUE = 40
"""Characters of a setting that are shown."""


def print_swept_runs(console: Console, runs: Sequence[SweptRun], measures: str) -> None:
    """Print a line or, on a narrow terminal, a few lines for each campaign.

    Args:
        console: Where to print.
        runs: All campaigns of the sweep.
        measures: The two measures of the front, in words.
    """
    columns = {run.run_id: _columns(run) for run in runs}
    if console.width < NARROW_COLUMNS:
        for run in runs:
            _print_lines(console, run, columns[run.run_id])
    else:
        table = Table(
            box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim"
        )
        table.add_column("")
        for title in columns[runs[0].run_id]:
            table.add_column(Text(title), overflow="fold")
        for run in runs:
            style = "bold" if run.on_front else ""
            cells = [Text(cell, style=style) for cell in columns[run.run_id].values()]
            table.add_row(ON_FRONT if run.on_front else "", *cells)
        console.print(table)
    legend = f"{ON_FRONT} no other campaign is as good in {measures} and better in one of them"
    console.print(Text(legend, style="dim"))


def _print_lines(console: Console, run: SweptRun, columns: dict[str, str]) -> None:
    mark = f"{ON_FRONT} " if run.on_front else ""
    console.print(Text(f"{mark}{run.run_id}", style="bold"))
    for title, cell in columns.items():
        if title != "run":
            console.print(Text(f"  {title} {cell}"))


def _columns(run: SweptRun) -> dict[str, str]:
    """Return title → cell of a campaign."""
    settings = {
        key: cut(value_text(value), LONGEST_VALUE)
        for key, value in run.settings.items()
    }
    metric = run.metric or "accuracy"
    promoted = f"{run.promoted} of {run.rounds}"
    return {
        **settings,
        metric: measure_of(metric).text(run.score),
        "consistency": percent(run.consistency),
        "distinct samples": percent(run.distinct_samples),
        "Vendi": _number(run.vendi),
        "distinct-2": percent(run.distinct_2),
        "promoted": "failed" if run.error else promoted,
        "run": run.run_id,
    }


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
