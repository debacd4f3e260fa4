"""Patterns of lm-eval's task files, searched in a process that may take only so long.

A task file names patterns for its filters and metrics, and a model writes what they are searched in:
`(a|a)+b` in a row of a's goes on for years. lm-eval searches by Python's engine, whose syntax such
files may use, and which nothing but the end of its process can stop.

`python -m components.evaluate.task_patterns` is that process: the JSON of a search a line in, of
what it found out.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from components.bounded_process import BoundedProcess, Bounds, answer_lines
from components.canonical import JsonObject
from components.errors import UserError

MODULE = "components.evaluate.task_patterns"
BOUNDS = Bounds(seconds=2, memory_bytes=1 << 30)
"""Of one text; patterns in use take a thousandth of the time."""
SHOWN_CHARACTERS = 80
"""Of a pattern in an error."""

_process = BoundedProcess(MODULE, "lm-eval")


@dataclass(frozen=True)
class _Pattern:
    """A compiled pattern as lm-eval uses it."""

    pattern: str

    def findall(self, text: str) -> list[Any]:
        """Return all matches as `re.findall` does. Raises UserError."""
        found: list[Any] = _found({"pattern": self.pattern, "text": text})
        return [
            tuple(groups) if isinstance(groups, list) else groups for groups in found
        ]


class _Patterns:
    """Has the functions of the module `re` that lm-eval calls with patterns of task files."""

    def compile(self, pattern: str) -> _Pattern:
        """Return a pattern. Raises UserError if it is none."""
        compiled = _Pattern(pattern)
        compiled.findall("")
        return compiled

    def findall(self, pattern: str, text: str) -> list[Any]:
        """Return all matches. Raises UserError."""
        return _Pattern(pattern).findall(text)

    def sub(self, pattern: str, replacement: str, text: str) -> str:
        """Return the text with all matches replaced. Raises UserError."""
        found: str = _found(
            {"pattern": pattern, "text": text, "replacement": replacement}
        )
        return found

    def escape(self, text: str) -> str:
        """Return the pattern that matches the text alone."""
        return re.escape(text)


def _found(search: JsonObject) -> Any:
    line = _process.ask(json.dumps(search))
    answer = (
        json.loads(line)
        if line is not None
        else {"error": f"it takes more than {BOUNDS}"}
    )
    if "error" in answer:
        raise UserError(
            f"evaluate.harness: the pattern {str(search['pattern'])[:SHOWN_CHARACTERS]!r} of a task "
            f"cannot be used ({answer['error']}); correct the task file"
        )
    return answer["found"]


@contextmanager
def bounded_patterns() -> Iterator[None]:
    """Have lm-eval search for the patterns of task files in the process within the block."""
    from lm_eval.api import metrics
    from lm_eval.filters import extraction

    # Its other modules search for patterns of their own alone.
    modules: tuple[Any, ...] = (metrics, extraction)
    for module in modules:
        module.re = _Patterns()
    try:
        yield
    finally:
        for module in modules:
            module.re = re


def main() -> None:
    """Answer until the input ends."""
    answer_lines(lambda: None, _answer, BOUNDS)


def _answer(line: str) -> JsonObject:
    search = json.loads(line)
    pattern = _compiled(search["pattern"])
    if "replacement" in search:
        return {"found": pattern.sub(search["replacement"], search["text"])}
    return {"found": pattern.findall(search["text"])}


@functools.lru_cache(maxsize=512)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern)


if __name__ == "__main__":
    main()
