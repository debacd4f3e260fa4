"""A process that talks in lines, with a deadline for each, and ends with all that it started."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from components.retry import Deadline

MAX_LINE_BYTES = 1_000_000
"""A longer line is no answer."""
_HERE = Path(__file__).parent


class Silent(Exception):
    """The process gave no line: it ended, ran out of time or wrote too much."""


class LineProcess:
    """A Python program of this folder, in a session of its own, without our environment.

    Its standard input and output are the channel. Use it as a context manager, or call `end`.
    """

    def __init__(
        self, module: str, arguments: Sequence[str], *, packages: bool
    ) -> None:
        """Start it.

        Args:
            module: Full name of a module of this package. A name and no path: the code digest of a
                step follows such names.
            arguments: Its arguments.
            packages: Let it import what is installed; without, the standard library alone.
        """
        file = _HERE / f"{module.rpartition('.')[2]}.py"
        options = ["-I", "-X", "utf8"] if packages else ["-I", "-S", "-X", "utf8"]
        self._process = subprocess.Popen(
            [sys.executable, *options, str(file), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            # Nothing of ours: credentials are in the environment of a step.
            env={"LANG": "C.UTF-8", "PATH": os.defpath, "OMP_NUM_THREADS": "1"},
            cwd="/",
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._sink = self._process.stdin.fileno()
        self._source = self._process.stdout.fileno()
        os.set_blocking(self._sink, False)
        os.set_blocking(self._source, False)
        self._received = b""

    def __enter__(self) -> LineProcess:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def send(self, line: bytes, deadline: Deadline) -> None:
        """Write a line, without its end. Raise Silent if it is not taken in time."""
        waiting = memoryview(line + b"\n")
        while waiting:
            self._wait(self._sink, select.POLLOUT, deadline)
            try:
                waiting = waiting[os.write(self._sink, waiting) :]
            except BlockingIOError:
                continue
            except BrokenPipeError:
                raise Silent("it ended") from None

    def receive(self, deadline: Deadline) -> bytes:
        """Return the next line, without its end. Raise Silent if there is none in time."""
        while b"\n" not in self._received:
            if len(self._received) > MAX_LINE_BYTES:
                raise Silent("it wrote too much")
            if not self._read(deadline):
                raise Silent(self._reason_of_end())
        line, _, self._received = self._received.partition(b"\n")
        if len(line) > MAX_LINE_BYTES:
            raise Silent("it wrote too much")
        return line

    def read_all(self, max_bytes: int, deadline: Deadline) -> tuple[bytes, int]:
        """Return (all that it writes until it ends, its exit status).

        Raises:
            Silent: It goes on after the deadline, or writes more.
        """
        while self._read(deadline):
            if len(self._received) > max_bytes:
                raise Silent("it wrote too much")
        self._reason_of_end()
        output = self._received
        self._received = b""
        return output, self._process.returncode

    def end(self) -> None:
        """Kill it and all of its session."""
        # Its pid is its own until `wait` has read the status.
        if self._process.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _read(self, deadline: Deadline) -> bool:
        """Take in what is there; return False at the end of the output."""
        self._wait(self._source, select.POLLIN, deadline)
        try:
            piece = os.read(self._source, 65_536)
        except BlockingIOError:
            return True
        self._received += piece
        return bool(piece)

    def _wait(self, descriptor: int, event: int, deadline: Deadline) -> None:
        poll = select.poll()
        poll.register(descriptor, event)
        if not poll.poll(deadline.seconds_left * 1000):
            raise Silent("its time was up")

    def _reason_of_end(self) -> str:
        # It may have closed its output and go on.
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1)
        if self._process.poll() is None:
            self.end()
        status = self._process.returncode
        if status == -signal.SIGXCPU or status == -signal.SIGKILL:
            return "it used up its processor time or memory"
        if status == -signal.SIGALRM:
            return "its time was up"
        return f"it ended with status {status}"
