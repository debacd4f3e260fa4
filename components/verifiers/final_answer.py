"""Search for the final answer of a text.

A text states its answer between `<answer>` tags, behind `####`, in a `\\boxed{}` or behind "answer
is". Nothing inside a think block is a statement of the answer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MAX_ANSWER_CHARACTERS = 20_000
"""Longer answers are wrong: no task here has one, and every verifier's time stays bounded."""

_THINK_TAG = re.compile(
    r"<(/?)(?:think|thinking|thought|reasoning)>|<\|(begin|end)_of_thought\|>",
    re.IGNORECASE,
)
_ANSWER_TAG = re.compile(r"<(/?)answer>", re.IGNORECASE)
# Exactly four, as GSM8K ends its answers. Three or five are headings of Markdown.
_HASH_MARK = re.compile(r"(?<!\S)####(?!#)[ \t]*([^#\n]*)")
_BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
# `\boxed 5` without braces is read as well: models write it.
_BOX = re.compile(r"\\f?boxed\s*(?:(\{)|([^\s{}$\\]+))")
# All repeats are bounded: the pattern is tried at every "answer" of a long text.
_ANSWER_IS = re.compile(
    r"""\banswer\b[*_"'`]{0,4}\s{0,4}
    (?:\([^()\n]{0,40}\)\s?)?
    (?:(?:to|for|of)\b[^.:=\n]{0,80}?\s)?
    (?:(?:is|was|are|equals)\b|(?:would|will|should|must|has\sto)\sbe\b|[:=：]|(?<=\n))
    [\s*_:：]{0,20}""",
    re.IGNORECASE | re.VERBOSE,
)


def answer_part(text: str) -> str:
    """Return the part of a text that may state the answer.

    It is what stands between the last `<answer>` tags, else everything outside of think blocks.
    """
    # The end of a text: the answer comes last, and the time stays bounded.
    visible = without_thoughts(text[-MAX_ANSWER_CHARACTERS:])
    return tagged(visible) or visible


def without_thoughts(text: str) -> str:
    """Return what a text says outside of its think blocks.

    A block that is never closed lasts to the end. A block that is closed and was never opened began
    with the text: chat templates open it in the prompt.
    """
    parts: list[str] = []
    depth = 0
    start = 0
    for tag in _THINK_TAG.finditer(text):
        closes = bool(tag[1]) or tag[2] == "end"
        if not closes:
            if depth == 0:
                parts.append(text[start : tag.start()])
            depth += 1
            continue
        if depth == 0:
            parts.clear()
        depth = max(0, depth - 1)
        start = tag.end()
    if depth == 0:
        parts.append(text[start:])
    return " ".join(parts)


def tagged(text: str) -> str | None:
    """Return what stands between the last pair of `<answer>` tags that is not empty, or None."""
    start: int | None = None
    content = None
    for tag in _ANSWER_TAG.finditer(text):
        if not tag[1]:
            start = tag.end()
        elif start is not None:
            # Empty tags are often a template that was repeated: an earlier pair is the answer.
            content = text[start : tag.start()].strip() or content
            start = None
    return content


def hash_lines(text: str) -> list[str]:
    """Return what stands behind each `####` on its line, the last one first.

    The caller says which of them is an answer: `#### Step 2: add` is a heading.
    """
    return [line.strip() for line in reversed(_HASH_MARK.findall(text))]


def boxed(text: str) -> str | None:
    """Return the content of the last `\\boxed{}` that is closed and not empty, or None."""
    # Most texts have no box, and a plain search is faster than the pattern.
    boxes = list(_BOX.finditer(text)) if "boxed" in text else []
    if not boxes:
        return None
    closing = _closing_braces(text)
    for box in reversed(boxes):
        content = box[2]
        if box[1]:
            end = closing.get(box.start(1))
            content = "" if end is None else text[box.end(1) : end]
        if content.strip():
            return content
    return None


def _closing_braces(text: str) -> dict[int, int]:
    """Return position of an opening brace → position of its closing brace."""
    closing: dict[int, int] = {}
    unclosed: list[int] = []
    for match in _BRACE_OR_ESCAPE.finditer(text):
        if match[0] == "{":
            unclosed.append(match.start())
        elif match[0] == "}" and unclosed:
            closing[unclosed.pop()] = match.start()
    return closing


def after_answer_is(text: str) -> Iterator[str]:
    """Yield the text behind each "answer is" or "answer:" up to the next, from last to first."""
    end = len(text)
    for match in reversed(list(_ANSWER_IS.finditer(text))):
        yield text[match.end() : end]
        end = match.start()
