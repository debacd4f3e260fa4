"""The verbs for releases: releases, approve, rollback."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from components.cli.messages import print_json, print_result
from components.cli.options import AsJson, StoreUri
from components.cli.stores import existing_run, open_context

ReleaseName = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of the releases, `publish.name` of the recipe.")
]


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command()(releases)
    app.command()(approve)
    app.command()(rollback)


def releases(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name; by default all names are listed.")
    ] = "",
    latest: Annotated[
        bool, typer.Option("--latest", help="Print the folder of the release in force, no more.")
    ] = False,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """List the releases of a name: what was compared, who asked, and which one is in force."""
    from components.cli.releases import document_of, lines_of, print_releases
    from components.runtime import ledger

    context = open_context(store)
    if not name:
        newest_versions = {
            release_name: lines_of(context, release_name)[-1].version
            for release_name in ledger.names(context)
        }
        lines = [f"{release_name}  {version}" for release_name, version in newest_versions.items()]
        text = "\n".join(lines) or "nothing was released yet"
        print_result({"names": newest_versions}, as_json, text)
    elif as_json:
        print_json(document_of(context, name))
    elif latest:
        typer.echo(f"{context.store.root}/{lines_of(context, name)[-1].prefix}")
    else:
        print_releases(Console(), context, name)


def approve(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run, or latest.")],
    version: Annotated[
        str,
        typer.Option(
            metavar="VERSION", help="Refuse unless this is what waits, as the report names it."
        ),
    ] = "",
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Release the champion of a run that waits for approval (`publish.approval: required`)."""
    from components.cli.releases import approve_run

    context = open_context(store)
    line = approve_run(context, existing_run(context, run_id), version)
    assert line.approval is not None, "it was just approved"
    print_result(
        line.model_dump(mode="json"),
        as_json,
        f"line {line.number}: {line.name} {line.version} was approved by "
        f"{line.approval.approved_by} at {line.approval.at}, {context.store.root}/{line.prefix}",
    )


def rollback(
    name: ReleaseName,
    version: Annotated[
        str, typer.Argument(metavar="VERSION", help="Version, or number of its line.")
    ],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Put an earlier release in force again. Adds a line to the ledger; nothing is deleted."""
    from components.cli.releases import roll_back

    context = open_context(store)
    line = roll_back(context, name, version)
    print_result(
        line.model_dump(mode="json"),
        as_json,
        f"line {line.number}: {name} {line.version} is in force, "
        f"{context.store.root}/{line.prefix}",
    )
