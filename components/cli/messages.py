"""Output of the verbs: results on standard output, notes and errors on standard error."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.text import Text


def let_streams_take_any_text() -> None:
    """Have what a terminal's encoding lacks printed as an escape, such as `\\u2713`.

    Else a mark of ours, an answer of a model or the name of a file ends a verb with a traceback:
    where the locale is not UTF-8, and where a name is no valid UTF-8.
    """
    for stream in (sys.stdout, sys.stderr):
        # A test's or an embedding program's stream may be another.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def print_result(document: Mapping[str, object], as_json: bool, text: str) -> None:
    """Print the result of a verb, for programs or for people."""
    if as_json:
        print_json(document)
    else:
        Console().print(Text(text), soft_wrap=True)


def print_json(document: Mapping[str, object]) -> None:
    """Print one JSON document on standard output."""
    print(as_json_text(document, indent=2))


def as_json_text(document: Mapping[str, object], indent: int | None = None) -> str:
    """Return a JSON document that standard output can hold."""
    # Escapes of JSON, where an encoding lacks letters: those of Python are none.
    is_unicode = (sys.stdout.encoding or "").lower().startswith("utf")
    return json.dumps(
        document, indent=indent, sort_keys=True, ensure_ascii=not is_unicode
    )


def print_note(text: str, style: str = "") -> None:
    """Print words for a person on standard error, where they do not disturb a JSON document."""
    # Soft wrap: a link that is broken over two lines cannot be opened.
    Console(stderr=True).print(Text(text, style=style), soft_wrap=True)


def print_error(text: str) -> None:
    """Print one red line on standard error."""
    from components.report.words import cut

    line = Text.assemble(("error: ", "bold red"), (cut(text, 2000), "red"))
    Console(stderr=True).print(line, soft_wrap=True)
