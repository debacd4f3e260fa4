"""A module of ours in a process of its own, which answers lines and may be ended at any of them.

For work over what strangers wrote, which may take for ever or fill the memory inside one call of C:
only the kernel can end that, and it ends the whole process.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

READY = "ready\n"
"""First line of such a module, once all that it needs is imported."""
Answer = Mapping[str, object]
"""What can be written as JSON."""
_ROOT = Path(__file__).resolve().parents[1]
# No secrets of the step's environment: the process reads what strangers wrote.
_PASSED_ON = ("PATH", "HOME", "LANG")


class BoundedProcess:
    """The process; it starts at the first question, and again after it was ended.

    The module puts the bounds on itself. It reads a line for each question and writes one.
    """

    def __init__(self, module: str, need: str) -> None:
        """Remember what to start.

        Args:
            module: Full name of a module of ours. A name and no path: the code digest of a step
                follows such names.
            need: Package without which it does not start.
        """
        self._module = module
        self._need = need
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None
        self._owner = 0

    def ask(self, question: str) -> str | None:
        """Return the answer to a line, or None if the process ended over it."""
        # Threads share the process: a question and its answer must not be parted.
        with self._lock:
            source, sink = self._pipes()
            try:
                sink.write(question + "\n")
                sink.flush()
                answer = source.readline()
            except BrokenPipeError:
                answer = ""
            # No answer: its time was up, or its memory did not suffice.
            if not answer:
                self._end()
                return None
            return answer.rstrip("\n")

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        """Return (output, input) of the process."""
        if self._owner != os.getpid():
            # A forked process must not share the one of its parent: answers would be mixed up.
            self._process = None
        elif self._process is not None and self._process.poll() is not None:
            # It ended between two questions, by another's hand: the next is not to blame.
            self._end()
        if self._process is None:
            environment = {
                name: os.environ[name] for name in _PASSED_ON if name in os.environ
            }
            self._process = subprocess.Popen(
                [sys.executable, "-X", "utf8", "-m", self._module],
                encoding="utf-8",
                cwd=_ROOT,
                # One thread: each of a numerical library's reserves address space.
                env={
                    **environment,
                    "OMP_NUM_THREADS": "1",
                    "OPENBLAS_NUM_THREADS": "1",
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
            self._owner = os.getpid()
            assert self._process.stdout is not None
            if self._process.stdout.readline() != READY:
                self._end()
                raise RuntimeError(
                    f"the process {self._module} does not start: is {self._need} installed?"
                )
        assert self._process.stdout is not None
        assert self._process.stdin is not None
        return self._process.stdout, self._process.stdin

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = None


@dataclass(frozen=True)
class Bounds:
    """Bounds of one answer."""

    seconds: int
    """Processor time."""
    memory_bytes: int

    def __str__(self) -> str:
        return f"{self.seconds} s of processor time or {self.memory_bytes >> 20} MiB of memory"


def answer_lines(
    prepare: Callable[[], object], answer: Callable[[str], Answer], bounds: Bounds
) -> None:
    """Answer lines of the input by JSON until it ends: the other side, for what strangers wrote.

    Args:
        prepare: Imports and makes what is needed before the first line, whose time is bounded.
        answer: Gives the answer to a line. What it raises is answered as `{"error": words}`.
        bounds: The process ends over a line that takes more.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (bounds.memory_bytes, bounds.memory_bytes))
    prepare()
    print(READY, end="", flush=True)
    for line in sys.stdin:
        # Of processor time, so that a busy machine refuses nothing. Without a handler: the kernel
        # ends the process also inside one long call of C.
        signal.setitimer(signal.ITIMER_PROF, bounds.seconds)
        reply = _reply(answer, line, bounds)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(reply, flush=True)


def _reply(answer: Callable[[str], Answer], line: str, bounds: Bounds) -> str:
    try:
        return json.dumps(answer(line))
    except MemoryError:
        return json.dumps({"error": f"it takes more than {bounds}"})
    except Exception as error:  # noqa: BLE001 — a stranger's program may raise anything.
        words = str(error).strip() or type(error).__name__
        return json.dumps({"error": words.splitlines()[0][:500]})
