"""Parent of a step inside its container: `python3 -m components.runtime.supervisor -- COMMAND …`.

The parent runs the command again after failures that may pass. Nothing outside the container can:
KFP's launcher turns every failing status into 1, and Argo's stock policy (OnError) tries a pod
again only if the pod itself was deleted. Each try goes on from the last checkpoint or shard, and
leaves an attempt record, so the report counts them.

Where nobody sits at a terminal, and RATCHET_LOG_FORMAT does not say `text`, it reads the step's
output and writes each line on as JSON, with the run, the round and the step.

The standard library alone is imported here: the parent stays small while the step fills the
container's memory.
"""

from __future__ import annotations

import argparse
import ctypes
import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType

from components.errors import Transient, UserError
from components.retry import pauses
from components.runtime.log_lines import (
    FORMAT_VARIABLE,
    LineStamper,
    LogFormat,
    LogSubject,
    format_from,
    json_line,
)
from components.runtime.stamped_output import StepOutput, stamped_output

MODULE = "components.runtime.supervisor"
FIRST_PAUSE_SECONDS = 10.0
LONGEST_PAUSE_SECONDS = 300.0
SHORT_TRY_SECONDS = 60.0
"""A try that ends sooner did no work: it found no store, no network or no queue."""
PATIENCE_SECONDS = 1800.0
"""Longest time in which short tries follow each other. A store that is upgraded or moved is away
for minutes; an address that is wrong never answers, and a person waits for the message."""
MAX_DEATHS = 3
"""Tries again after deaths by signal in a row: one that comes back each time is a fault of the
step, and a training that needs more memory than there is dies each time."""

_SHELL_SIGNAL_BASE = 128
_DEATHS = frozenset({signal.SIGKILL, signal.SIGSEGV, signal.SIGBUS, signal.SIGABRT})
"""Out of memory ends a process by SIGKILL, a broken device or driver by the others."""
_PR_SET_CHILD_SUBREAPER = 36
_SLICE_SECONDS = 0.2


def supervised(command: Sequence[str], hours: float) -> list[str]:
    """Return the command that runs another one under this supervisor."""
    return ["python3", "-m", MODULE, "--hours", f"{hours:g}", "--", *command]


def unsupervised(command: Sequence[str]) -> list[str]:
    """Return the command without a supervisor before it, for runners that try again themselves."""
    if MODULE not in command[:3]:
        return list(command)
    return list(command[command.index("--") + 1 :])


class RetryRule:
    """Decides after each failed try whether, and after which pause, there is another one."""

    def __init__(
        self, deadline: float, first_pause: float = FIRST_PAUSE_SECONDS
    ) -> None:
        """Begin with the first try.

        Args:
            deadline: Monotonic time after which no try begins.
            first_pause: Seconds before the second try; they double up to LONGEST_PAUSE_SECONDS.
        """
        self._deadline = deadline
        self._first_pause = first_pause
        self._pauses = pauses(first_pause, LONGEST_PAUSE_SECONDS)
        self._num_deaths = 0
        self._give_up_at: float | None = None

    def pause_after(self, status: int, seconds: float, end: float) -> float | None:
        """Return the seconds to wait before the next try, or None if this status is final.

        Args:
            status: Exit status as a shell says it, 128 + the signal's number for a death.
            seconds: Duration of the try that ended with it.
            end: Monotonic time of its end.
        """
        died = status - _SHELL_SIGNAL_BASE in _DEATHS
        if status != Transient.exit_code and not died:
            return None
        if seconds >= SHORT_TRY_SECONDS:
            # The step worked for a while: this is a new fault, not the last one again.
            self._pauses = pauses(self._first_pause, LONGEST_PAUSE_SECONDS)
            self._give_up_at = None
        if self._give_up_at is None:
            self._give_up_at = end + PATIENCE_SECONDS
        self._num_deaths = self._num_deaths + 1 if died else 0
        if self._num_deaths > MAX_DEATHS:
            return None
        pause = next(self._pauses)
        if end + pause > min(self._deadline, self._give_up_at):
            return None
        return pause


class Supervisor:
    """Runs one command until it succeeds, fails for good, or the container is told to end."""

    def __init__(
        self, command: list[str], rule: RetryRule, stamper: LineStamper | None = None
    ) -> None:
        """Take what to run.

        Args:
            command: With its arguments.
            rule: Decides on further tries.
            stamper: Gives the lines of its output their form; None: they stay as they are.
        """
        self._command = command
        self._rule = rule
        self._stamper = stamper
        self._process: subprocess.Popen[bytes] | None = None
        self._end_signal = 0

    def run(self) -> int:
        """Return the exit status of the last try."""
        _adopt_orphans()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        num_tries = 0
        while True:
            num_tries += 1
            begin = time.monotonic()
            status = self._try_once()
            end = time.monotonic()
            if status == 0 or self._end_signal:
                return status
            seconds = end - begin
            pause = self._rule.pause_after(status, seconds, end)
            ending = (
                f"try {num_tries} ended with {_described(status)} after {seconds:.0f} s"
            )
            if pause is None:
                if num_tries > 1:
                    self._say(f"{ending}; there is no further one")
                return status
            self._say(f"{ending}; the next one begins in {pause:.0f} s")
            self._wait(pause)
            if self._end_signal:
                return _SHELL_SIGNAL_BASE + self._end_signal

    def _try_once(self) -> int:
        if self._stamper is None:
            return self._run_command(None)
        with stamped_output(self._stamper) as output:
            return self._run_command(output)

    def _run_command(self, output: StepOutput | None) -> int:
        # In a group of its own, so that a signal reaches it once: Argo's executor sends SIGTERM to
        # the whole group of the container's command, which this process is part of.
        if output is None:
            self._process = subprocess.Popen(self._command, process_group=0)
        else:
            self._process = subprocess.Popen(
                self._command,
                process_group=0,
                stdout=output.stdout,
                stderr=output.stderr,
                env={**os.environ, FORMAT_VARIABLE: "json"},
            )
        if self._end_signal:
            # It came between the last look and the start.
            os.killpg(self._process.pid, self._end_signal)
        status = _shell_status(self._wait_for_end(self._process))
        if self._end_signal:
            # The command is a shell, which dies of the signal at once; the step below it is saving
            # its checkpoint.
            return _wait_for_orphans(status)
        _kill_orphans(self._process.pid)
        return status

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._end_signal = number
        if self._process is not None and self._process.returncode is None:
            with suppress(ProcessLookupError):  # it has just ended
                os.killpg(self._process.pid, number)

    def _say(self, text: str) -> None:
        line = f"supervisor: {text}"
        if self._stamper is not None:
            line = json_line(line, "WARNING", self._stamper.subject, time.time())
        print(line, file=sys.stderr, flush=True)

    @staticmethod
    def _wait_for_end(process: subprocess.Popen[bytes]) -> int:
        # In slices: a signal that arrives just before a long wait would be passed on after it.
        while True:
            with suppress(subprocess.TimeoutExpired):
                return process.wait(_SLICE_SECONDS)

    def _wait(self, seconds: float) -> None:
        """Sleep until the time is over or a signal arrives."""
        # In slices: a signal that arrives just before a long sleep would be noticed late.
        end = time.monotonic() + seconds
        while not self._end_signal and time.monotonic() < end:
            time.sleep(_SLICE_SECONDS)


def _adopt_orphans() -> None:
    """Make this process the parent of what a killed step leaves behind."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def _wait_for_orphans(status: int) -> int:
    """Wait for all children; return the status of the one that ended last, else the given one."""
    try:
        while True:
            _, wait_status = os.waitpid(-1, 0)
            status = _shell_status(os.waitstatus_to_exitcode(wait_status))
    except ChildProcessError:  # there is none left
        return status


def _shell_status(return_code: int) -> int:
    """Return an exit status as a shell says it; deaths by signal come as negative numbers."""
    return _SHELL_SIGNAL_BASE - return_code if return_code < 0 else return_code


def _kill_orphans(group: int) -> None:
    """End all that a finished try left running, and wait for it."""
    # A worker that outlives its step keeps device memory and ports that the next try needs.
    with suppress(ProcessLookupError):  # nothing is left of the group
        os.killpg(group, signal.SIGKILL)
    # Workers may be in groups of their own. Killing one can hand its children to this process.
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    while orphans := children.read_text().split():
        for orphan in orphans:
            os.kill(int(orphan), signal.SIGKILL)
            os.waitpid(int(orphan), 0)


def _described(status: int) -> str:
    number = status - _SHELL_SIGNAL_BASE
    if number in _DEATHS:
        reason = " (out of memory?)" if number == signal.SIGKILL else ""
        return f"{signal.Signals(number).name}{reason}"
    return f"status {status}"


def _stamper_for(command: Sequence[str]) -> LineStamper | None:
    """Return what gives a command's lines their form; None where they stay as they are.

    Raises UserError if RATCHET_LOG_FORMAT names no format.
    """
    default: LogFormat = "text" if sys.stderr.isatty() else "json"
    if format_from(os.environ, default) == "text":
        return None
    # KFP's executor gets the name of the component, which is that of the step.
    named = dict(itertools.pairwise(command))
    return LineStamper(LogSubject(step=named.get("--function_to_execute", "")))


def main() -> None:
    """Run the command that follows `--`."""
    parser = argparse.ArgumentParser(
        prog=f"python3 -m {MODULE}", description=__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "--hours", type=float, required=True, help="no try begins after them"
    )
    parser.add_argument(
        "--first-pause",
        type=float,
        default=FIRST_PAUSE_SECONDS,
        metavar="SECONDS",
        help="before the second try; pauses double",
    )
    parser.add_argument("command", nargs="+", help="after --")
    arguments = parser.parse_args()
    deadline = time.monotonic() + 3600 * arguments.hours
    rule = RetryRule(deadline, arguments.first_pause)
    try:
        stamper = _stamper_for(arguments.command)
        status = Supervisor(arguments.command, rule, stamper).run()
    except UserError as error:
        print(f"error (UserError): {error}", file=sys.stderr)
        status = error.exit_code
    except FileNotFoundError as error:
        print(f"error (UserError): {error.filename} does not exist", file=sys.stderr)
        status = UserError.exit_code
    raise SystemExit(status)


if __name__ == "__main__":
    main()
