"""What the verbs share: options, and how they speak."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Optional

import typer
from rich.console import Console
from rich.text import Text

# typer reads these annotations at run time and does not know `str | None` in a string on every
# Python we support.
RecipeFile = Annotated[Path, typer.Argument(metavar="RECIPE", help="Recipe, a YAML file.")]
Override = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Change the recipe: section.key=value. May be repeated."
    ),
]
StoreUri = Annotated[
    str,
    typer.Option(
        "--store",
        envvar="RATCHET_STORE",
        metavar="URI",
        show_default=False,
        help="file:///folder or s3://bucket/prefix; by default .ratchet/store here.",
    ),
]
Rounds = Annotated[
    int, typer.Option(min=0, max=4, help="Rounds unrolled; more by another run with resume_from.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]


def say(document: dict[str, Any], as_json: bool, text: str) -> None:
    """The result of a verb, for programs or for people."""
    if as_json:
        print_json(document)
    else:
        Console().print(Text(text), soft_wrap=True)


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on standard output."""
    print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))


def fail(text: str) -> None:
    """One red line on standard error."""
    from components.report.words import cut

    Console(stderr=True).print(
        Text.assemble(("error: ", "bold red"), (cut(text, 2000), "red")), soft_wrap=True
    )
