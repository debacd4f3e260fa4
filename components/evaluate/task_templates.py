"""Templates of lm-eval's task files, rendered in a process that may take only so long and so much.

lm-eval renders them by a plain Jinja environment, in which `{{ cycler.__init__.__globals__.os }}` is
the operating system, and by which `{{ "x" * 10**10 }}` fills the memory. Here a sandbox keeps them
from our objects, and the kernel ends the process at its bounds.

`python -m components.evaluate.task_templates` is that process: the JSON of a template and a row a
line in, of its text or of an error out.
"""

from __future__ import annotations

import functools
import json
import random
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from components.bounded_process import BoundedProcess, Bounds, answer_lines
from components.canonical import JsonObject
from components.errors import UserError

if TYPE_CHECKING:
    from jinja2 import Environment

MODULE = "components.evaluate.task_templates"
BOUNDS = Bounds(seconds=2, memory_bytes=1 << 30)
"""Templates in use take a thousandth of the time."""
MAX_CHARACTERS = 1_000_000
"""Of a rendered text."""
SHOWN_CHARACTERS = 80
"""Of a template in an error."""

_process = BoundedProcess(MODULE, "jinja2")


@dataclass(frozen=True)
class _Template:
    """A template as lm-eval uses it."""

    source: str

    def render(self, **row: object) -> str:
        """Return the text for a row of the task's data. Raises UserError."""
        # A date is written as Jinja would write it.
        line = _process.ask(
            json.dumps({"template": self.source, "row": row}, default=str)
        )
        answer = (
            json.loads(line) if line is not None else {"error": f"more than {BOUNDS}"}
        )
        if "error" in answer:
            raise UserError(
                f"evaluate.harness: the template {self.source[:SHOWN_CHARACTERS]!r} of a task is "
                f"not rendered ({answer['error']}); correct the task file"
            )
        text: str = answer["text"]
        return text


class _Templates:
    """Has the one method of a Jinja environment that lm-eval calls."""

    def from_string(self, source: str) -> _Template:
        """Return a template."""
        return _Template(source)


@contextmanager
def bounded_templates() -> Iterator[None]:
    """Have lm-eval render its templates in the process within the block."""
    from lm_eval import utils

    # The only place of lm-eval that renders: `apply_template` reads this name at each call.
    plain_environment = utils.env
    utils.env = _Templates()
    try:
        yield
    finally:
        utils.env = plain_environment


def main() -> None:
    """Answer until the input ends."""
    answer_lines(_environment, _answer, BOUNDS)


@functools.cache
def _environment() -> Environment:
    from jinja2 import StrictUndefined
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    # As lm-eval makes its own, but for the sandbox.
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, keep_trailing_newline=True
    )
    environment.filters["regex_replace"] = _replaced
    return environment


def _replaced(text: str, pattern: str, replacement: str, count: int = 0) -> str:
    """Return the text after `re.sub`: lm-eval's filter `regex_replace`."""
    return re.sub(pattern, replacement, text, count=count)


def _answer(line: str) -> JsonObject:
    question = json.loads(line)
    # Jinja's `random` and `lipsum` draw from it: equal rows have equal texts.
    random.seed(0)
    text = _environment().from_string(question["template"]).render(**question["row"])
    # Half of a surrogate pair, which the escapes of Jinja can write, is no text.
    text.encode()
    if len(text) > MAX_CHARACTERS:
        raise ValueError(f"it writes {len(text):,} characters")
    return {"text": text}


if __name__ == "__main__":
    main()
