"""The verb `gc`."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Optional

import typer

from components.cli.collect import DEFAULT_GRACE_HOURS, DEFAULT_KEPT_RUNS
from components.cli.messages import print_note, print_result
from components.cli.options import AsJson, StoreUri
from components.cli.stores import open_context

Forget = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--forget", metavar="RUN", help="Give up this run, also unfinished. Repeatable."
    ),
]


def add_verb(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command(name="gc")(collect_garbage)


def collect_garbage(
    store: StoreUri = "",
    delete: Annotated[
        bool, typer.Option("--delete", help="Condemn garbage, and delete what is due.")
    ] = False,
    keep_runs: Annotated[
        int, typer.Option(min=1, metavar="N", help="Keep the N runs begun last.")
    ] = DEFAULT_KEPT_RUNS,
    forget: Forget = None,
    grace_hours: Annotated[
        float,
        typer.Option(metavar="HOURS", help="From being condemned to being deleted."),
    ] = DEFAULT_GRACE_HOURS,
    as_json: AsJson = False,
) -> None:
    """Show what no release, no kept run and no open work needs; with --delete, delete it.

    Kept are all releases and what a rollback goes to, champions that wait for approval, runs that
    are not finished, and the runs begun last. Of these, weights of rejected candidates go.
    """
    from components.cli.collect.request import Request, account_lines, carry_out

    request = Request(delete, keep_runs, grace_hours, tuple(forget or ()))
    account = carry_out(open_context(store), request)
    print_result(
        dataclasses.asdict(account), as_json, "\n".join(account_lines(account))
    )
    if not delete and (account.condemned.objects or account.deleted.objects):
        print_note("this was a dry run; --delete does it")
