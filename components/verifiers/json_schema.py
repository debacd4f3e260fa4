"""Verifier `json_schema`: the answer is JSON that its row's schema accepts.

The schema is asked in a confined process with a time limit: `pattern` is a regular expression of
Python's, which can try alternatives for ever, and `$ref` may name an address, which is never fetched.
Specification: https://json-schema.org/specification. `format` is an annotation, as the
specification has it, and is not checked.
"""

from __future__ import annotations

import json
import re

from components.canonical import canonical_json
from components.contracts.rows import Prompt
from components.sandbox.verdict import Verdict
from components.verifiers.final_answer import answer_part
from components.verifiers.own_checker import CheckerFailed, ready_checker

_CHECKER = "components.sandbox.schema_checker"
_FUNCTION = "check"
_FENCED = re.compile(r"^```[ \t]*(?:json[c5]?)?[ \t]*\n(.*?)^```", re.M | re.S | re.I)


def verdict(prompt: Prompt, text: str) -> Verdict:
    """Return 1 if the JSON in `text` is valid by the row's schema, else 0 with the reason.

    Raises:
        UserError: The check cannot be confined here.
    """
    problem, answer = _value_of(text)
    if problem:
        return Verdict(0.0, problem)
    return _asked(prompt, json.dumps(answer))


def schema_problem(prompt: Prompt) -> str:
    """Return why no answer can be checked by this prompt's schema, "" if answers can be."""
    return _asked(prompt, "").reason


def answer_key(text: str) -> str:
    """Return the JSON of an answer in canonical form, empty if it holds none."""
    problem, answer = _value_of(text)
    return "" if problem else canonical_json(answer).decode()


def json_of(text: str) -> str:
    """Return the last fenced block of JSON in an answer, or all of it without one."""
    answer = answer_part(text)
    blocks = _FENCED.findall(answer)
    return (blocks[-1] if blocks else answer).strip()


def _value_of(text: str) -> tuple[str, object]:
    """Return (why an answer is no JSON, its value); the first is "" for JSON."""
    try:
        value: object = json.loads(json_of(text), parse_constant=_refuse)
        # Half of a surrogate pair, which the escapes of JSON can write, is no text.
        canonical_json(value)
    except (ValueError, RecursionError) as error:
        return f"no JSON: {error}", None
    return "", value


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def _asked(prompt: Prompt, answer: str) -> Verdict:
    checker = ready_checker(_CHECKER, _FUNCTION, prompt.check)
    try:
        return checker.verdict(prompt, answer)
    except CheckerFailed as error:
        return Verdict(0.0, str(error).removeprefix(f"{_CHECKER}:{_FUNCTION}: "))
