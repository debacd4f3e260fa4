"""Parts of a trial in processes of their own, forked from one that has imported torch."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import TypeVar

from components.cli.estimate.failures import Failure, error_of
from components.cli.local.parent_death import end_with_parent
from components.errors import RatchetError

FORK = multiprocessing.get_context("fork")
Result = TypeVar("Result")


def forked(part: Callable[[], Result]) -> Result:
    """Return what a part returns in a process of its own; raise what it raises, if expected."""
    (result,) = forked_side_by_side([part])
    return result


def forked_side_by_side(parts: Sequence[Callable[[], Result]]) -> list[Result]:
    """Return what parts return that run at the same time, each in a process of its own."""
    connections: list[Connection] = []
    processes = []
    for part in parts:
        receiver, sender = FORK.Pipe(duplex=False)
        process = FORK.Process(target=_send, args=(part, sender, os.getpid()))
        process.start()
        # Else the end of the child would not close the pipe.
        sender.close()
        connections.append(receiver)
        processes.append(process)
    results: list[Result] = []
    for connection, process in zip(connections, processes, strict=True):
        try:
            outcome = connection.recv()
        except EOFError:
            process.join()
            raise RatchetError(
                f"a part of the trial ended with status {process.exitcode}; is there memory for the "
                "model?"
            ) from None
        process.join()
        if isinstance(outcome, Failure):
            raise error_of(outcome)
        results.append(outcome)
    return results


def _send(part: Callable[[], Result], sender: Connection, parent_pid: int) -> None:
    end_with_parent(parent_pid)
    try:
        sender.send(part())
    except RatchetError as error:
        sender.send(Failure(kind=type(error).__name__, message=str(error)))
    sender.close()
    sys.stderr.flush()
    # Threads of gloo may abort an interpreter that is taken down.
    os._exit(0)
