"""The verb `gc`."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from components.cli.messages import print_note, print_result
from components.cli.options import AsJson, StoreUri
from components.cli.stores import open_context
from components.errors import UserError

if TYPE_CHECKING:
    from components.cli.collect.collection import Amount, Collection

# An hour: between the last look at a mark and the record that rests on it, a writer needs less.
LEAST_GRACE_HOURS = 1.0
Forget = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--forget", metavar="RUN", help="Give up this run, also unfinished. Repeatable."),
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
    ] = 10,
    forget: Forget = None,
    grace_hours: Annotated[
        float, typer.Option(metavar="HOURS", help="From being condemned to being deleted.")
    ] = 168.0,
    as_json: AsJson = False,
) -> None:
    """Show what no release, no kept run and no open work needs; with --delete, delete it.

    Kept are all releases and what a rollback goes to, champions that wait for approval, runs that
    are not finished, and the runs begun last. Of these, weights of rejected candidates go.
    """
    from components.cli.collect.collection import collect
    from components.cli.collect.marking import Policy

    if grace_hours < LEAST_GRACE_HOURS:
        raise UserError(
            f"--grace-hours {grace_hours:g}: at least {LEAST_GRACE_HOURS:g}, so that a task which "
            "is just storing its result has time to name it"
        )
    context = open_context(store)
    policy = Policy(keep_runs=keep_runs, forgotten=frozenset(forget or ()))
    known = {key.split("/")[1] for key in context.store.list("attempts/")}
    unknown = sorted(policy.forgotten - known)
    if unknown:
        raise UserError(f"--forget {unknown[0]}: {context.store.root} knows no such run")
    account = collect(context, policy, grace_seconds=3600 * grace_hours, delete=delete)
    print_result(dataclasses.asdict(account), as_json, "\n".join(_lines(account)))
    if not delete and (account.condemned.objects or account.deleted.objects):
        print_note("this was a dry run; --delete does it")


def _lines(account: Collection) -> list[str]:
    lines = [f"{account.store}: {_size(account.kept)} are needed"]
    lines += [f"  {_size(amount)}: {kind}" for kind, amount in sorted(account.found.items())]
    would = "" if account.deletes else "would be "
    hours = account.grace_seconds / 3600
    lines.append(f"{would}deleted: {_size(account.deleted)}")
    lines.append(f"{would}condemned: {_size(account.condemned)}; to be deleted in {hours:g} hours")
    if account.waiting.objects:
        lines.append(f"condemned before, not due yet: {_size(account.waiting)}")
    if account.needed_again:
        lines.append(f"condemned before, needed again: {account.needed_again} objects, kept")
    if account.unfinished.objects:
        lines.append(f"progress of unfinished work, kept: {_size(account.unfinished)}")
    for run_id, why in account.kept_runs.items():
        lines.append(f"  run {run_id}: {why}")
    lines += [f"  run {run_id}: not kept" for run_id in account.dropped_runs]
    return lines


def _size(amount: Amount) -> str:
    noun = "object" if amount.objects == 1 else "objects"
    return f"{amount.objects:,} {noun}, {amount.bytes:,} bytes"
