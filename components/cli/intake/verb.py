"""The verb for logs of production: intake."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from components.cli.messages import print_result
from components.cli.options import AsJson, output_option

if TYPE_CHECKING:
    from components.cli.intake.take_in import Account


def add_verb(app: typer.Typer) -> None:
    """Make it a verb of the command line."""
    app.command()(intake)


def intake(
    logs: Annotated[
        list[Path],
        typer.Argument(
            metavar="LOG...", help="Logged requests and answers; files or folders."
        ),
    ],
    output: Annotated[Path, output_option("FOLDER", "New folder to write.")],
    feedback: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Feedback apart from the log, by the request's id."
        ),
    ] = None,
    feedback_field: Annotated[
        str,
        typer.Option(metavar="NAME", show_default=False, help="Field of the verdict."),
    ] = "",
    good_from: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(
            metavar="NUMBER", show_default=False, help="Smallest good mark, such as 4."
        ),
    ] = None,
    against: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(
            metavar="FILE", help="Evaluation data; prompts in it are left out."
        ),
    ] = None,
    redact: Annotated[
        str,
        typer.Option(
            metavar="FILE.py:FUNCTION",
            show_default=False,
            help="Your own, before the patterns.",
        ),
    ] = "",
    keep_personal: Annotated[
        bool, typer.Option("--keep-personal", help="Replace nothing by its kind.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make data of a recipe from logged requests and what people thought of the answers."""
    from components.cli.intake.feedback import Scale
    from components.cli.intake.take_in import Wishes, take_in

    wishes = Wishes(
        logs=logs,
        feedback=feedback or (),
        against=against or (),
        scale=Scale(feedback_field, good_from),
        keep_personal=keep_personal,
        redact=redact,
    )
    account = take_in(wishes, output)
    # Not `asdict`, which makes keys of the items of a Counter.
    print_result(vars(account), as_json, "\n".join(_lines(account, output)))


def _lines(account: Account, output: Path) -> list[str]:
    """Return what a person wants to know: what there is, what is missing, and what to write."""
    lines = [
        f"{account.rows:,} rows: {account.labelled:,} labelled, {account.unlabelled:,} prompts "
        "without a good answer"
    ]
    for title, counts in (
        ("dropped", account.dropped),
        ("answers not taught", account.answers_dropped),
        ("replaced", account.redacted),
    ):
        if counts:
            lines.append(f"{title}: {_listed(counts)}")
    if account.feedback_without_request:
        lines.append(
            f"feedback on {account.feedback_without_request:,} requests that are not in the log"
        )
    lines += ["", "data:", "  sources:"]
    if account.labelled:
        lines.append(f"    - {{uri: {shlex.quote(str(output / 'labelled.jsonl'))}}}")
    if account.unlabelled:
        path = shlex.quote(str(output / "unlabelled.jsonl"))
        lines.append(f"    - {{uri: {path}, split: unlabelled}}")
    if account.multi_turn:
        lines.append(
            "train: {turns: last}   # nobody has judged the earlier answers of "
            f"{account.multi_turn:,} rows"
        )
    return lines


def _listed(counts: Mapping[str, int]) -> str:
    most_first = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count:,}" for name, count in most_first)
