"""Pipes for the output of a step's processes, whose lines are written on as JSON objects.

The standard library alone is imported here.
"""

from __future__ import annotations

import os
import select
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TextIO

from components.runtime.log_lines import LineSplitter, LineStamper

HELD_SECONDS = 15.0
"""Longest time that lines wait for the step to say which run it is of: libraries warn while they
are imported, before it has read its inputs."""
LAST_SECONDS = 5.0
"""After the end of the step's processes its output is read until it ends, at most so long. One that
left the step's group may hold the pipe open for ever."""
_BLOCK_BYTES = 1 << 16
_SLICE_SECONDS = 0.5


@dataclass(frozen=True)
class StepOutput:
    """Descriptors that a step's processes write to."""

    stdout: int
    stderr: int


@dataclass
class _Reader:
    """Reads both pipes, in a thread of its own."""

    stamper: LineStamper
    streams: dict[int, TextIO]
    """Pipe → the stream that its lines go to."""
    splitters: dict[int, LineSplitter] = field(default_factory=dict)
    held: list[tuple[float, int, str]] = field(default_factory=list)
    """(time, pipe, line) of lines that wait for their run."""

    def read(self) -> None:
        """Write lines on until both pipes end."""
        hold_until = time.monotonic() + HELD_SECONDS
        self.splitters = {pipe: LineSplitter() for pipe in self.streams}
        open_pipes = list(self.streams)
        while open_pipes:
            patience = _SLICE_SECONDS if self.held else None
            ready, _, _ = select.select(open_pipes, [], [], patience)
            for pipe in ready:
                block = os.read(pipe, _BLOCK_BYTES)
                splitter = self.splitters[pipe]
                lines = splitter.add(block) if block else splitter.end()
                for line in filter(str.strip, lines):
                    self._take(pipe, line)
                if not block:
                    open_pipes.remove(pipe)
            if time.monotonic() >= hold_until:
                self._release()
        self._release()

    def _take(self, pipe: int, line: str) -> None:
        seconds = time.time()
        # A line of the step's own, which says its run, is stamped before those that wait for it.
        stamped = self.stamper.stamp(line, seconds)
        if not self.stamper.subject.run:
            self.held.append((seconds, pipe, line))
            return
        self._release()
        self._write(pipe, stamped)

    def _release(self) -> None:
        for seconds, pipe, line in self.held:
            self._write(pipe, self.stamper.stamp(line, seconds))
        self.held.clear()

    def _write(self, pipe: int, line: str) -> None:
        stream = self.streams[pipe]
        # Nobody reads the log any more: the step, which would wait for a full pipe, goes on.
        with suppress(BrokenPipeError):
            stream.write(f"{line}\n")
            stream.flush()


@contextmanager
def stamped_output(
    stamper: LineStamper, out: TextIO | None = None, error: TextIO | None = None
) -> Iterator[StepOutput]:
    """Yield descriptors whose lines are written on in JSON.

    After the block all that was written to them has been written on.

    Args:
        stamper: Gives the lines their form.
        out: Gets the lines of standard output; None: that of this process.
        error: Gets those of standard error; None likewise.
    """
    out_reader, out_writer = os.pipe()
    error_reader, error_writer = os.pipe()
    streams = {out_reader: out or sys.stdout, error_reader: error or sys.stderr}
    reader = _Reader(stamper, streams)
    thread = threading.Thread(target=reader.read, daemon=True)
    thread.start()
    try:
        yield StepOutput(out_writer, error_writer)
    finally:
        os.close(out_writer)
        os.close(error_writer)
        thread.join(LAST_SECONDS)
        # A reader that still waits keeps its ends.
        if not thread.is_alive():
            os.close(out_reader)
            os.close(error_reader)
