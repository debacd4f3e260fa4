"""Tasks of kfp.local as processes of the task server, started without a shell."""

from __future__ import annotations

import functools
import os
import re
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from components.cli.local.task_server import (
    HANDED_ON,
    ServerEnded,
    TaskRequest,
    TaskServer,
)
from components.errors import RatchetError
from components.runtime.log_lines import (
    LineStamper,
    LogSubject,
    format_from,
    message_of,
)
from components.runtime.stamped_output import HELD_SECONDS
from components.runtime.supervisor import unsupervised

if TYPE_CHECKING:
    from kfp.local.config import SubprocessRunner
    from kfp.local.status import Status

EXECUTOR_MODULE = "kfp.dsl.executor_main"
ERROR_LINE = re.compile(r"^\s*error(?: \((\w+)\))?: (.+)$", re.MULTILINE)
"""A failure that a step foresaw: its kind and its message."""
_INDENT = " " * 4  # as kfp sets a task's output off from its own lines


def serve_tasks(server: TaskServer) -> None:
    """Have kfp.local's SubprocessRunner start tasks by `server`."""
    # kfp's own handler runs a line of shell in which it replaces `python3` by the path of this
    # Python. A path with a space breaks that line, and one with `$(…)` is executed. The line also
    # makes a temporary folder that nobody deletes, and shows the task's inputs in the arguments of
    # a process. It is the same for every component: it writes the component's source to a file and
    # starts KFP's executor on it, which the task server does as well.
    from kfp.local import subprocess_task_handler

    subprocess_task_handler.SubprocessTaskHandler = functools.partial(
        ServedTask, server
    )


class ServedTask:
    """One task, with the methods that kfp.local expects of a task handler."""

    def __init__(
        self,
        server: TaskServer,
        image: str,
        full_command: Sequence[str],
        pipeline_root: str,
        runner: SubprocessRunner,
        env_vars: Mapping[str, str] | None = None,
    ) -> None:
        """Take what kfp hands over, besides `server`.

        Raises RuntimeError if the task is no lightweight Python component.
        """
        self._server = server
        self._source, self._arguments = _split_command(full_command)
        self._environment = dict(env_vars or {})

    def run(self) -> Status:
        """Carry the task out and return kfp's status. A failure leaves a line with its reason."""
        environment = {**os.environ, **self._environment}
        # A task has none of this process's descriptors.
        environment.pop(HANDED_ON, None)
        request = TaskRequest(
            source=self._source,
            arguments=self._arguments,
            environment=environment,
            folder=os.getcwd(),
        )
        is_json = format_from(environment) == "json"
        output = _Output(LineStamper(LogSubject(step=self._name)) if is_json else None)
        try:
            return self._end_of(request, output)
        finally:
            output.release()

    def _end_of(self, request: TaskRequest, output: _Output) -> Status:
        from kfp.local import status

        try:
            exit_status = self._server.run(request, output.line)
        except ServerEnded as error:
            output.line(f"error ({RatchetError.__name__}): {error}")
            return status.Status.FAILURE
        if exit_status == 0:
            return status.Status.SUCCESS
        if not output.has_reason:
            reason = output.describe_end(exit_status)
            output.line(f"error ({RatchetError.__name__}): {self._name}: {reason}")
        return status.Status.FAILURE

    @property
    def _name(self) -> str:
        return self._arguments[self._arguments.index("--function_to_execute") + 1]


class _Output:
    """Writes a task's lines to standard output, and remembers a line with a failure's reason."""

    def __init__(self, stamper: LineStamper | None) -> None:
        """Take what gives lines their form; None: they stay as they are, set off."""
        self._stamper = stamper
        self._held: list[tuple[float, str]] = []
        self._hold_until = time.monotonic() + HELD_SECONDS
        self.has_reason = False
        self._last_line = ""

    def line(self, text: str) -> None:
        """Write one line."""
        message = message_of(text)
        self.has_reason = self.has_reason or ERROR_LINE.match(message) is not None
        # That of a traceback is its error.
        self._last_line = message.strip().rpartition("\n")[2] or self._last_line
        if self._stamper is None:
            self._write(f"{_INDENT}{text}")
        elif text.strip():
            seconds = time.time()
            stamped = self._stamper.stamp(text, seconds)
            # KFP's executor speaks before the task knows its run.
            if not self._stamper.subject.run and time.monotonic() < self._hold_until:
                self._held.append((seconds, text))
                return
            self.release()
            self._write(stamped)

    def release(self) -> None:
        """Write the lines that wait for the task to say which run it is of."""
        for seconds, text in self._held:
            if self._stamper is not None:
                self._write(self._stamper.stamp(text, seconds))
        self._held.clear()

    @staticmethod
    def _write(line: str) -> None:
        sys.stdout.write(f"{line}\n")
        sys.stdout.flush()

    def describe_end(self, exit_status: int) -> str:
        """Return words for an end that no line explains."""
        if exit_status > 128:
            return f"was ended by {signal_name(exit_status - 128)}"
        last_line = self._last_line or "(none)"
        return f"ended with status {exit_status}; its last line: {last_line}"


def signal_name(number: int) -> str:
    """Return the name of a signal, with the most likely reason of SIGKILL."""
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
    # The kernel's out-of-memory killer leaves no other trace in the process.
    return (
        f"{name}, most often for want of memory" if number == signal.SIGKILL else name
    )


def _split_command(full_command: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return (source, arguments of the executor) of `sh -ec LINE SOURCE ARGUMENTS…`."""
    # In a container a step is started by the supervisor; here the task server watches over it.
    match unsupervised(full_command):
        case ["sh", "-ec", line, source, *arguments] if EXECUTOR_MODULE in line:
            return source, tuple(arguments)
    raise RuntimeError(
        "only lightweight Python components without packages to install can be run as processes"
    )
