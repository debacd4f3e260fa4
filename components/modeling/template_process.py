"""Chat templates, rendered in a process that the kernel ends when one takes too long or too much.

A template comes with a model, so it is a stranger's program: `{{ "x" * 10**10 }}` fills the memory
inside one call, and nested loops go on for years. transformers' sandbox keeps it from our objects;
this process keeps it from our time and memory.

`python -m components.modeling.template_process` is that process: the JSON of a `Question` a line
in, of its text or of an error out.
"""

from __future__ import annotations

import json
import random
from typing import Any, NamedTuple, TypedDict

from components.bounded_process import BoundedProcess, Bounds, answer_lines
from components.canonical import JsonObject

MODULE = "components.modeling.template_process"
BOUNDS = Bounds(seconds=2, memory_bytes=1 << 30)
"""Templates in use take a thousandth of the time."""
MAX_EXTRA_CHARACTERS = 1_000_000
MAX_FACTOR = 10
"""A text may be so many times as long as what was asked, and MAX_EXTRA_CHARACTERS longer."""

_process = BoundedProcess(MODULE, "transformers")


class Question(TypedDict):
    """A conversation to be rendered."""

    template: str
    messages: list[Any]
    tools: list[Any] | None
    marks_generation: bool
    """Also return the stretches that the template says the assistant speaks."""
    open_answer: bool
    special_tokens: dict[str, Any]


class Text(NamedTuple):
    """A rendered conversation."""

    text: str
    generated: list[tuple[int, int]]


class Unrendered(Exception):
    """The template raises, or goes beyond the bounds; the message says which."""


def rendered(question: Question) -> Text:
    """Return the text of a conversation. Raises Unrendered."""
    line = _process.ask(json.dumps(question))
    if line is None:
        raise Unrendered(f"it takes more than {BOUNDS}")
    answer = json.loads(line)
    if "error" in answer:
        raise Unrendered(answer["error"])
    return Text(answer["text"], [(start, end) for start, end in answer["generated"]])


def main() -> None:
    """Answer until the input ends."""
    answer_lines(_prepare, _answer, BOUNDS)


def _prepare() -> None:
    # torch is not loaded by it.
    import transformers.utils.chat_template_utils  # noqa: F401


def _answer(line: str) -> JsonObject:
    question: Question = json.loads(line)
    text, generated = _render(question)
    # Half of a surrogate pair, which the escapes of Jinja can write, is no text.
    text.encode()
    if len(text) > MAX_FACTOR * len(line) + MAX_EXTRA_CHARACTERS:
        raise ValueError(f"it writes {len(text):,} characters")
    return {"text": text, "generated": generated}


def _render(question: Question) -> tuple[str, list[Any]]:
    from transformers.utils.chat_template_utils import render_jinja_template

    marks_generation = question["marks_generation"]
    # Jinja's `random` and `lipsum` draw from it: equal prompts have equal tokens.
    random.seed(0)
    texts, spans = render_jinja_template(
        conversations=[question["messages"]],
        tools=question["tools"],
        chat_template=question["template"],
        return_assistant_tokens_mask=marks_generation,
        add_generation_prompt=question["open_answer"],
        **question["special_tokens"],
    )
    return texts[0], spans[0] if marks_generation else []


if __name__ == "__main__":
    main()
