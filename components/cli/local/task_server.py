"""The campaign's side of the task server, which starts the processes of a local run's tasks.

kfp.local starts one Python process a task, and importing torch and transformers costs more than
most tasks of a small campaign compute. So one process imports them once and forks a copy of itself
for each task. Where a GPU is present the copy executes a fresh Python, as CUDA does not survive a
fork.

Nothing here has an address that somebody else could connect to. The server inherits one end of a
socket pair. Each task has a second pair, whose far end travels over the first, and is served by a
process of its own, its monitor. So a task that is slow to say what it wants delays no other.

    campaign ── server ── monitor ── task and all that it starts (one process group)

No process outlives the campaign: server and monitors see its end of their socket close, also when
it was killed. A monitor then ends its task's whole group, and deletes the task's temporary folder.
Server, monitors and tasks are in `task_monitor`.

A program that runs campaigns one after another may start a server for all of them and hand it on
(`TaskServer.handed_on`): each then begins without the seconds that the imports take. Such a server
ends with that program.
"""

from __future__ import annotations

import json
import os
import select
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from components.cli.source_tree import SOURCE_TREE
from components.errors import RatchetError, UserError
from components.runtime.log_lines import LineSplitter

# A task that is asked to end may work on for so long; less than the `run` verb waits for all.
TASK_PATIENCE_SECONDS = 8.0

# After the end of a task its output is read until nothing comes for so long. A process that left
# the task's group may hold the pipe open for ever.
OUTPUT_SECONDS = 1.0
BLOCK_BYTES = 1 << 16

SERVER_COMMAND = (sys.executable, "-m", "components.cli.local.task_monitor")
HANDED_ON = "RATCHET_TASK_SERVER"
"""Variable with the server that a process has inherited: its descriptor, a colon, its source tree."""
_ENDED = "the process that starts tasks ended; RATCHET_WARM=0 starts each task in a fresh Python"


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
        """Use a server; `control` is the near end of the pair that it inherited."""
        self._control = control
        self._lock = threading.Lock()

    @property
    def handed_on(self) -> tuple[str, tuple[int, ...]]:
        """Return what lets a child use this server: (value of `HANDED_ON`, descriptors to pass)."""
        descriptor = self._control.fileno()
        return f"{descriptor}:{SOURCE_TREE}", (descriptor,)

    def run(self, request: TaskRequest, on_line: Callable[[str], None]) -> int:
        """Carry out a task and return its exit status, 128 + n after signal n.

        Args:
            request: The task.
            on_line: Gets each line of its output, without the line end, as it comes.

        Raises:
            ServerEnded: The server or the task's monitor is gone.
        """
        read_end, write_end = os.pipe()
        try:
            with self.connect(write_end) as connection:
                document = json.dumps(asdict(request))
                connection.sendall(f"{document}\n".encode())
                answer = _forward_output(read_end, connection, on_line)
        except OSError as error:
            raise ServerEnded(_ENDED) from error
        finally:
            os.close(read_end)
        if not answer.endswith(b"\n"):
            raise ServerEnded(_ENDED)
        return int(answer)

    def connect(self, output: int) -> socket.socket:
        """Return a connection to a new monitor.

        Its task will write to the descriptor `output`, which is closed here. Raises ServerEnded.
        """
        near, far = socket.socketpair()
        try:
            # The byte has no meaning: descriptors travel only beside data.
            with far, self._lock:
                socket.send_fds(self._control, [b"t"], [far.fileno(), output])
        except OSError as error:
            near.close()
            raise ServerEnded(_ENDED) from error
        finally:
            os.close(output)
        return near


@contextmanager
def task_server(*, warm: bool) -> Iterator[TaskServer]:
    """Start a server, and end it after the block.

    Args:
        warm: Import what tasks need once, in the server. Else each task is a fresh Python.
    """
    near, far = socket.socketpair()
    environment = dict(os.environ)
    if warm:
        # No thread of a pool may exist when the server forks.
        environment["OPENBLAS_NUM_THREADS"] = "1"
    with far:
        server = subprocess.Popen(
            [*SERVER_COMMAND, "warm" if warm else "fresh", str(far.fileno())],
            stdin=subprocess.DEVNULL,
            pass_fds=[far.fileno()],
            env=environment,
        )
    try:
        # The server ends when the near end is closed.
        with near:
            yield TaskServer(near)
    finally:
        try:
            server.wait(TASK_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()  # it is still importing
            server.wait()


@contextmanager
def inherited_or_new_server() -> Iterator[TaskServer]:
    """Give the server that was handed on to this process, else a new one, which ends with the block.

    Raises UserError as `inherited_descriptors` does.
    """
    warm = warm_is_possible()
    descriptors = inherited_descriptors(os.environ) if warm else ()
    if descriptors:
        with socket.socket(fileno=descriptors[0]) as control:
            yield TaskServer(control)
    else:
        with task_server(warm=warm) as server:
            yield server


def inherited_descriptors(environment: Mapping[str, str]) -> tuple[int, ...]:
    """Return the descriptor of the server that `HANDED_ON` names; none if it is not for this code.

    Raises UserError if the descriptor is not open, or no socket.
    """
    number, _, tree = environment.get(HANDED_ON, "").partition(":")
    # The tasks of a server run the code that it has imported.
    if tree != str(SOURCE_TREE):
        return ()
    try:
        is_socket = stat.S_ISSOCK(os.fstat(int(number)).st_mode)
    except (ValueError, OSError):
        is_socket = False
    if not is_socket:
        raise UserError(
            f"{HANDED_ON}: descriptor {number} is no server of tasks; unset the variable"
        )
    return (int(number),)


def warm_is_possible() -> bool:
    """Return False where a GPU is present (CUDA does not survive a fork) or RATCHET_WARM is 0."""
    has_gpu = any(Path("/dev").glob("nvidia*"))
    return not has_gpu and os.environ.get("RATCHET_WARM", "1") != "0"


def _forward_output(
    output: int, connection: socket.socket, on_line: Callable[[str], None]
) -> bytes:
    """Hand a task's lines on until its monitor answers or is gone; return the answer."""
    splitter = LineSplitter()
    sources: list[int | socket.socket] = [output, connection]
    answer = b""
    while True:
        task_ended = connection not in sources
        timeout_seconds = OUTPUT_SECONDS if task_ended else None
        ready, _, _ = select.select(sources, [], [], timeout_seconds)
        # Output first: the answer must not overtake the task's last lines.
        if output in ready:
            block = os.read(output, BLOCK_BYTES)
            for line in splitter.add(block):
                on_line(line)
            if not block:
                sources.remove(output)
        elif connection in ready:
            piece = connection.recv(BLOCK_BYTES)
            answer += piece
            if not piece or piece.endswith(b"\n"):
                sources.remove(connection)
        if not sources or (task_ended and not ready):
            for line in splitter.end():
                on_line(line)
            return answer
