"""The process that asks a checker of the user's: a line of JSON in, a line of JSON out.

`python -I checker_worker.py FOLDER MODULE FUNCTION SECONDS MEMORY_MB`. The first line out is "ready"
or an error; then each line in is {prompt, answer, reference}. FUNCTION may be the class of a task,
which is then asked for its verdicts; {difficulty, seed} asks it for a puzzle.
"""

from __future__ import annotations

import importlib
import inspect
import json
import numbers
import os
import random
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

sys.path.append(str(Path(__file__).resolve().parents[2]))

from components.sandbox.confine import Unconfined, confine, limit

MAX_REASON_CHARACTERS = 500
PLAIN = "make it a plain function"
TRAVELS = (
    "files of a checker's package travel with it, and so does a file beside it whose whole name "
    "stands in its source"
)
Reply = dict[str, object]
Function = Callable[..., Any]
"""Code of the user's."""


def main() -> None:
    """Answer until the input ends."""
    folder, module, function, seconds, memory_mb = sys.argv[1:]
    channel = _private_output()
    questions = _private_input()
    sys.path.insert(0, folder)
    # A file that lies beside the checker is beside it here too.
    os.chdir(folder)
    sys.dont_write_bytecode = True
    try:
        limit(cpu_seconds=None, memory_bytes=int(memory_mb) * 2**20)
        confine(read_files=True)
    except (OSError, Unconfined) as error:
        _reply(channel, {"unconfined": str(error)})
        return
    signal.alarm(int(seconds))
    try:
        check, make = _loaded(module, function)
    except BaseException as error:  # noqa: BLE001 — the user's module may raise anything.
        _reply(channel, {"error": problem_of(error, folder)})
        return
    signal.alarm(0)
    _reply(channel, {"ready": True})
    for line in questions:
        # Without a handler: the kernel ends the process also inside one long call, and where the
        # step that asks is gone.
        signal.alarm(int(seconds))
        request = json.loads(line)
        reply = (
            _made(make, request, folder)
            if "seed" in request
            else _checked(check, request, folder)
        )
        # A checker that finds the channel and writes to it cannot shift later replies.
        _reply(channel, {**reply, "number": request["number"]})
        signal.alarm(0)


def _loaded(module: str, function: str) -> tuple[Function, Function]:
    """Return (checker, maker of puzzles) of a function, or of the class of a task."""
    loaded = getattr(importlib.import_module(module), function, None)
    if isinstance(loaded, type):
        task = loaded()
        return getattr(task, "verify", _no_verify), getattr(task, "make", _no_make)
    if not callable(loaded):
        raise AttributeError(f"module {module} has no function {function!r}")
    return loaded, _no_make


def _no_verify(*_: object) -> None:
    raise TypeError("the class has no method verify(prompt, answer, reference)")


def _no_make(*_: object) -> None:
    raise TypeError("it is no class with a method make(difficulty, rng)")


def _made(make: Function, request: dict[str, int], folder: str) -> Reply:
    """Return a puzzle of a task: its text, its right answer, and what `verify` needs beside."""
    try:
        puzzle = make(request["difficulty"], random.Random(request["seed"]))
        if isinstance(puzzle, tuple) and not hasattr(puzzle, "text"):
            text, answer = puzzle
            reference: object = {}
        else:
            text = puzzle.text
            answer = puzzle.answer
            reference = getattr(puzzle, "reference", {})
        # As the verifier will read it.
        reference = json.loads(json.dumps(reference, allow_nan=False))
    except BaseException as error:  # noqa: BLE001
        return {"error": problem_of(error, folder)}
    if (
        not isinstance(text, str)
        or not isinstance(answer, str)
        or not isinstance(reference, dict)
    ):
        return {
            "error": "make returns (text, answer), or an object with `text` and `answer`: texts"
        }
    if not text.strip() or not answer.strip():
        return {"error": "make returned an empty text or answer"}
    return {"text": text, "answer": answer, "reference": reference}


def _checked(checker: Function, request: dict[str, object], folder: str) -> Reply:
    try:
        result = checker(request["prompt"], request["answer"], request["reference"])
        return _verdict(result)
    except BaseException as error:  # noqa: BLE001 — SystemExit too is no end of a round.
        return {"error": problem_of(error, folder)}


def _verdict(result: object) -> Reply:
    """Return score and reason of what a checker returned."""
    if inspect.isawaitable(result):
        return {"error": f"it is async, and nothing awaits it: {PLAIN}"}
    result = _plain_number(result)
    score = _plain_number(getattr(result, "score", result))
    reason = _readable(str(getattr(result, "reason", "") or ""))
    if not isinstance(score, numbers.Real):
        kind = type(result).__name__
        return {
            "error": f"it returned {kind}, not a bool, a number from 0 to 1 or a Verdict"
        }
    share = float(score)
    if not 0 <= share <= 1:
        return {"error": f"it returned the score {share}; scores are from 0 to 1"}
    return {"score": share, "reason": reason}


def _plain_number(value: Any) -> Any:
    """Return a number of NumPy or torch, or an array of one, as Python's; else the value."""
    return (
        value.item()
        if hasattr(value, "item") and not hasattr(value, "score")
        else value
    )


def _readable(text: str) -> str:
    """Return a text that can be written into a file, cut."""
    # Half of a surrogate pair cannot.
    return text[:MAX_REASON_CHARACTERS].encode(errors="replace").decode()


def problem_of(error: BaseException, folder: str) -> str:
    """Return an exception in one line, with the line of the user's code that it passed."""
    location = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename.startswith(folder):
            location = (
                f"{os.path.relpath(frame.filename, folder)} line {frame.lineno}: "
            )
    if isinstance(error, SyntaxError) and not location:
        location = f"{os.path.basename(error.filename or '')} line {error.lineno}: "
    try:
        words = _readable(" ".join(str(error).split()))
    except BaseException:  # noqa: BLE001 — the exception's class is of the user's too.
        words = "an exception without a message"
    if isinstance(error, FileNotFoundError):
        words += f" ({TRAVELS})"
    return f"{location}{type(error).__name__}: {words}"


def _private_input() -> TextIO:
    """Return the channel's other end, and let a checker that reads its input find it empty."""
    questions = os.fdopen(os.dup(0), encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    return questions


def _private_output() -> TextIO:
    """Return the channel, and let everything that the checker prints go nowhere."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
    return channel


def _reply(channel: TextIO, reply: Reply) -> None:
    channel.write(json.dumps(reply) + "\n")
    channel.flush()


if __name__ == "__main__":
    main()
