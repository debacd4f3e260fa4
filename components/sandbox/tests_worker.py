"""The process that runs a row's tests against a program that runs in another one.

`python -I -S tests_worker.py SECONDS MEMORY_MB`. The first line in is {tests, entry_point}. The
names of the program that the tests use are stand-ins: a call goes through the channel to the other
process, and what comes back is a plain value. So the program shares no interpreter with the tests: it
cannot end them, change `unittest` or `==`, print a mark of success, or look for expected values.
"""

from __future__ import annotations

import ast
import builtins
import contextlib
import importlib
import io
import os
import sys
import types
import unittest
from pathlib import Path
from typing import NoReturn

sys.path.append(str(Path(__file__).resolve().parents[2]))

from components.sandbox.channel import Channel
from components.sandbox.confine import Unconfined, confine, limit
from components.sandbox.imports import load_imports
from components.sandbox.plain_values import decode, encode

# Names under which tests import the program.
_PROGRAM_MODULES = ("solution", "answer", "main", "your_module", "submission")
# Exceptions that keep their type, so that tests can expect them. Not StopIteration: inside `all(map(…))`
# it would end the loop early, and nothing would have been tested.
_KEPT_EXCEPTIONS = (
    *(
        "ArithmeticError",
        "AssertionError",
        "AttributeError",
        "Exception",
        "IndexError",
        "KeyError",
    ),
    *("LookupError", "NameError", "NotImplementedError", "OSError", "OverflowError"),
    *("RecursionError", "RuntimeError", "TypeError", "UnicodeError", "ValueError"),
    "ZeroDivisionError",
)
MAX_REASON_CHARACTERS = 300


class AnswerError(Exception):
    """The program raised something that tests do not expect, or gave no plain value."""


def main() -> None:
    """Run the tests of one row."""
    seconds, memory_mb = map(int, sys.argv[1:])
    channel = Channel()
    request = channel.receive()
    try:
        limit(cpu_seconds=seconds + 1, memory_bytes=memory_mb * 2**20)
        confine(read_files=True)
        load_imports(str(request["tests"]))
        confine(read_files=False)
    except (OSError, Unconfined) as error:
        channel.send({"unconfined": str(error)})
        os._exit(1)
    program = _Program(channel)
    try:
        reason = _run(program, str(request["tests"]), str(request["entry_point"]))
    except BaseException as error:  # noqa: BLE001 — whatever a test raises, it has not passed.
        reason = f"{type(error).__name__}: {error}"
    if not reason and not program.num_calls:
        reason = "the tests never call the answer"
    channel.send({"passed": not reason, "reason": reason[:MAX_REASON_CHARACTERS]})


def _run(program: _Program, tests: str, entry_point: str) -> str:
    """Run the tests; return a reason where unittest reports failures."""
    tree = ast.parse(tests)
    imported = _take_program_imports(tree)
    namespace = types.ModuleType("tests")
    sys.modules["tests"] = namespace
    for name in sorted(_free_names(tree) | imported):
        _define(namespace, program, name)
    if entry_point and not hasattr(namespace, entry_point):
        _define(namespace, program, entry_point, is_program=True)
    exec(compile(tree, "tests.py", "exec"), namespace.__dict__)
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    if "check" in functions and entry_point and not program.num_calls:
        namespace.__dict__["check"](namespace.__dict__[entry_point])
    for name in functions:
        if name.startswith("test"):
            namespace.__dict__[name]()
    return _run_cases(namespace)


def _run_cases(namespace: types.ModuleType) -> str:
    suite = unittest.defaultTestLoader.loadTestsFromModule(namespace)
    if not suite.countTestCases():
        return ""
    result = unittest.TextTestRunner(stream=io.StringIO()).run(suite)
    for _, text in (*result.failures, *result.errors):
        return text.strip().splitlines()[-1]
    if result.skipped or result.expectedFailures or result.unexpectedSuccesses:
        return "a test was skipped, or did not end as expected"
    return ""


def _take_program_imports(tree: ast.Module) -> set[str]:
    """Remove `from solution import …` from the tests, and return the names."""
    names: set[str] = set()
    for statement in list(tree.body):
        if (
            isinstance(statement, ast.ImportFrom)
            and statement.module in _PROGRAM_MODULES
        ):
            names.update(alias.asname or alias.name for alias in statement.names)
            tree.body.remove(statement)
    return names - {"*"}


def _free_names(tree: ast.Module) -> set[str]:
    """Return the names that the tests use and do not define; names of Python itself are none."""
    used: set[str] = set()
    defined = set(dir(builtins)) | {"__name__", "__file__"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Name):
            (used if isinstance(node.ctx, ast.Load) else defined).add(node.id)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).partition(".")[0])
        elif isinstance(node, ast.ExceptHandler) and node.name:
            defined.add(node.name)
    return used - defined


def _define(
    namespace: types.ModuleType,
    program: _Program,
    name: str,
    *,
    is_program: bool = False,
) -> None:
    # Tests often take for granted what the program imports.
    if name in sys.stdlib_module_names and not is_program:
        with contextlib.suppress(ImportError):
            setattr(namespace, name, importlib.import_module(name))
            return
    reply = program.ask({"name": name})
    if "missing" not in reply:
        setattr(namespace, name, program.value(reply))


class _Program:
    """The program in the other process."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self.num_calls = 0

    def ask(self, request: dict[str, object]) -> dict[str, object]:
        """Return the reply; raise what the program raised."""
        self._channel.send({"ask": request})
        reply = self._channel.receive()
        if "raised" in reply:
            _raise(str(reply["raised"]), str(reply.get("message", "")))
        return reply

    def value(self, reply: dict[str, object]) -> object:
        """Return the value of a reply, of Python's own types or a stand-in."""
        return self._decoded(reply["value"])

    def call(
        self, number: int, arguments: list[object], options: dict[str, object]
    ) -> object:
        """Call an object of the program, and let its changes of arguments be seen."""
        self.num_calls += 1
        request = {
            "object": number,
            "arguments": encode(arguments, _number_of),
            "options": encode(options, _number_of),
        }
        reply = self.ask(request)
        changed = reply.get("arguments")
        if isinstance(changed, list):
            for argument, document in zip(arguments, changed, strict=False):
                if document is not None:
                    _update(argument, self._decoded(document))
        return self.value(reply)

    def _decoded(self, document: object) -> object:
        try:
            return decode(document, lambda number: _StandIn(self, number))
        except (ValueError, TypeError, KeyError) as error:
            raise AnswerError(f"the answer's process sent no value ({error})") from None


def _update(argument: object, changed: object) -> None:
    """Give an argument the content that it has after the call."""
    match (argument, changed):
        case (list(), list()) | (bytearray(), bytes()):
            argument[:] = changed  # type: ignore[index]
        case (dict(), dict()) | (set(), set()):
            argument.clear()  # type: ignore[attr-defined]
            argument.update(changed)  # type: ignore[attr-defined]


def _raise(name: str, message: str) -> NoReturn:
    if name in _KEPT_EXCEPTIONS:
        raise getattr(builtins, name)(message)
    raise AnswerError(f"{name}: {message}")


def _number_of(value: object) -> int:
    if isinstance(value, _StandIn):
        return value._number
    raise AnswerError(f"a {type(value).__name__} cannot be handed to the answer")


class _StandIn:
    """An object of the program: it can be called and asked for attributes, and is equal to nothing."""

    def __init__(self, program: _Program, number: int) -> None:
        self._program = program
        self._number = number

    def __call__(self, *arguments: object, **options: object) -> object:
        return self._program.call(self._number, list(arguments), options)

    def __getattr__(self, name: str) -> object:
        reply = self._program.ask({"object": self._number, "attribute": name})
        return self._program.value(reply)

    def _method(self, name: str, *arguments: object) -> object:
        # Not `getattr`: this class has methods of these names.
        method = self.__getattr__(name)
        assert callable(method)
        return method(*arguments)

    def __len__(self) -> int:
        return int(str(self._method("__len__")))

    def __iter__(self) -> object:
        return self._method("__iter__")

    def __getitem__(self, key: object) -> object:
        return self._method("__getitem__", key)

    def __setitem__(self, key: object, value: object) -> None:
        self._method("__setitem__", key, value)

    def __contains__(self, value: object) -> bool:
        return self._method("__contains__", value) is True

    def __str__(self) -> str:
        return str(self._method("__str__"))

    # An object that says of itself that it is equal, true or smaller would pass every test.
    def _refuse(self, *_: object) -> NoReturn:
        raise AnswerError("an object of the answer's own class cannot be compared")

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __bool__ = _refuse
    __hash__ = _refuse


if __name__ == "__main__":
    main()
