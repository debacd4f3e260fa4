"""Verifier `regex`: the whole answer matches the reference, a regular expression of RE2.

RE2 takes time in proportion to the answer for every pattern it accepts. Python's engine tries
alternatives one after the other: a row with `(a|a)+b` held up a campaign for ever. RE2 has no
look-around and no back-references, and its `\\d` and `\\w` are ASCII.
Syntax: https://github.com/google/re2/wiki/Syntax
"""

from __future__ import annotations

import functools

import re2

from components.contracts.rows import Prompt
from components.verifiers.references import reference_text

_OPTIONS = re2.Options()
# RE2 writes to standard error by itself; the row's reason holds the message.
_OPTIONS.log_errors = False


def accepts(prompt: Prompt, text: str) -> bool:
    """Return whether the whole text, without white space around it, matches the reference."""
    pattern = reference_text(prompt)
    if not pattern or pattern_problem(pattern):
        return False
    # A lone surrogate, which no text of RE2 can hold, becomes a question mark.
    answer = text.strip().encode(errors="replace").decode()
    return re2.fullmatch(pattern, answer, options=_OPTIONS) is not None


@functools.lru_cache(maxsize=1024)
def pattern_problem(pattern: str) -> str:
    """Return why this text cannot be the reference of the `regex` verifier; empty if it can."""
    try:
        re2.compile(pattern, options=_OPTIONS)
    except UnicodeEncodeError:
        return "not a regular expression (a lone surrogate is in it)"
    except re2.error as error:
        [message] = error.args
        return f"not a regular expression of RE2 ({message.decode(errors='replace')})"
    return ""
