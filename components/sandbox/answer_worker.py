"""The process that runs a program which a model wrote.

`python -I -S answer_worker.py SECONDS MEMORY_MB`. The first line in is {code, input}. With an input
the program runs as a script, with it as standard input, and its output is all that comes out.
Without, each line in asks for something of the program, as `tests_worker` does.

Nothing is here that a program should not know: no test, no expected value, no environment. It opens
no file; what it imports of the standard library was loaded before it began.
"""

from __future__ import annotations

import json
import os
import sys
import types
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[2]))

from components.sandbox.channel import Channel
from components.sandbox.confine import Unconfined, confine, limit
from components.sandbox.imports import load_imports
from components.sandbox.plain_values import decode, encode

MAX_MESSAGE_CHARACTERS = 300
_CHANGED_BY_CALLS = (list, dict, set, bytearray)


def main() -> None:
    """Run one program."""
    seconds, memory_mb = map(int, sys.argv[1:])
    request = json.loads(sys.stdin.buffer.readline())
    is_script = request["input"] is not None
    channel = None
    if is_script:
        _set_input(request["input"])
    else:
        channel = Channel()
    try:
        limit(cpu_seconds=seconds + 1, memory_bytes=memory_mb * 2**20)
        confine(read_files=True)
        load_imports(request["code"])
        # From here on only the standard library is there, and only what was loaded.
        sys.path.pop()
        confine(read_files=False)
    except (OSError, Unconfined) as error:
        # Nothing of the program has run.
        if channel is not None:
            channel.send({"unconfined": str(error)})
        os._exit(1)
    if channel is None:
        _run_script(request["code"])
    else:
        channel.send({"confined": True})
        _Program(channel).serve(request["code"])


def _set_input(text: str) -> None:
    """Make a text the standard input, by a file in memory."""
    file = os.memfd_create("input")
    data = text.encode(errors="surrogatepass")
    while data:
        data = data[os.write(file, data) :]
    os.lseek(file, 0, os.SEEK_SET)
    os.dup2(file, 0)
    os.close(file)
    sys.stdin = os.fdopen(0, encoding="utf-8", closefd=False)


def _module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    # Data classes look their module up.
    sys.modules[name] = module
    return module


def _run_script(code: str) -> None:
    module = _module("__main__")
    exec(compile(code, "answer.py", "exec"), module.__dict__)


class _Program:
    """A program whose functions are called from outside."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._objects: list[object] = []

    def serve(self, code: str) -> None:
        """Load the program, then answer until the input ends."""
        module = _module("answer")
        try:
            exec(compile(code, "answer.py", "exec"), module.__dict__)
        except BaseException as error:  # noqa: BLE001 — SystemExit is a failure too.
            self._channel.send(_raised(error))
            return
        self._channel.send({"loaded": True})
        while True:
            request = self._channel.receive()
            try:
                reply = self._reply(module, request)
            except BaseException as error:  # noqa: BLE001
                reply = _raised(error)
            self._channel.send(reply)

    def _reply(
        self, module: types.ModuleType, request: dict[str, object]
    ) -> dict[str, object]:
        if "name" in request:
            name = str(request["name"])
            if name not in module.__dict__:
                return {"missing": True}
            return {"value": self._encoded(module.__dict__[name])}
        target = self._objects[int(str(request["object"]))]
        if "attribute" in request:
            return {"value": self._encoded(getattr(target, str(request["attribute"])))}
        arguments, options = self._arguments(request)
        result = target(*arguments, **options)  # type: ignore[operator]
        # Tests also look at a list that a function sorts in place.
        changed = [
            self._encoded(value) if isinstance(value, _CHANGED_BY_CALLS) else None
            for value in arguments
        ]
        return {"value": self._encoded(result), "arguments": changed}

    def _arguments(
        self, request: dict[str, object]
    ) -> tuple[list[object], dict[str, object]]:
        arguments = decode(request["arguments"], self._objects.__getitem__)
        options = decode(request["options"], self._objects.__getitem__)
        assert isinstance(arguments, list)
        assert isinstance(options, dict)
        return arguments, options

    def _encoded(self, value: object) -> object:
        return encode(value, self._number_of)

    def _number_of(self, value: object) -> int:
        self._objects.append(value)
        return len(self._objects) - 1


def _raised(error: BaseException) -> dict[str, object]:
    message = str(error)[:MAX_MESSAGE_CHARACTERS]
    return {"raised": type(error).__name__, "message": message}


if __name__ == "__main__":
    main()
