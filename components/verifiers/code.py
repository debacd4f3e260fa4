"""Verifier `code`: the Python program in an answer passes the row's tests.

Program and tests run in two confined processes (`components.sandbox`): the tests call the program
through a channel of plain values, and no value that they expect is in the program's process. Tests
are asserts, `check(candidate)` with an entry point, functions `test_…`, unittest cases, or pairs of
input and output for programs that read and print.
"""

from __future__ import annotations

import ast
import functools
import json
import re
from collections.abc import Sequence
from contextlib import suppress

from components.canonical import normalised_text
from components.contracts.rows import Check, Prompt
from components.errors import UserError
from components.retry import Deadline
from components.sandbox import seccomp
from components.sandbox.process import LineProcess, Silent
from components.sandbox.verdict import Verdict

MAX_OUTPUT_BYTES = 4 * 2**20
"""A program that prints more is wrong."""
START_SECONDS = 60
_PROGRAM = "components.sandbox.answer_worker"
_TESTS = "components.sandbox.tests_worker"
_FENCED = re.compile(r"^```[ \t]*(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_THOUGHT = re.compile(r"^.*</think(?:ing)?>", re.DOTALL)
_PYTHON = ("python", "py", "python3", "")

Case = tuple[str, str]
"""Standard input, expected output."""


def verdict(prompt: Prompt, text: str) -> Verdict:
    """Return 1 if the program in `text` passes all tests, else 0 with the reason.

    Raises:
        UserError: Programs cannot be confined here.
    """
    require_confinement("code")
    cases, tests = _tests_of(prompt)
    if not cases and not tests:
        return Verdict(0.0, "the row has no tests")
    program = program_of(prompt, text)
    if not program:
        return Verdict(0.0, "the answer holds no code")
    deadline = Deadline(prompt.check.seconds)
    try:
        if cases:
            reason = _reason_of_cases(program, cases, prompt.check, deadline)
        else:
            reason = _reason_of_tests(program, tests, prompt, deadline)
    except Silent as error:
        reason = str(error)
    return Verdict(0.0, printable(reason)) if reason else Verdict(1.0)


def answer_key(text: str) -> str:
    """Return the program in a text, empty if there is none."""
    return normalised_text(_code_block(text))


def tests_problem(prompt: Prompt) -> str:
    """Return what is wrong with the tests of a prompt, "" if nothing is."""
    cases, tests = _tests_of(prompt)
    if not cases and not tests:
        return "no tests in the field that `tests_field` names"
    try:
        ast.parse(tests)
    except (SyntaxError, ValueError) as error:
        return f"its tests are no Python: {error}"
    return ""


def program_of(prompt: Prompt, text: str) -> str:
    """Return the program in an answer: its last block of Python, or all of it without one.

    An answer that goes on where the prompt ends, within a function, is put behind the prompt.
    """
    code = _code_block(text)
    entry_point = str(prompt.reference.get("entry_point") or "")
    if (
        entry_point
        and f"def {entry_point}" not in code
        and f"def {entry_point}" in prompt.text
    ):
        return prompt.text + text
    return code


def _code_block(text: str) -> str:
    answer = _THOUGHT.sub("", text)
    blocks = [
        code
        for language, code in _FENCED.findall(answer)
        if language.lower() in _PYTHON
    ]
    return blocks[-1] if blocks else answer.strip("\n")


def _tests_of(prompt: Prompt) -> tuple[list[Case], str]:
    """Return (pairs of input and output, source of tests) of a row; one of them is empty."""
    tests: object = prompt.reference.get("tests")
    if isinstance(tests, str) and tests.lstrip()[:1] in ("{", "["):
        # Other brackets begin Python.
        with suppress(ValueError):
            tests = json.loads(tests)
    setup = str(prompt.reference.get("test_setup") or "")
    if isinstance(tests, str):
        return [], f"{setup}\n{tests}" if tests.strip() else ""
    if isinstance(tests, dict):
        return _cases_of_columns(tests)
    if isinstance(tests, list) and all(isinstance(test, str) for test in tests):
        return [], "\n".join([setup, *tests]) if tests else ""
    if isinstance(tests, list) and all(isinstance(test, dict) for test in tests):
        return [
            (_text(test.get("input")), _text(test.get("output"))) for test in tests
        ], ""
    return [], ""


def _cases_of_columns(tests: dict[str, object]) -> tuple[list[Case], str]:
    """Return the tests of {inputs, outputs, fn_name}, as APPS and TACO have them."""
    inputs = tests.get("inputs")
    outputs = tests.get("outputs")
    if not isinstance(inputs, list) or not isinstance(outputs, list):
        return [], ""
    pairs = list(zip(inputs, outputs, strict=False))
    name = str(tests.get("fn_name") or "")
    if name.isidentifier():
        return [], "\n".join(
            f"assert {name}(*{given!r}) == {wanted!r}" for given, wanted in pairs
        )
    return [(_text(given), _text(wanted)) for given, wanted in pairs], ""


def _text(value: object) -> str:
    if isinstance(value, list):
        return "\n".join(map(str, value))
    return "" if value is None else str(value)


def _reason_of_cases(
    program: str, cases: Sequence[Case], check: Check, deadline: Deadline
) -> str:
    """Return why a program fails a case, "" if it prints what it should for all."""
    for number, (given, wanted) in enumerate(cases, 1):
        with _process(_PROGRAM, check) as process:
            process.send(
                json.dumps({"code": program, "input": given}).encode(), deadline
            )
            output, status = process.read_all(MAX_OUTPUT_BYTES, deadline)
        if status:
            return f"test {number}: the program ended with status {status}"
        if _lines(output.decode(errors="replace")) != _lines(wanted):
            return f"test {number}: it printed something else"
    return ""


def _lines(text: str) -> list[str]:
    """Return the lines of an output, without what nobody sees at their ends."""
    return [line.rstrip() for line in text.rstrip().splitlines()]


def _reason_of_tests(
    program: str, tests: str, prompt: Prompt, deadline: Deadline
) -> str:
    """Return why a program fails its tests, "" if it passes."""
    check = prompt.check
    entry_point = str(prompt.reference.get("entry_point") or "")
    with (
        _process(_PROGRAM, check) as answer,
        _process(_TESTS, check) as judge,
    ):
        answer.send(json.dumps({"code": program, "input": None}).encode(), deadline)
        for expected in ("confined", "loaded"):
            reply = _document(answer.receive(deadline))
            if expected not in reply:
                return f"{reply.get('raised', 'it did not load')}: {reply.get('message', '')}"
        request = {"tests": tests, "entry_point": entry_point}
        judge.send(json.dumps(request).encode(), deadline)
        while True:
            # The judging process runs no line of the program: what it says is the verdict.
            message = json.loads(judge.receive(deadline))
            if "ask" not in message:
                break
            answer.send(json.dumps(message["ask"]).encode(), deadline)
            judge.send(answer.receive(deadline), deadline)
    if message.get("passed") is True:
        return ""
    return str(message.get("reason") or message.get("unconfined"))


def printable(text: str) -> str:
    """Return a text without what could steer a terminal: the program may have chosen it."""
    words = " ".join(text.split())
    return "".join(character if character.isprintable() else "?" for character in words)


def _document(line: bytes) -> dict[str, object]:
    """Return what a program's process said; anything but an object is nothing."""
    try:
        document = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _process(module: str, check: Check) -> LineProcess:
    limits = (str(check.seconds), str(check.memory_mb))
    return LineProcess(module, limits, packages=False)


def require_confinement(verifier: str) -> None:
    """Raise UserError, naming the verifier, if this machine cannot confine a program."""
    if reason := _missing():
        raise UserError(
            f"verifier {verifier} runs what a model wrote, and refuses to without {reason}"
        )


@functools.cache
def _missing() -> str:
    """Return what this machine lacks, "" if programs can be confined."""
    reason = seccomp.missing()
    if not reason:
        # Seen once in each process: the workers look again, and run nothing if they are free.
        request = json.dumps({"code": "", "input": None}).encode()
        with _process(_PROGRAM, Check()) as process:
            try:
                process.send(request, Deadline(START_SECONDS))
                reply = _document(process.receive(Deadline(START_SECONDS)))
            except Silent as error:
                reply = {"unconfined": str(error)}
        if "confined" not in reply:
            reason = (
                f"seccomp filters, which this kernel or container refuses ({reply})"
            )
    return reason
