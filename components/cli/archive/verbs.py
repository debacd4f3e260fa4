"""The verbs for whole campaigns: export and import."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from components.cli.messages import print_result
from components.cli.options import AsJson, StoreUri, output_option
from components.cli.stores import existing_run, open_context


def add_verbs(app: typer.Typer) -> None:
    """Make them verbs of the command line."""
    app.command()(export)
    app.command(name="import")(import_)


def export(
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run, or latest.")],
    output: Annotated[Path, output_option("FILE", "New file, such as run.tar.")],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Write a run, and all that it rests on, to one file that `import` takes to another store."""
    from components.cli.archive.export import export_run

    context = open_context(store)
    exported = export_run(context, existing_run(context, run_id), output)
    missing = (
        f", {exported.collected} objects had been collected"
        if exported.collected
        else ""
    )
    print_result(
        vars(exported),
        as_json,
        f"{output}: {exported.receipts} receipts, {exported.objects} objects, "
        f"{exported.bytes:,} bytes{missing}",
    )


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="What `export` wrote.")],
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Take a run out of an archive into a store, once all of it is known to be whole."""
    from components.cli.archive.take_over import import_run

    imported = import_run(open_context(store), file)
    print_result(
        vars(imported),
        as_json,
        f"{imported.run_id} is in {imported.store}: {imported.written} files written, "
        f"{imported.present} were there; `verify {imported.run_id}` reads them again",
    )
