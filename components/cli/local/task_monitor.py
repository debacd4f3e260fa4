"""The task server's process, and the monitors and tasks that it forks; `task_server` starts it."""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn

from components.cli.local.parent_death import end_with_parent
from components.cli.local.task_server import (
    BLOCK_BYTES,
    SERVER_COMMAND,
    TASK_PATIENCE_SECONDS,
    TaskRequest,
)
from components.errors import UserError

# A campaign that connects sends its request at once; one that was killed in between never does.
REQUEST_SECONDS = 60.0


@dataclass(frozen=True)
class _Task:
    """A request that has its folder."""

    request: TaskRequest
    scratch: Path
    """The task's own temporary folder."""
    output: int
    """Descriptor that the task writes to."""
    warm: bool


class QuickExit:
    """Ends this process, and those forked from it, without taking their objects apart.

    All else that belongs to an exit is done: threads are waited for, handlers called, streams
    written out.
    """

    # Python clears every module before it ends. In a forked task that touches, and so copies, each
    # page of what was preloaded: 0.8 s of CPU time, most of what a small task takes.

    def __init__(self) -> None:
        """Be the last handler of the exit: handlers that are registered later are called before."""
        self._status = 0
        atexit.register(self._end)

    @contextmanager
    def noting_status(self) -> Iterator[None]:
        """Note the exit status that an exception of the block, which goes on, will lead to."""
        try:
            yield
        except SystemExit as error:
            code = error.code
            self._status = code if isinstance(code, int) else int(code is not None)
            raise
        except BaseException:
            self._status = 1
            raise

    def _end(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(self._status)


def serve(control: socket.socket, *, warm: bool) -> _Task | None:
    """Fork a monitor for each connection.

    Returns:
        None in the server, once the campaign is gone; in each forked task, that task.
    """
    # Monitors end by themselves, and nobody waits for them: the kernel puts them away.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        try:
            message, descriptors, *_ = socket.recv_fds(control, 1, 2)
        except OSError:
            return None
        if not message or len(descriptors) != 2:
            return None
        connection_descriptor, output = descriptors
        connection = socket.socket(fileno=connection_descriptor)
        if os.fork() == 0:
            control.close()
            return _monitor(connection, output, warm=warm)
        connection.close()
        os.close(output)


def _monitor(connection: socket.socket, output: int, *, warm: bool) -> _Task:
    """Start one task, wait for its end and answer with its exit status. Return only in the task."""
    wakeup = _wake_up_on_signals()
    try:
        request = _receive(connection)
    except (OSError, ValueError, TypeError):
        os._exit(1)  # nobody asks, or nobody any more
    try:
        scratch = Path(tempfile.mkdtemp(prefix="ratchet-task-"))
        (scratch / "ephemeral_component.py").write_text(
            request.source, encoding="utf-8"
        )
        (scratch / "arguments.json").write_text(
            json.dumps(request.arguments), encoding="utf-8"
        )
    except OSError as error:
        reason = f"no temporary file can be written ({error}); set TMPDIR to a folder with room"
        os.write(output, f"error (UserError): {reason}\n".encode())
        _answer(connection, UserError.exit_code)
    monitor_pid = os.getpid()
    task_pid = os.fork()
    if task_pid != 0:
        # The campaign sees the end of the output only once all have closed it.
        os.close(output)
        _stand_by(task_pid, scratch, connection, wakeup)
    connection.close()
    _begin_task(monitor_pid)
    return _Task(request, scratch, output, warm)


def _stand_by(
    task_pid: int, scratch: Path, connection: socket.socket, wakeup: int
) -> NoReturn:
    """Wait for the task's end, put away what it left, and answer with its exit status."""
    # The task makes itself the first of its group too: whoever comes first. Before that, a signal
    # to the group would reach nobody.
    with suppress(OSError):
        os.setpgid(task_pid, task_pid)
    status = _watch(task_pid, connection, wakeup)
    _signal_group(task_pid, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)
    _answer(connection, status)


def _answer(connection: socket.socket, status: int) -> NoReturn:
    """Tell the campaign, if it is still there, and end this process."""
    with suppress(OSError):
        connection.sendall(f"{status}\n".encode())
    # Not sys.exit: handlers and buffers that the fork copied belong to the server.
    os._exit(0)


def _wake_up_on_signals() -> int:
    """Return a descriptor that is readable once a child ended or SIGTERM came."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    os.set_blocking(write_end, False)

    def ignore(number: int, frame: FrameType | None) -> None:
        """The number is written to the pipe by Python itself."""

    signal.signal(signal.SIGCHLD, ignore)
    signal.signal(signal.SIGTERM, ignore)
    signal.set_wakeup_fd(write_end, warn_on_full_buffer=False)
    return read_end


def _watch(task_pid: int, connection: socket.socket, wakeup: int) -> int:
    """Return the task's exit status.

    On SIGTERM, or once the campaign is gone, the task is asked to end, and killed after a while.
    """
    deadline: float | None = None
    sources: list[int | socket.socket] = [wakeup, connection]
    while True:
        ended_pid, wait_status = os.waitpid(task_pid, os.WNOHANG)
        if ended_pid:
            status = os.waitstatus_to_exitcode(wait_status)
            return status if status >= 0 else 128 - status
        remaining_seconds = None if deadline is None else deadline - time.monotonic()
        if remaining_seconds is not None and remaining_seconds <= 0:
            _signal_group(task_pid, signal.SIGKILL)
            remaining_seconds = None
        ready, _, _ = select.select(sources, [], [], remaining_seconds)
        signals = os.read(wakeup, BLOCK_BYTES) if wakeup in ready else b""
        must_end = signal.SIGTERM in signals
        # The campaign says nothing after its request: a readable connection is a closed one.
        if connection in ready:
            sources.remove(connection)
            must_end = True
        if must_end:
            _signal_group(task_pid, signal.SIGTERM)
            deadline = deadline or time.monotonic() + TASK_PATIENCE_SECONDS


def _signal_group(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, number)


def _receive(connection: socket.socket) -> TaskRequest:
    """Read the request. Raises ValueError if it ends early, TimeoutError if it takes too long."""
    deadline = time.monotonic() + REQUEST_SECONDS
    received = bytearray()
    while not received.endswith(b"\n"):
        # A time-out of 0 would make the socket non-blocking.
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        piece = connection.recv(BLOCK_BYTES)
        if not piece:
            raise ValueError("the request ended early")
        received += piece
    connection.settimeout(None)
    fields = json.loads(received)
    return TaskRequest(**{**fields, "arguments": tuple(fields["arguments"])})


def _begin_task(monitor_pid: int) -> None:
    """Make this process the first of a group that ends with its monitor."""
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    with suppress(OSError):
        os.setpgid(0, 0)
    end_with_parent(monitor_pid)


def carry_out(task: _Task) -> None:
    """Run KFP's executor in this process, or in the fresh Python that this process becomes."""
    empty_input = os.open(os.devnull, os.O_RDONLY)
    os.dup2(empty_input, 0)
    os.dup2(task.output, 1)
    os.dup2(task.output, 2)
    os.close(empty_input)
    os.close(task.output)
    os.chdir(task.request.folder)
    environment = {
        **task.request.environment,
        # Without it kfp imports its compiler, as for a user who writes pipelines.
        "_KFP_RUNTIME": "true",
        # What the task leaves in its temporary folder goes with it.
        "TMPDIR": str(task.scratch),
    }
    if not task.warm:
        command = [*SERVER_COMMAND, "task", str(task.scratch)]
        os.execve(sys.executable, command, environment)
    os.environ.clear()
    os.environ.update(environment)
    tempfile.tempdir = None  # chosen before the fork, from the server's TMPDIR
    execute(task.scratch)


def execute(scratch: Path) -> None:
    """Run KFP's executor on the component and the arguments that lie in a task's folder."""
    from kfp.dsl.executor_main import executor_main

    arguments = json.loads((scratch / "arguments.json").read_text(encoding="utf-8"))
    component = ["--component_module_path", str(scratch / "ephemeral_component.py")]
    sys.argv = ["executor_main", *component, *arguments]
    # Behind everything that is installed, it serves `select.verifier_function`, a function of the
    # user's. In PYTHONPATH it would stand before the standard library.
    sys.path.append(os.getcwd())
    executor_main()


def preload() -> None:
    """Import what tasks import."""
    # What is imported stays in use. Collections that look at it again and again cost a second.
    gc.disable()
    # No tensor is touched: threads of a pool would not survive the fork.
    os.environ["_KFP_RUNTIME"] = "true"
    os.environ["DS_ACCELERATOR"] = "cpu"
    import kfp.dsl.executor_main  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    import components.modeling.inference.answers
    import components.runtime.entrypoints
    import components.train.process.worker  # noqa: F401
    from components.cli.package.profiles import STEPS
    from components.runtime.code_digest import code_digest
    from components.train.process.deepspeed_engine import import_deepspeed

    import_deepspeed()
    # Every task asks for the digest of its step's code: the sources are parsed once, here.
    for step in STEPS:
        importlib.import_module(f"components.{step}.step")
        code_digest(step)
    # The collector would write to every page of these objects, and so copy them into each task.
    gc.freeze()
    gc.enable()


def main() -> None:
    """Run the server; forked from it, every task returns here too."""
    kind, argument = sys.argv[1:]
    if kind == "task":
        execute(Path(argument))
        return
    quick_exit = QuickExit()
    warm = kind == "warm"
    if warm:
        preload()
    control = socket.socket(fileno=int(argument))
    task = serve(control, warm=warm)
    if task is not None:
        with quick_exit.noting_status():
            carry_out(task)


if __name__ == "__main__":
    main()
