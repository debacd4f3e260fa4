"""Output of the verbs: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import json
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text


def print_result(document: Mapping[str, object], as_json: bool, text: str) -> None:
    """Print the result of a verb, for programs or for people."""
    if as_json:
        print_json(document)
    else:
        Console().print(Text(text), soft_wrap=True)


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on standard output."""
    print(json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False))


def print_note(text: str, style: str = "") -> None:
    """Print words for a person on standard error, where they do not disturb a JSON document."""
    # Soft wrap: a link that is broken over two lines cannot be opened.
    Console(stderr=True).print(Text(text, style=style), soft_wrap=True)


def print_error(text: str) -> None:
    """Print one red line on standard error."""
    from components.report.words import cut

    line = Text.assemble(("error: ", "bold red"), (cut(text, 2000), "red"))
    Console(stderr=True).print(line, soft_wrap=True)
