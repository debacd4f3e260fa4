"""The verbs for the runs of a store: runs, diff, explain, watch."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from components.cli.messages import print_json, print_note, print_result
from components.cli.options import AsJson, StoreUri
from components.cli.stores import existing_run, open_context, unknown_run
from components.errors import OlderReceipt

if TYPE_CHECKING:
    from components.report.views import RunView
    from components.runtime.context import Context


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command()(runs)
    app.command()(diff)
    app.command()(explain)
    app.command()(watch)


def runs(
    limit: Annotated[
        int, typer.Option(min=1, metavar="N", help="The newest N runs.")
    ] = 20,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """List the runs of a store: when they began, how they ended, base and champion."""
    from components.cli.show import print_runs
    from components.report.runs import begun_runs, load_run
    from components.report.summary import summary_of

    context = open_context(store)
    begun = begun_runs(context)
    newest = list(begun)[-limit:]
    views = []
    for run_id in newest:
        try:
            views.append(load_run(context, run_id))
        except OlderReceipt:
            # Such a run hides none of the others.
            print_note(f"{run_id}: written by an older Ratchet")
    if as_json:
        documents = [
            {**summary_of(view), "begun": begun[view.run_id]} for view in views
        ]
        print_json(
            {"store": context.store.root, "known": len(begun), "runs": documents}
        )
    elif not begun:
        print_result(
            {}, False, f"{context.store.root} holds no run yet; `run RECIPE` makes one"
        )
    else:
        days = {
            run_id: time.strftime("%Y-%m-%d %H:%M", time.gmtime(begun[run_id]))
            for run_id in newest
        }
        if views:
            print_runs(Console(), views, days)
        if len(begun) > limit:
            print_result(
                {}, False, f"{len(begun) - limit} older runs; --limit shows more"
            )


def diff(
    first: Annotated[str, typer.Argument(metavar="RUN", help="Run, or latest.")],
    second: Annotated[
        str, typer.Argument(metavar="RUN", help="Another run.")
    ] = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Show what two runs were asked for differently, and what came of it."""
    from components.cli.show import print_differences
    from components.report.differences import differences_of

    context = open_context(store)
    differences = differences_of(_view(context, first), _view(context, second))
    if as_json:
        print_json(differences.model_dump(mode="json"))
    else:
        print_differences(Console(), differences)


def explain(
    row: Annotated[
        str,
        typer.Argument(
            metavar="ROW",
            help="Id of a sample (`samples` shows it), row or prompt, or a prompt's whole text.",
        ),
    ],
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Run; by default the one begun last.")
    ] = "latest",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Show why a row was kept or dropped: each filter's decision, its scores, and where it taught."""
    from components.cli.explain import explain as stories_of
    from components.cli.explain import print_stories

    context = open_context(store)
    stories = stories_of(context, _view(context, run_id), row)
    if as_json:
        print_json({"rows": [story.model_dump(mode="json") for story in stories]})
    else:
        print_stories(Console(), stories)


def watch(
    run_id: Annotated[
        str, typer.Argument(metavar="RUN", help="Run; by default the one begun last.")
    ] = "latest",
    seconds: Annotated[
        float,
        typer.Option("--every", min=0.2, metavar="SECONDS", help="Between two looks."),
    ] = 5.0,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Follow a run from its store alone until it ends: rounds, steps, rate, time left and cost.

    With --json a document a line: each task and round as it ends, and the run's summary. The exit
    status is that of `run`.
    """
    from components.cli.local.run import exit_code_of
    from components.cli.watch import watch as follow

    context = open_context(store)
    view = follow(
        context,
        existing_run(context, run_id),
        Console(),
        lambda: time.sleep(seconds),
        as_json=as_json,
    )
    raise typer.Exit(exit_code_of(view))


def _view(context: Context, run_id: str) -> RunView:
    from components.report.runs import load_run

    view = load_run(context, existing_run(context, run_id))
    if not view.tasks:
        raise unknown_run(context, run_id)
    return view
