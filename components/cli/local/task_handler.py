"""How kfp.local starts a task here: as a process of the task server, without a shell.

kfp's own handler runs a line of shell in which it replaces `python3` by the path of this Python. A
path with a space breaks that line, and one with `$(…)` is executed. The line also makes a temporary
folder that nobody deletes, and shows the task's inputs in the arguments of a process. The line is
the same for every component: it writes the component's source to a file and starts KFP's executor
on it, which the task server does as well.
"""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from components.cli.local.task_server import ServerEnded, TaskRequest, TaskServer
from components.errors import RatchetError
from components.runtime.supervisor import unsupervised

EXECUTOR_MODULE = "kfp.dsl.executor_main"
ERROR_LINE = re.compile(r"^\s*error(?: \((\w+)\))?: (.+)$", re.MULTILINE)
"""A failure that a step foresaw: its kind and its message."""
_INDENT = " " * 4
"""As kfp sets a task's output off from its own lines."""


def serve_tasks(server: TaskServer) -> None:
    """Have kfp.local's SubprocessRunner start tasks by `server`."""
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.SubprocessTaskHandler = functools.partial(ServedTask, server)


class ServedTask:
    """One task; what kfp.local expects of a task handler."""

    def __init__(
        self,
        server: TaskServer,
        image: str,
        full_command: Sequence[str],
        pipeline_root: str,
        runner: Any,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        """All but `server` is handed over by kfp. Raises RuntimeError if the task is no lightweight
        Python component."""
        self._server = server
        self._source, self._arguments = _parts(full_command)
        self._environment = dict(env_vars or {})

    def run(self) -> Any:
        """Carry the task out and return kfp's status. A failure always leaves a line that says why."""
        from kfp.local import status

        request = TaskRequest(
            source=self._source,
            arguments=self._arguments,
            environment={**os.environ, **self._environment},
            folder=os.getcwd(),
        )
        output = _Output()
        try:
            exit_status = self._server.run(request, output.line)
        except ServerEnded as error:
            output.line(f"error ({RatchetError.__name__}): {error}")
            return status.Status.FAILURE
        if exit_status == 0:
            return status.Status.SUCCESS
        if not output.explained:
            output.line(f"error ({RatchetError.__name__}): {self._name}: {output.end(exit_status)}")
        return status.Status.FAILURE

    @property
    def _name(self) -> str:
        return self._arguments[self._arguments.index("--function_to_execute") + 1]


class _Output:
    """Writes a task's lines to standard output and remembers whether one says why it failed."""

    def __init__(self) -> None:
        self.explained = False
        self._last = ""

    def line(self, text: str) -> None:
        """Write one line."""
        self.explained = self.explained or ERROR_LINE.match(text) is not None
        self._last = text.strip() or self._last
        sys.stdout.write(f"{_INDENT}{text}\n")
        sys.stdout.flush()

    def end(self, exit_status: int) -> str:
        """Words for an end that no line explains."""
        if exit_status > 128:
            return f"was ended by {_signal_name(exit_status - 128)}"
        return f"ended with status {exit_status}; its last line: {self._last or '(none)'}"


def _signal_name(number: int) -> str:
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    return f"{name}, most often for want of memory" if number == signal.SIGKILL else name


def _parts(full_command: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return (source, arguments of the executor) of `sh -ec LINE SOURCE ARGUMENTS…`."""
    command = unsupervised(full_command)
    head, rest = command[:3], command[3:]
    if head[:2] != ["sh", "-ec"] or EXECUTOR_MODULE not in head[-1] or not rest:
        raise RuntimeError(
            "only lightweight Python components without packages to install can be run as processes"
        )
    return rest[0], tuple(rest[1:])
