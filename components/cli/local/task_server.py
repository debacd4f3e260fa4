"""The processes of a local run's tasks: one server forks each of them and watches over it.

kfp.local starts one Python process a task, and importing torch and transformers costs more than
most tasks of a small campaign compute. So one process imports them once and forks a copy of itself
for each task. Where a GPU is present the copy executes a fresh Python: CUDA does not survive a fork.

Nothing here has an address that somebody else could connect to. The server inherits one end of a
socket pair. Each task has a second pair, whose far end travels over the first, and is served by a
process of its own, its monitor. So a task that is slow to say what it wants delays no other.

    campaign ── server ── monitor ── task and all that it starts (one process group)

No process outlives the campaign: server and monitors see its end of their socket close, also when
it was killed. A monitor then ends its task's whole group, and deletes the task's temporary folder.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import NoReturn, get_args

from components.errors import RatchetError, UserError

REQUEST_SECONDS = 60.0
"""A monitor waits this long for its request."""
TASK_PATIENCE_SECONDS = 8.0
"""A task that is asked to end may work on for so long; less than the `run` verb waits for all."""
OUTPUT_SECONDS = 1.0
"""After the end of a task its output is read until nothing comes for so long. A process that left
the task's group may hold the pipe open for ever."""
MAX_LINE_BYTES = 1 << 20
_BLOCK_BYTES = 1 << 16
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class TaskRequest:
    """One task, as kfp.local describes it."""

    source: str
    """Python source of the component."""
    arguments: tuple[str, ...]
    """Arguments of KFP's executor. They travel over a socket or by a file: the arguments of a
    process are for everybody on the machine to read."""
    environment: Mapping[str, str]
    folder: str
    """Working folder."""


class ServerEnded(RatchetError):
    """The server is gone, and with it the task."""


class TaskServer:
    """The campaign's side of a running server. May be used from several threads."""

    def __init__(self, control: socket.socket) -> None:
        """`control` is the near end of the pair that the server inherited."""
        self._control = control
        self._lock = threading.Lock()

    def run(self, request: TaskRequest, on_line: Callable[[str], None]) -> int:
        """Carry out a task and return its exit status, 128 + n after signal n.

        Args:
            request: What to run.
            on_line: Gets each line of its output, without the line end, as it comes.

        Raises:
            ServerEnded: The server or the task's monitor is gone.
        """
        reading, writing = os.pipe()
        try:
            with self.connect(writing) as connection:
                connection.sendall(json.dumps(asdict(request)).encode() + b"\n")
                answer = _pass_output_on(reading, connection, on_line)
        except OSError as error:
            raise ServerEnded(_ENDED) from error
        finally:
            os.close(reading)
        if not answer.endswith(b"\n"):
            raise ServerEnded(_ENDED)
        return int(answer)

    def connect(self, output: int) -> socket.socket:
        """Return a connection to a new monitor, whose task will write to the descriptor `output`,
        which is closed here."""
        near, far = socket.socketpair()
        try:
            with far, self._lock:
                socket.send_fds(self._control, [b"t"], [far.fileno(), output])
        except OSError as error:
            near.close()
            raise ServerEnded(_ENDED) from error
        finally:
            os.close(output)
        return near


_SERVER = (sys.executable, "-m", "components.cli.local.task_server")
_ENDED = "the process that starts tasks ended; RATCHET_WARM=0 starts each task in a fresh Python"


@contextmanager
def task_server(*, warm: bool) -> Iterator[TaskServer]:
    """Start a server, and end it after the block.

    Args:
        warm: Import what tasks need once, in the server. Else each task is a fresh Python.
    """
    near, far = socket.socketpair()
    # No thread of a pool may exist when the server forks.
    single_threaded = {"OPENBLAS_NUM_THREADS": "1"} if warm else {}
    with far:
        server = subprocess.Popen(
            [*_SERVER, "warm" if warm else "fresh", str(far.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[far.fileno()],
            env={**os.environ, **single_threaded},
        )
    try:
        with near:
            yield TaskServer(near)
    finally:
        try:
            server.wait(TASK_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()  # it is still importing
            server.wait()


def warm_is_possible() -> bool:
    """Return False where a GPU is present (CUDA does not survive a fork) or RATCHET_WARM is 0."""
    return not any(Path("/dev").glob("nvidia*")) and os.environ.get("RATCHET_WARM", "1") != "0"


def _pass_output_on(
    output: int, connection: socket.socket, on_line: Callable[[str], None]
) -> bytes:
    """Hand a task's lines on until its monitor answers or is gone; return the answer."""
    lines = _Lines(on_line)
    sources: list[int | socket.socket] = [output, connection]
    answer = b""
    while True:
        over = connection not in sources
        ready, _, _ = select.select(sources, [], [], OUTPUT_SECONDS if over else None)
        if output in ready:
            block = os.read(output, _BLOCK_BYTES)
            lines.add(block)
            if not block:
                sources.remove(output)
        elif connection in ready:
            piece = connection.recv(_BLOCK_BYTES)
            answer += piece
            if not piece or piece.endswith(b"\n"):
                sources.remove(connection)
        if not sources or (over and not ready):
            lines.end()
            return answer


class _Lines:
    """Cuts a stream of bytes into lines of text."""

    def __init__(self, on_line: Callable[[str], None]) -> None:
        self._on_line = on_line
        self._rest = b""

    def add(self, block: bytes) -> None:
        """Take the next bytes. A progress bar's carriage return ends a line too."""
        *whole, self._rest = (self._rest + block).replace(b"\r", b"\n").split(b"\n")
        if len(self._rest) > MAX_LINE_BYTES:
            whole.append(self._rest)
            self._rest = b""
        for line in whole:
            self._on_line(line.decode(errors="replace"))

    def end(self) -> None:
        """Take what stands after the last line end as a line."""
        if self._rest:
            self._on_line(self._rest.decode(errors="replace"))
            self._rest = b""


def serve(control: socket.socket, *, warm: bool) -> _Task | None:
    """Fork a monitor for each connection. Return None in the server once the campaign is gone, and
    the task in each task."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors end by themselves
    while True:
        try:
            message, descriptors, *_ = socket.recv_fds(control, 1, 2)
        except OSError:
            return None
        if not message or len(descriptors) != 2:
            return None
        connection, output = socket.socket(fileno=descriptors[0]), descriptors[1]
        if os.fork() == 0:
            control.close()
            return _monitor(connection, output, warm=warm)
        connection.close()
        os.close(output)


@dataclass(frozen=True)
class _Task:
    """A request that has its folder."""

    request: TaskRequest
    scratch: Path
    """The task's own temporary folder."""
    output: int
    warm: bool


def _monitor(connection: socket.socket, output: int, *, warm: bool) -> _Task:
    """Start one task, wait for its end and answer with its exit status. Return only in the task."""
    wakeup = _wake_up_on_signals()
    try:
        request = _receive(connection)
    except (OSError, ValueError, TypeError):
        os._exit(1)  # nobody asks, or nobody any more
    try:
        scratch = Path(tempfile.mkdtemp(prefix="ratchet-task-"))
        (scratch / "ephemeral_component.py").write_text(request.source, encoding="utf-8")
        (scratch / "arguments.json").write_text(json.dumps(request.arguments), encoding="utf-8")
    except OSError as error:
        reason = f"no temporary file can be written ({error}); set TMPDIR to a folder with room"
        os.write(output, f"error (UserError): {reason}\n".encode())
        _answer(connection, UserError.exit_code)
    monitor = os.getpid()
    task = os.fork()
    if task != 0:
        os.close(output)
        _stand_by(task, scratch, connection, wakeup)
    connection.close()
    _begin_task(monitor)
    return _Task(request, scratch, output, warm)


def _stand_by(task: int, scratch: Path, connection: socket.socket, wakeup: int) -> NoReturn:
    """Wait for the task's end, put away what it left, and answer with its exit status."""
    with suppress(OSError):
        os.setpgid(task, task)  # the task does so too: whoever is first
    status = _watch(task, connection, wakeup)
    _signal_group(task, signal.SIGKILL)
    shutil.rmtree(scratch, ignore_errors=True)
    _answer(connection, status)


def _answer(connection: socket.socket, status: int) -> NoReturn:
    """Tell the campaign, if it is still there, and end this process."""
    with suppress(OSError):
        connection.sendall(f"{status}\n".encode())
    os._exit(0)


def _wake_up_on_signals() -> int:
    """Return a descriptor that is readable once a child ended or SIGTERM came."""
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    os.set_blocking(writing, False)

    def noted(number: int, frame: FrameType | None) -> None:
        """The number is written to the pipe by Python itself."""

    signal.signal(signal.SIGCHLD, noted)
    signal.signal(signal.SIGTERM, noted)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    return reading


def _watch(task: int, connection: socket.socket, wakeup: int) -> int:
    """Return the task's exit status. On SIGTERM, or once the campaign is gone, ask the task to end,
    and insist after a while."""
    deadline: float | None = None
    sources: list[int | socket.socket] = [wakeup, connection]
    while True:
        pid, ended = os.waitpid(task, os.WNOHANG)
        if pid:
            status = os.waitstatus_to_exitcode(ended)
            return status if status >= 0 else 128 - status
        left = None if deadline is None else deadline - time.monotonic()
        if left is not None and left <= 0:
            _signal_group(task, signal.SIGKILL)
            left = None
        ready, _, _ = select.select(sources, [], [], left)
        asked = wakeup in ready and signal.SIGTERM in os.read(wakeup, _BLOCK_BYTES)
        if connection in ready:  # the campaign says nothing after its request: it is gone
            sources.remove(connection)
            asked = True
        if asked:
            _signal_group(task, signal.SIGTERM)
            deadline = deadline or time.monotonic() + TASK_PATIENCE_SECONDS


def _signal_group(task: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.killpg(task, number)


def _receive(connection: socket.socket) -> TaskRequest:
    """Read the request. Raises ValueError if it ends early, TimeoutError if it takes too long."""
    deadline = time.monotonic() + REQUEST_SECONDS
    received = bytearray()
    while not received.endswith(b"\n"):
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        piece = connection.recv(_BLOCK_BYTES)
        if not piece:
            raise ValueError("the request ended early")
        received += piece
    connection.settimeout(None)
    fields = json.loads(received)
    return TaskRequest(**{**fields, "arguments": tuple(fields["arguments"])})


def _begin_task(monitor: int) -> None:
    """Make this process the first of a group that ends with its monitor."""
    for number in (signal.SIGTERM, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    signal.set_wakeup_fd(-1)
    with suppress(OSError):
        os.setpgid(0, 0)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != monitor:
        os._exit(1)


def carry_out(task: _Task) -> None:
    """Run KFP's executor in this process, or in the fresh Python that this process becomes."""
    nothing = os.open(os.devnull, os.O_RDONLY)
    for descriptor, source in enumerate((nothing, task.output, task.output)):
        os.dup2(source, descriptor)
    os.close(nothing)
    os.close(task.output)
    os.chdir(task.request.folder)
    environment = {
        **task.request.environment,
        "_KFP_RUNTIME": "true",
        # What the task leaves in its temporary folder goes with it.
        "TMPDIR": str(task.scratch),
    }
    if not task.warm:
        os.execve(sys.executable, [*_SERVER, "task", str(task.scratch)], environment)
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
    """Import what tasks import. No tensor is touched: threads of a pool would not survive the fork."""
    os.environ["_KFP_RUNTIME"] = "true"
    os.environ["DS_ACCELERATOR"] = "cpu"
    import kfp.dsl.executor_main  # noqa: F401
    from transformers import AutoModelForCausalLM  # noqa: F401

    import components.modeling.inference.answers
    import components.runtime.entrypoints
    import components.train.process.worker  # noqa: F401
    from components.cli.package.profiles import Step
    from components.runtime.code_digest import code_digest
    from components.train.process.deepspeed_engine import import_deepspeed

    import_deepspeed()
    # Every task asks for the digest of its step's code: the sources are parsed once, here.
    for step in get_args(Step):
        code_digest(step)
    gc.freeze()


def main() -> None:
    """The server; and, forked from it, every task."""
    kind, argument = sys.argv[1:]
    if kind == "task":
        execute(Path(argument))
        return
    warm = kind == "warm"
    if warm:
        preload()
    task = serve(socket.socket(fileno=int(argument)), warm=warm)
    if task is not None:
        carry_out(task)


if __name__ == "__main__":
    main()
