"""Verifier `regex`: the whole answer matches the reference, a Python regular expression."""

from __future__ import annotations

import re

from components.contracts.rows import Prompt
from components.verifiers.references import reference_text

MAX_REGEX_CHARACTERS = 512
"""Longest pattern and longest answer: bounds backtracking."""

# `(a+)+` tries exponentially many ways to match; a file of prompts is not trusted not to.
_NESTED_REPEAT = re.compile(r"[*+}][^()]*\)\s*[*+{]")


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the whole text, without white space around it, matches the reference."""
    pattern = reference_text(prompt)
    answer = text.strip()
    if not pattern or len(answer) > MAX_REGEX_CHARACTERS or pattern_problem(pattern):
        return False
    return re.fullmatch(pattern, answer) is not None


def pattern_problem(pattern: str) -> str:
    """Return why this text cannot be the reference of the `regex` verifier; empty if it can."""
    if len(pattern) > MAX_REGEX_CHARACTERS:
        return f"longer than {MAX_REGEX_CHARACTERS} characters"
    if _NESTED_REPEAT.search(pattern):
        return "a repeat inside a repeat, which can take for ever"
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        return f"not a regular expression ({error})"
    return ""
