"""The verb for people's verdicts: review."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from components.cli.messages import print_result
from components.cli.options import AsJson, StoreUri, output_option
from components.cli.stores import existing_run, open_context
from components.errors import UserError


def add_verb(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command()(review)


def review(
    action: Annotated[
        Literal["export", "import"],
        typer.Argument(
            metavar="export|import", help="Write answers to mark, or take verdicts."
        ),
    ],
    run_id: Annotated[str, typer.Argument(metavar="RUN", help="Run, or latest.")],
    file: Annotated[
        Path | None,
        typer.Argument(metavar="FILE", help="import: the marked JSON Lines."),
    ] = None,
    output: Annotated[Path, output_option("FOLDER", "export: where to write.")] = Path(
        "review"
    ),
    number: Annotated[
        int | None,
        typer.Option("--round", metavar="N", help="Round; by default the newest."),
    ] = None,
    limit: Annotated[
        int,
        typer.Option(min=1, metavar="N", help="export: answers at most, drawn by lot."),
    ] = 200,
    store: StoreUri = "",
    as_json: AsJson = False,
) -> None:
    """Let people mark a round's answers as right or wrong: write a page for it, take verdicts."""
    from components.cli.review import export_answers, import_verdicts

    if (action == "import") != (file is not None):
        raise UserError(
            "`review import RUN FILE` takes a file of verdicts, `review export RUN -o FOLDER` a "
            "folder to write to"
        )
    context = open_context(store)
    run_id = existing_run(context, run_id)
    if file is None:
        exported = export_answers(context, run_id, number, limit, output)
        text = (
            f"round {exported.round}: {exported.written} of {exported.answers} answers in "
            f"{output}/review.html (open it in a browser) and {output}/review.jsonl"
        )
        print_result(exported.model_dump(mode="json"), as_json, text)
        return
    imported = import_verdicts(context, run_id, number, file)
    print_result(imported.model_dump(mode="json"), as_json, imported.in_words)
