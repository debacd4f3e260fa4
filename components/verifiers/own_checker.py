"""A checker of the user's: `module:function`, or `file.py:function` of a file beside the recipe.

The function takes (prompt, answer, reference) and returns a bool, a score from 0 to 1 or a Verdict.
It is asked in a confined process: no network, no other process, no file written, bounded time and
memory. An exception, or a call that takes too long, is a verdict of 0 with the reason.

The class of a procedural task is a checker too, by its method `verify`; `make` makes its puzzles.
"""

from __future__ import annotations

import functools
import json
import os
import threading
from pathlib import Path
from typing import NamedTuple

from components.canonical import JsonObject
from components.contracts.rows import Check, Prompt
from components.contracts.verifier_names import OwnName, own_name
from components.errors import UserError
from components.retry import Deadline
from components.sandbox import seccomp
from components.sandbox.code_bundles import folder_of
from components.sandbox.process import LineProcess, Silent
from components.sandbox.verdict import Verdict

_WORKER = "components.sandbox.checker_worker"
START_SECONDS = 60
"""Time to import the checker, with all that it imports."""
_SOURCE = Path(__file__).resolve().parents[2]


class CheckerFailed(Exception):
    """The checker raised, or gave no verdict. The message names it, and its line."""


def verdict(prompt: Prompt, text: str) -> Verdict:
    """Return the checker's verdict on an answer.

    Raises:
        UserError: The checker cannot be imported, or cannot be confined here.
    """
    try:
        return tried(prompt, text)
    except CheckerFailed as error:
        return Verdict(0.0, f"{error} (prompt {prompt.id})")


def tried(prompt: Prompt, text: str) -> Verdict:
    """Return the verdict. Raise CheckerFailed where the checker gives none."""
    return _checker(_Asked(prompt.verifier, prompt.check)).verdict(prompt, text)


def puzzle(task: str, check: Check, difficulty: int, seed: int) -> Puzzle:
    """Return the puzzle that a task of the user's makes of a seed.

    Raises:
        CheckerFailed: It raises, or makes none.
        UserError: As `verdict` does.
    """
    reply = _checker(_Asked(task, check)).ask({"difficulty": difficulty, "seed": seed})
    return Puzzle(reply["text"], reply["answer"], reply["reference"])


@functools.lru_cache(maxsize=16)
def ready_checker(module: str, function: str, check: Check) -> Checker:
    """Return a checker of ours, which is asked in the same confined process as the user's."""
    return Checker(OwnName("", module, function), check, _SOURCE)


class Puzzle(NamedTuple):
    """A question that a program made."""

    text: str
    answer: str
    reference: JsonObject
    """What the verifier needs beside the answer."""


class _Asked(NamedTuple):
    verifier: str
    check: Check


@functools.lru_cache(maxsize=16)
def _checker(asked: _Asked) -> Checker:
    name = own_name(asked.verifier)
    assert name is not None, asked.verifier
    return Checker(name, asked.check, folder_of(asked.check.code))


class Checker:
    """One function; its process starts at the first question, and again after it was ended."""

    def __init__(self, name: OwnName, check: Check, folder: Path) -> None:
        """Start nothing yet.

        Args:
            name: of the function.
            check: time and memory that it gets.
            folder: from which its module is imported.
        """
        self._name = name
        self._check = check
        self._folder = folder
        self._process: LineProcess | None = None
        self._owner = 0
        self._num_asked = 0
        self._lock = threading.Lock()

    def verdict(self, prompt: Prompt, text: str) -> Verdict:
        """Ask it about an answer; see `tried`."""
        request = {"prompt": prompt.text, "answer": text, "reference": prompt.reference}
        reply = self.ask(request)
        return Verdict(reply["score"], reply["reason"])

    def ask(self, request: JsonObject) -> JsonObject:
        """Return the reply to a request. Raise CheckerFailed where there is none."""
        # Threads share the process: a question and its reply must not be parted.
        with self._lock:
            process = self._running()
            deadline = Deadline(self._check.seconds)
            try:
                self._num_asked += 1
                numbered = {**request, "number": self._num_asked}
                process.send(json.dumps(numbered).encode(), deadline)
                reply = _reply_to(self._num_asked, process.receive(deadline))
            except Silent as error:
                process.end()
                self._process = None
                raise CheckerFailed(f"{self._name}: {error}") from None
        if "error" in reply:
            raise CheckerFailed(f"{self._name}: {reply['error']}")
        return reply

    def _running(self) -> LineProcess:
        # A forked process must not share the one of its parent: replies would be mixed up.
        if self._process is None or self._owner != os.getpid():
            self._process = self._start()
            self._owner = os.getpid()
        return self._process

    def _start(self) -> LineProcess:
        if missing := seccomp.missing():
            raise UserError(
                f"verifier {self._name}: it cannot be confined here without {missing}"
            )
        arguments = (str(self._folder), self._name.module, self._name.function)
        limits = (str(self._check.seconds), str(self._check.memory_mb))
        process = LineProcess(_WORKER, (*arguments, *limits), packages=True)
        try:
            reply = json.loads(process.receive(Deadline(START_SECONDS)))
        except Silent as error:
            reply = {"error": f"importing it: {error}"}
        if "ready" in reply:
            return process
        process.end()
        if "unconfined" in reply:
            raise UserError(
                f"verifier {self._name}: it cannot be confined here: {reply['unconfined']} "
                "(needed: seccomp filters)"
            )
        raise UserError(f"verifier {self._name}: {reply['error']}")


def _reply_to(number: int, line: bytes) -> JsonObject:
    """Return the reply to a request. Raise Silent for a line that is none."""
    try:
        reply = json.loads(line)
    except ValueError:
        reply = None
    if not isinstance(reply, dict) or reply.get("number") != number:
        raise Silent("its process wrote to the channel of its verdicts")
    return reply
