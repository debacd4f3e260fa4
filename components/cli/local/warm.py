"""A warm Python for local runs: each task starts in a tenth of a second instead of three.

kfp.local starts one Python process a task, and importing torch and transformers costs more than
most tasks of a small campaign compute. So one process imports them once, opens a socket and forks a
copy of itself for each task. kfp still runs its own command in a shell; only the executable it
finds there is `warm_client`, which hands its arguments, environment and standard streams over and
waits for the exit status. Where a GPU is present this is not used: CUDA does not survive a fork.
"""

from __future__ import annotations

import array
import gc
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

EXECUTOR = ["-m", "kfp.dsl.executor_main"]
MAX_REQUEST_BYTES = 1 << 20


@contextmanager
def warm_python(folder: Path) -> Iterator[str]:
    """Path of an executable that stands in for `sys.executable` and runs KFP's executor in a forked
    copy of a process that has everything imported. Anything else it is asked to run goes to the
    real Python."""
    address = folder / "warm.socket"
    # A socket's path may have 108 bytes at most; the folder of a run may be longer.
    with socket.socket(socket.AF_UNIX) as listener:
        link = _bind(listener, address)
        server = subprocess.Popen(
            [sys.executable, "-m", "components.cli.local.warm", str(listener.fileno())],
            pass_fds=[listener.fileno()],
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
            },  # no thread of a pool may exist when it forks
        )
    try:
        client = Path(__file__).with_name("warm_client.py")
        executable = folder / "python3"
        executable.write_text(
            f"#!/bin/sh\nexec {shlex.quote(sys.executable)} -I -S {shlex.quote(str(client))} {shlex.quote(link)} "
            f'{shlex.quote(sys.executable)} "$@"\n'
        )
        executable.chmod(0o755)
        yield str(executable)
    finally:
        server.terminate()
        server.wait()


def usable() -> bool:
    """False where a GPU is present (CUDA does not survive a fork), fork is missing, or RATCHET_WARM
    is 0."""
    return (
        hasattr(os, "fork")
        and not any(Path("/dev").glob("nvidia*"))
        and os.environ.get("RATCHET_WARM", "1") != "0"
    )


def _bind(listener: socket.socket, address: Path) -> str:
    """Bind an abstract name on Linux, else the path; returns what a client connects to."""
    name = f"ratchet-{os.getpid()}-{address.parent.name}"[-90:]
    if sys.platform == "linux":
        listener.bind(f"\0{name}")
        link = f"@{name}"
    else:
        listener.bind(str(address))
        link = str(address)
    listener.listen(16)
    return link


def serve(listener: socket.socket) -> dict[str, Any] | None:
    """Accept tasks until SIGTERM. Returns None in the server at its end, and the task in each
    forked copy."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # monitors end by themselves
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                request = _receive(connection)
            except (OSError, ValueError) as error:
                print(f"warm python: a request could not be read ({error})", file=sys.stderr)
                continue
            if os.fork() == 0:
                listener.close()
                return _monitor(connection, request)
            for stream in request["streams"]:
                os.close(stream)


def _monitor(connection: socket.socket, request: dict[str, Any]) -> dict[str, Any]:
    """Fork the task, tell the client its pid and later its exit status. Returns only in the task."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    task = os.fork()
    if task == 0:
        return request
    connection.sendall(f"{task}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(task, 0)[1])
    connection.sendall(f"{status if status >= 0 else 128 - status}\n".encode())
    os._exit(0)


def _receive(connection: socket.socket) -> dict[str, Any]:
    """A request: its standard streams as file descriptors, then one line of JSON."""
    streams = array.array("i")
    head, ancillary, *_ = connection.recvmsg(
        MAX_REQUEST_BYTES, socket.CMSG_LEN(3 * streams.itemsize)
    )
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            streams.frombytes(data[: len(data) - len(data) % streams.itemsize])
    while not head.endswith(b"\n"):
        piece = connection.recv(MAX_REQUEST_BYTES)
        if not piece:
            raise ValueError("it ended early")
        head += piece
    return {**json.loads(head), "streams": list(streams)}


def carry_out(request: dict[str, Any]) -> None:
    """Run KFP's executor as the process that asked would have."""
    from kfp.dsl.executor_main import executor_main

    for number, stream in enumerate(request["streams"]):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = ["executor_main", *request["arguments"][len(EXECUTOR) :]]
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
    from components.train.process.deepspeed_engine import import_deepspeed

    import_deepspeed()
    gc.freeze()


def main() -> None:
    """The server; and, forked from it, every task."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    preload()
    request = serve(listener)
    if request is None:
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    carry_out(request)


if __name__ == "__main__":
    main()
